"""All figures of the project. Neither importing this package nor drawing with it changes Matplotlib's settings.

- `style`: the colours and the look of all figures; `show` saves and displays one, `explore` lets a reader change it.
- `maps`: images, saliency maps and overlays, in rows and grids.
- `steps`: the steps by which UnionCAM, Fusion-CAM and other methods compute a map.
- `results`: charts that compare methods by their measured values.
- `trends`: curves of measured values against the share of pixels, theta, the shuffled layers or the channels.
"""

from unioncam_lab.figures.maps import (
    comparison,
    draw,
    explanation,
    filmstrip,
    gallery,
    overlay,
    row,
    saliency_bar,
    strip,
)
from unioncam_lab.figures.results import (
    against_diagonal,
    beside_paper,
    cost,
    differences,
    masses,
    means,
    options,
    ranks,
    scoreboard,
    scorecard,
    spread,
)
from unioncam_lab.figures.steps import (
    architecture,
    channel_weights,
    fusion_rule,
    fusion_steps,
    selection,
    two_choices,
    weight_shares,
)
from unioncam_lab.figures.style import COLOURS, SALIENCY, explore, show, styled
from unioncam_lab.figures.trends import (
    READINGS,
    curve_differences,
    curves,
    growth,
    paired_sweep,
    randomization,
    sweep,
)

__all__ = [
    "COLOURS",
    "READINGS",
    "SALIENCY",
    "against_diagonal",
    "architecture",
    "beside_paper",
    "channel_weights",
    "comparison",
    "cost",
    "curve_differences",
    "curves",
    "differences",
    "draw",
    "explanation",
    "explore",
    "filmstrip",
    "fusion_rule",
    "fusion_steps",
    "gallery",
    "growth",
    "masses",
    "means",
    "options",
    "overlay",
    "paired_sweep",
    "randomization",
    "ranks",
    "row",
    "saliency_bar",
    "scoreboard",
    "scorecard",
    "selection",
    "show",
    "spread",
    "strip",
    "styled",
    "sweep",
    "two_choices",
    "weight_shares",
]
