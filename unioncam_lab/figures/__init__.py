"""All figures of the project. Neither importing this package nor drawing with it changes Matplotlib's settings.

- `style`: the colours and the look of all figures; `show` saves and displays one, `explore` lets a reader change it.
- `maps`: images, saliency maps and overlays, in rows and grids.
- `channels`: feature maps, the weights that methods give to them, and their weighted sum.
- `fusion`: how Fusion-CAM computes its map, and where it differs from UnionCAM.
- `gradients`: what denoising does to a channel's gradient and to a map.
- `union`: the paper's Figures 1 and 2.
- `results`: charts that compare methods by their measured values.
- `trends`: curves of measured values against the share of pixels, theta, the shuffled layers or the channels.
"""

from unioncam_lab.figures.channels import (
    channel_responses,
    channel_weights,
    masking,
    network_schematic,
    weighted_sum,
)
from unioncam_lab.figures.fusion import fusion_rule, fusion_steps, two_choices
from unioncam_lab.figures.gradients import denoised_channel, denoising, map_differences, worked_example
from unioncam_lab.figures.maps import (
    comparison,
    draw,
    filmstrip,
    gallery,
    overlay,
    panels,
    row,
    saliency_bar,
    strip,
)
from unioncam_lab.figures.results import (
    against_diagonal,
    beside_paper,
    by_picture,
    cost,
    differences,
    duration,
    durations,
    masses,
    means,
    options,
    parts,
    ranks,
    scoreboard,
    scorecard,
    spread,
)
from unioncam_lab.figures.style import COLOURS, explore, show, styled
from unioncam_lab.figures.trends import (
    READINGS,
    curve_differences,
    curves,
    film,
    growth,
    map_changes,
    paired_sweep,
    randomization,
    sample_curves,
    sweep,
)
from unioncam_lab.figures.union import architecture, selection

__all__ = [
    "COLOURS",
    "READINGS",
    "against_diagonal",
    "architecture",
    "beside_paper",
    "by_picture",
    "channel_responses",
    "channel_weights",
    "comparison",
    "cost",
    "curve_differences",
    "curves",
    "denoised_channel",
    "denoising",
    "differences",
    "draw",
    "duration",
    "durations",
    "explore",
    "film",
    "filmstrip",
    "fusion_rule",
    "fusion_steps",
    "gallery",
    "growth",
    "map_changes",
    "map_differences",
    "masking",
    "masses",
    "means",
    "network_schematic",
    "options",
    "overlay",
    "paired_sweep",
    "panels",
    "parts",
    "randomization",
    "ranks",
    "row",
    "saliency_bar",
    "sample_curves",
    "scoreboard",
    "scorecard",
    "selection",
    "show",
    "spread",
    "strip",
    "styled",
    "sweep",
    "two_choices",
    "weighted_sum",
    "worked_example",
]
