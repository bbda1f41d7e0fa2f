"""Verdicts on the claims of both papers, for notebook 17, and the numbers in the README, both from the records.

`render` writes the README's tables and sentences from data/records. The command is python -m unioncam_lab readme.

A claim is a sentence of a paper, with one measure that was chosen before anyone read the numbers. It has two verdicts.
The first is on the paper's setup (VGG16, ILSVRC2012 and VOC2007): nothing of it is in data/records, and the runs of
`paper.reproduce` decide it where they were made. The second is on our setups. By the same rule for both, a claim
holds, is contradicted, or cannot be distinguished. The rule is that of `tables`: a difference is clear if Holm's p is
below 0.01.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from unioncam_core import capture, pixel_weights
from unioncam_lab import ROOT, bench, tables
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.datasets import pictures, sample
from unioncam_lab.experiment import PAPER_METHODS
from unioncam_lab.methods import CONTROLS, find_title
from unioncam_lab.store import RECORDS, load, load_finished
from unioncam_lab.tables import alone, paired, standing, values

README, START = ROOT / "README.md", ROOT / "notebooks" / "00_start_here.ipynb"
HOLDS, OPEN, CONTRADICTED = "holds", "not distinguishable", "contradicted"
OF_STANDING = {"best": HOLDS, "not distinguishable": OPEN, "beaten": CONTRADICTED}

ILSVRC = "not run: needs VGG16 with ImageNet's weights and 2,000 images of ILSVRC2012's validation set"
VOC = "not run: needs VGG16 with ImageNet's weights and VOC2007's test set"
PROVED = "proved, for any network and picture"
# Name of the records -> network and pictures, as verdicts show them.
NETWORKS = {
    "imagenet_500": "EfficientNet-Lite0, ImageNet training photos",
    "region_maps": "EfficientNet-Lite0, ImageNet training photos",
    "truth/shapes": "shapes_vgg, drawn scenes",
    "truth/scenes": "EfficientNet-Lite0, composed scenes",
    "truth/mosaics": "EfficientNet-Lite0, mosaics of training photos",
    "truth/photos": "EfficientNet-Lite0, ImageNet training photos",
    "mri_vgg16": "VGG16's convolutions, brain MRI, bf16",
    "mri_vgg16_curves": "VGG16's convolutions, brain MRI, bf16",
    "several_objects/scenes": "EfficientNet-Lite0, composed scenes of two objects",
    "several_objects/mosaics": "EfficientNet-Lite0, mosaics of training photos",
    "theta_sweep": "EfficientNet-Lite0, ImageNet training photos",
    "theta_sweep_shapes": "shapes_vgg, drawn scenes",
    "theta_sweep_mri": "VGG16's convolutions, brain MRI, bf16",
}
# The same for the runs of the paper's experiment, by the names of their folders; see `paper.parts`.
PAPER_NETWORKS = {
    "ilsvrc2012": "VGG16, ILSVRC2012",
    "ablation": "VGG16, ILSVRC2012",
    "voc2007": "VGG16, VOC2007",
    "voc2007_boxes": "VGG16, VOC2007",
}


@dataclass(frozen=True)
class Finding:
    """The result for a claim on one set of records."""

    where: str  # network and pictures
    n: int  # number of pictures
    found: str  # the numbers, as a sentence
    verdict: str  # HOLDS, OPEN or CONTRADICTED


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        text: the claim in our words.
        source: its place in the paper.
        measure: the measure that decides it, chosen before the numbers were known.
        paper: the verdict on the paper's setup where nothing was run on it.
        findings: function that yields the results on our setups.
        on_paper: function that yields the results on the paper's setup from the folder of its runs; or, if these runs
            do not decide the claim, the verdict, which is `paper` if it is empty.
    """

    text: str
    source: str
    measure: str
    paper: str
    findings: Callable[[], Iterator[Finding]]
    on_paper: Callable[[Path], Iterator[Finding]] | str = ""


@cache
def records(name: str) -> pd.DataFrame:
    """Load the records in data/records/NAME, and add UnionCAM's region map as Score-CAM with probability weights.

    An absolute path is the folder of another run.
    """
    run = load(RECORDS / name).records
    has = set(run["method"])
    if "score_cam:weights=score" in has or "union_cam" not in has or "masked_probability" not in run:
        return run
    region = alone(run).query("method == 'region'").assign(method="score_cam:weights=score", selected=None)
    known = ["image", "label", "target", "class", "probability", "method", "masked_probability", "drop", "increase"]
    return pd.concat([run, region[known]], ignore_index=True)


@cache
def photos() -> pd.DataFrame:
    """Return the records of all methods on the photos on which each method was run with both region maps."""
    return tables.joined(records("region_maps"), records("imagenet_500"))


def both(weights: str) -> dict[str, str]:
    """Return the replacements, method of the table -> method of the records, with which all use the same region map."""
    if weights == "probability":
        return {"score_cam": "score_cam:weights=score"}
    return {"union_cam": "union_cam:region_weights=softmax"}


def network(name: str) -> str:
    """Return the network and pictures of a run, by the name of its records or by the path of its folder."""
    return NETWORKS.get(name) or PAPER_NETWORKS[Path(name).name]


def _n(found: pd.DataFrame) -> int:
    return found["image"].nunique()


def _points(row) -> str:
    return f"{row.difference:+.2f} points [{row.low:+.2f}, {row.high:+.2f}], p {tables.p_text(row.p_holm)}"


def best(
    name: str, quantity: str, own: dict[str, str] | None = None, found: pd.DataFrame | None = None, note: str = ""
) -> Finding:
    """Compare UnionCAM with the other methods of the paper's tables by one quantity.

    Args:
        name: name of the records.
        quantity: one of `tables.QUANTITIES`.
        own: method of the table -> method of the records that replaces it.
        found: the records, if they are not those of `name`.
        note: text after the name of the network and pictures.
    """
    found = records(name) if found is None else found
    own = own or {}
    methods = [own.get(method, method) for method in PAPER_METHODS]
    union = methods[-1]
    pairs = paired(found, quantity, union, methods)
    means = values(found, quantity)[methods].mean().sort_values(ascending=tables.QUANTITIES[quantity].better == "lower")
    beaten = [find_title(row.other) for row in pairs.itertuples() if row.clear and not row.better]
    order = " > ".join(f"{find_title(method)} {mean:.1f}" for method, mean in means.items())
    text = f"{tables.QUANTITIES[quantity].title.lower()} {order}"
    text += f"; clearly better than {int((pairs['better'] & pairs['clear']).sum())} of {len(pairs)}"
    text += f", beaten by {' and '.join(beaten)}" if beaten else ""
    return Finding(f"{network(name)}{note}", _n(found), text, OF_STANDING[standing(pairs)])


def versus(name: str, quantity: str, method: str, other: str, found: pd.DataFrame | None = None, note="") -> Finding:
    """Compare one method with one other; the claim is that the first one is better."""
    found = records(name) if found is None else found
    (row,) = paired(found, quantity, method, [other]).itertuples()
    text = f"{tables.QUANTITIES[quantity].title.lower()}, {title(method)} minus {title(other)}: {_points(row)}"
    same = values(found, quantity)[[method, other]].dropna()
    none = bool((same[method] == same[other]).all())
    verdict = CONTRADICTED if none else OPEN if not row.clear else HOLDS if row.better else CONTRADICTED
    return Finding(f"{network(name)}{note}", row.n, text + (", 0 on every picture" if none else ""), verdict)


def title(method: str) -> str:
    """Return the title of a method, or of one of UnionCAM's maps alone."""
    return tables.ALONE.get(method) or find_title(method)


# The claims ---------------------------------------------------------------------------------------------------------


def _table_1():
    yield best("imagenet_500", "drop", both("probability"), note="; both region maps weigh by probability")
    yield best("region_maps", "drop", both("softmax"), photos(), "; both region maps weigh by softmax")
    yield best("imagenet_500", "drop", note="; Score-CAM by softmax, UnionCAM by probability")
    yield best("truth/shapes", "drop", both("probability"), note="; both by probability")
    yield best("mri_vgg16", "drop", both("probability"), note="; both by probability")


def _table_1_increase():
    yield best("imagenet_500", "increase", both("probability"), note="; both by probability")
    yield best("region_maps", "increase", both("softmax"), photos(), "; both by softmax")
    yield best("truth/shapes", "increase", both("probability"), note="; both by probability")


def _table_2():
    for name in ("several_objects/scenes", "several_objects/mosaics"):
        yield best(name, "drop", both("probability"), note="; both by probability")


def _table_3(quantity: str):
    def findings():
        yield best("region_maps", quantity, both("probability"), photos(), "; both by probability")
        yield best("region_maps", quantity, both("softmax"), photos(), "; both by softmax")
        yield best("truth/shapes", quantity, both("probability"), note="; both by probability")
        yield best("mri_vgg16_curves", quantity)

    return findings


def _part(quantity: str, with_it: str, without: str):
    def findings():
        yield versus("imagenet_500", quantity, with_it, without)
        yield versus("theta_sweep_shapes", quantity, with_it, without)

    return findings


def _order_of_table_4(names: Sequence[str] = ("imagenet_500", "theta_sweep_shapes")):
    steps = ["union_cam:theta=0:weighted=False", "union_cam:weighted=False", "union_cam:theta=0", "union_cam"]
    for name in names:
        means = values(records(name), "drop minus increase")[steps].mean()
        listed = ", ".join(f"{tables.table_4_title(step)} {mean:.2f}" for step, mean in means.items())
        falls = bool(means.is_monotonic_decreasing and means.is_unique)
        yield Finding(network(name), _n(records(name)), f"drop − increase: {listed}", HOLDS if falls else CONTRADICTED)


def _theta(names: Sequence[str] = ("theta_sweep", "theta_sweep_shapes")):
    for name in names:
        frame = records(name)
        for reading in ("channel", "positive", "map"):
            here = [m for m in frame["method"].unique() if m.endswith(f"percentile_over={reading}")]
            ten = f"union_cam:theta=10:percentile_over={reading}"
            pairs = paired(frame, "drop minus increase", ten, here)
            ahead, behind = (pairs["clear"] & side for side in (pairs["better"], ~pairs["better"]))
            means = values(frame, "drop minus increase")[here].mean()
            text = f"θ as a percentile of the {WORDS[reading]}: "
            if means.max() - means.min() < 1e-9:
                text, verdict = text + "the same at every θ", CONTRADICTED
            else:
                text += f"θ = 10 is clearly better than {ahead.sum()} and clearly worse than {behind.sum()} of "
                text += f"{len(pairs)} other θ; lowest at θ = {means.idxmin().split('theta=')[1].split(':')[0]}"
                above = [int(other.split("theta=")[1].split(":")[0]) > 10 for other in pairs["other"]]
                sharp = bool((ahead | ~pd.Series(above)).all())
                verdict = HOLDS if sharp and not behind.any() else CONTRADICTED if behind.any() else OPEN
            yield Finding(network(name), _n(frame), text, verdict)


WORDS = {"channel": "channel's gradient", "positive": "channel's positive gradients", "map": "map's own pixels"}


def _union_alone(part: str):
    def findings():
        for name in ("imagenet_500", "truth/shapes", "mri_vgg16"):
            yield versus(name, "drop", "union", part, alone(records(name)))

    return findings


def _selection():
    for name in ("imagenet_500", "truth/shapes", "mri_vgg16"):
        frame = alone(records(name))
        kept = values_of(frame, "masked_probability")
        never = bool((kept["union_cam"] >= kept[["union", "region"]].max(axis=1) - 1e-6).all())
        (row,) = paired(frame, "drop", "union_cam", ["region"]).itertuples()
        union = frame[frame["method"] == "union_cam"]
        text = (
            f"the union is selected for {100 * (union['selected'] == 'united').mean():.0f} %; the selected map keeps "
        )
        text += f"at least as much probability as either on every picture; drop against the region map {_points(row)}"
        yield Finding(NETWORKS[name], _n(frame), text, HOLDS if never else CONTRADICTED)


def values_of(found: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of the records as a table: a row for each image, a column for each method."""
    return found.pivot(index="image", columns="method", values=column)


def _place(quantity: str, *names: str):
    def findings():
        for name in names:
            yield best(name, quantity)

    return findings


def _two_classes():
    name = "several_objects/scenes"
    frame = records(name)[lambda r: r["image"].str.startswith("two classes")]
    for method in ("union_cam", "score_cam", "grad_cam"):
        yield versus(name, "energy", method, "plain_sum", frame, "; two classes")


def _two_instances():
    name = "several_objects/scenes"
    frame = records(name)[lambda r: r["image"].str.startswith("two of a class")]
    yield best(name, "best_iou", found=frame, note="; two of a class")


def _noise():
    for name in ("truth/photos", "truth/shapes_retest"):
        frame = records(name)
        pairs = paired(frame, "complexity", "union_cam", ["group_cam", "score_cam"])
        text = "; ".join(f"complexity minus {find_title(row.other)}'s: {_points(row)}" for row in pairs.itertuples())
        yield Finding(NETWORKS.get(name, "shapes_vgg, drawn scenes"), _n(frame), text, OF_STANDING[standing(pairs)])


def _small_gradients():
    gradients = torch.zeros(2, 3, 3, dtype=torch.float64)
    gradients[0, 0, 0], gradients[1] = 1e-6, 1.0
    weights = pixel_weights(gradients)
    totals = weights.sum((1, 2)).tolist()
    text = (
        f"a channel with one gradient of 0.000001 and one with nine gradients of 1: total weights {totals[0]:.0f} and "
    )
    text += (
        f"{totals[1]:.0f}; the single position weighs {float(weights[0].max() / weights[1].max()):.0f} times as much"
    )
    yield Finding(PROVED, 2, text, CONTRADICTED)


def _low_gradients():
    """Compute the finding on 100 drawn scenes, because no records hold gradients. The capture takes a second."""
    classifier = load_classifier("shapes_vgg", "cpu")
    scenes = [picture.scene(classifier.input_size) for picture in sample(pictures("shapes"), 100, 0)]
    images, layer = torch.stack([scene.image for scene in scenes]), classifier.target_layer
    rows = {}
    for i, (scene, evidence) in enumerate(zip(scenes, capture(classifier, images, target_layer=layer), strict=True)):
        truth = scene.truth(classifier.classes[evidence.target])
        if truth.any():
            size = evidence.gradients.abs().mean(0)
            outside = F.adaptive_avg_pool2d((~truth)[None].float(), size.shape)[0].flatten()
            lowest = size.flatten().argsort(stable=True)[: size.numel() // 10]
            rows[i] = {"lowest": 100 * float(outside[lowest].mean()), "all": 100 * float(outside.mean())}
    table = pd.DataFrame.from_dict(rows, "index")
    (row,) = tables.compared(table, "lowest", ["all"]).itertuples()
    text = f"{table['lowest'].mean():.0f} % of the tenth with the smallest gradients lies outside the object, "
    text += f"and {table['all'].mean():.0f} % of all positions: {_points(row)}"
    verdict = OPEN if not row.clear else HOLDS if row.better else CONTRADICTED
    yield Finding(NETWORKS["truth/shapes"], row.n, text, verdict)


def _fusion(quantity: str):
    def findings(name: str = "region_maps", frame: pd.DataFrame | None = None):
        frame = photos() if frame is None else frame
        others = [both("softmax").get(method, method) for method in PAPER_METHODS]
        pairs = paired(frame, quantity, "fusion_cam", others)
        beaten = [find_title(row.other) for row in pairs.itertuples() if row.clear and not row.better]
        text = f"clearly better than {int((pairs['better'] & pairs['clear']).sum())} of {len(pairs)}"
        text += f", beaten by {' and '.join(beaten)}" if beaten else ""
        text = f"{tables.QUANTITIES[quantity].title.lower()}: {text}"
        where = f"{network(name)}; all region maps weigh by softmax"
        yield Finding(where, _n(frame), text, OF_STANDING[standing(pairs)])

    return findings


def _fusion_and_union():
    name, frame = "region_maps", photos()
    yield versus(name, "drop", "fusion_cam", "union_cam:region_weights=softmax", frame, "; both by softmax")
    yield versus(name, "drop", "fusion_cam:region_weights=score", "union_cam", frame, "; both by probability")
    yield versus(name, "drop", "fusion_cam", "union_cam", frame, "; unlike region maps")
    shapes = records("truth/shapes")
    softmax = "union_cam:region_weights=softmax"
    yield versus("truth/shapes", "drop", "fusion_cam", softmax, shapes, "; both by softmax")


def _nothing():
    return iter(())


# The same claims on the paper's setup, from the folder of its runs ---------------------------------------------------


def _run(folder: Path, name: str) -> str:
    """Return the path of a finished run of the paper's experiment.

    Raises:
        _NotRun: there is none, it is not finished, or all its pictures were skipped.
    """
    path = folder.resolve() / name
    if load_finished(path) is None:
        raise _NotRun(VOC if name.startswith("voc2007") else ILSVRC)
    return str(path)


class _NotRun(Exception):
    """The verdict on the paper's setup where the run that decides was not made."""


def _paper_table(run: str, quantity: str):
    def findings(folder: Path):
        name = _run(folder, run)
        for weights in ("probability", "softmax"):
            yield best(name, quantity, both(weights), note=f"; both by {weights}")
        yield best(name, quantity, note="; Score-CAM by softmax, UnionCAM by probability")

    return findings


def _paper_part(quantity: str, without: str):
    return lambda folder: iter([versus(_run(folder, "ablation"), quantity, "union_cam", without)])


def _paper_union(part: str):
    def findings(folder: Path):
        name = _run(folder, "ilsvrc2012")
        yield versus(name, "drop", "union", part, alone(records(name)))

    return findings


def _paper_theta(folder: Path):
    for word, finding in zip(WORDS.values(), _theta([_run(folder, "ablation")]), strict=True):
        yield replace(finding, where=f"{finding.where}; θ of the {word}")


def _paper_place(quantity: str):
    return lambda folder: iter([best(_run(folder, "voc2007_boxes"), quantity)])


def _paper_fusion(quantity: str):
    def findings(folder: Path):
        name = _run(folder, "ilsvrc2012")
        return _fusion(quantity)(name, records(name))

    return findings


def _paper_fusion_and_union(folder: Path):
    name = _run(folder, "ilsvrc2012")
    yield versus(name, "drop", "fusion_cam", "union_cam:region_weights=softmax", note="; both by softmax")
    yield versus(name, "drop", "fusion_cam:region_weights=score", "union_cam", note="; both by probability")
    yield versus(name, "drop", "fusion_cam", "union_cam", note="; unlike region maps")


def _paper_fusion_theta(folder: Path):
    name = _run(folder, "ablation")
    swept = [method for method in records(name)["method"].unique() if method.startswith("fusion_cam:theta=")]
    best_two = ["fusion_cam:theta=10", "fusion_cam:theta=20"]
    others = [method for method in swept if method not in best_two]
    pairs = tables.couples(records(name), "drop", [(method, other) for method in best_two for other in others])
    ahead, behind = (int((pairs["clear"] & side).sum()) for side in (pairs["better"], ~pairs["better"]))
    means = values(records(name), "drop")[swept].mean()
    text = f"θ = 10 and 20 are clearly better in {ahead} and clearly worse in {behind} of {len(pairs)} comparisons; "
    text += f"lowest drop at θ = {means.idxmin().split('theta=')[1]}"
    yield Finding(network(name), _n(records(name)), text, OF_STANDING[standing(pairs)])


ONE_PICTURE = "not run: needs the paper's own picture, which it does not name"


CLAIMS = (
    Claim(
        "lowest average drop",
        "abstract, Table 1",
        "drop against the four others",
        ILSVRC,
        _table_1,
        _paper_table("ilsvrc2012", "drop"),
    ),
    Claim(
        "highest average increase",
        "Table 1",
        "increase against the four others",
        ILSVRC,
        _table_1_increase,
        _paper_table("ilsvrc2012", "increase"),
    ),
    Claim(
        "lowest average drop on pictures with several objects",
        "Table 2",
        "drop against the four others",
        VOC,
        _table_2,
        _paper_table("voc2007", "drop"),
    ),
    Claim(
        "best insertion",
        "abstract, Table 3",
        "insertion against the four others",
        ILSVRC,
        _table_3("insertion"),
        _paper_table("ilsvrc2012", "insertion"),
    ),
    Claim(
        "best deletion",
        "abstract, § 5",
        "deletion against the four others",
        ILSVRC,
        _table_3("deletion"),
        _paper_table("ilsvrc2012", "deletion"),
    ),
    Claim(
        "best insertion − deletion",
        "Table 3",
        "overall against the four others",
        ILSVRC,
        _table_3("overall"),
        _paper_table("ilsvrc2012", "overall"),
    ),
    Claim(
        "denoising lowers the drop",
        "Table 4",
        "drop with minus without",
        ILSVRC,
        _part("drop", "union_cam", "union_cam:theta=0"),
        _paper_part("drop", "union_cam:theta=0"),
    ),
    Claim(
        "weighting lowers the drop",
        "Table 4",
        "drop with minus without",
        ILSVRC,
        _part("drop", "union_cam", "union_cam:weighted=False"),
        _paper_part("drop", "union_cam:weighted=False"),
    ),
    Claim(
        "denoising raises the increase",
        "§ 4.4",
        "increase with minus without",
        ILSVRC,
        _part("increase", "union_cam", "union_cam:theta=0"),
        _paper_part("increase", "union_cam:theta=0"),
    ),
    Claim(
        "weighting raises the increase",
        "§ 4.4",
        "increase with minus without",
        ILSVRC,
        _part("increase", "union_cam", "union_cam:weighted=False"),
        _paper_part("increase", "union_cam:weighted=False"),
    ),
    Claim(
        "each part lowers drop − increase",
        "Table 4",
        "the order of four means",
        ILSVRC,
        _order_of_table_4,
        lambda folder: _order_of_table_4([_run(folder, "ablation")]),
    ),
    Claim(
        "θ = 10 is best, sharply worse above",
        "Figure 8",
        "drop − increase, θ = 10 against every θ",
        ILSVRC,
        _theta,
        _paper_theta,
    ),
    Claim(
        "the union is better than the region map",
        "§ 3.2",
        "drop, each map alone",
        ILSVRC,
        _union_alone("region"),
        _paper_union("region"),
    ),
    Claim(
        "the union is better than the denoised map",
        "§ 3.2",
        "drop, each map alone",
        ILSVRC,
        _union_alone("denoised"),
        _paper_union("denoised"),
    ),
    Claim(
        "the selection takes the better map", "§§ 1, 3.3", "probability that the selected map keeps", PROVED, _selection
    ),
    Claim(
        "tells two classes apart",
        "Figure 6",
        "mass on the object against the plain sum, which knows no class",
        ILSVRC,
        _two_classes,
        ONE_PICTURE,
    ),
    Claim(
        "finds both of two objects, unlike others",
        "Figure 7",
        "best IoU with both masks",
        ILSVRC,
        _two_instances,
        ONE_PICTURE,
    ),
    Claim(
        "locates objects more accurately",
        "§ 4.3",
        "mass on the object against the four others",
        ILSVRC,
        _place("energy", "truth/scenes", "truth/mosaics", "truth/shapes"),
        _paper_place("energy"),
    ),
    Claim(
        "captures complete object regions",
        "abstract",
        "IoU at 0.5 against the four others",
        ILSVRC,
        _place("iou", "truth/scenes", "truth/shapes"),
        _paper_place("iou"),
    ),
    Claim(
        "less noise than Group-CAM and Score-CAM",
        "abstract, § 4.3",
        "complexity, the mean of the map",
        ILSVRC,
        _noise,
        "not run: needs a run with the metric adcc, which holds the complexity",
    ),
    Claim(
        "Eq. 3 avoids large weights in small areas", "§ 3.1", "the total weight of a channel", PROVED, _small_gradients
    ),
    Claim(
        "small gradients are background",
        "§ 3.1",
        "where the smallest tenth lies, against all positions",
        ILSVRC,
        _low_gradients,
        "not run: needs the gradients, which no record holds",
    ),
    Claim("1.16 s and 2.22 GB an image", "§ 4.2", "seconds and memory", "not run: needs an NVIDIA RTX A6000", _nothing),
    Claim(
        "its limit is overlapping objects",
        "§ 5",
        "drop on overlapping objects",
        "not run: no scene here has overlapping objects",
        _nothing,
    ),
    Claim(
        "Fusion-CAM outperforms existing methods",
        "Fusion-CAM's abstract",
        "drop against the five others",
        ILSVRC,
        _fusion("drop"),
        _paper_fusion("drop"),
    ),
    Claim(
        "Fusion-CAM has the best insertion",
        "Fusion-CAM's abstract",
        "insertion against the five others",
        ILSVRC,
        _fusion("insertion"),
        _paper_fusion("insertion"),
    ),
    Claim(
        "Fusion-CAM has the best deletion",
        "Fusion-CAM's abstract",
        "deletion against the five others",
        ILSVRC,
        _fusion("deletion"),
        _paper_fusion("deletion"),
    ),
    Claim(
        "Fusion-CAM outperforms UnionCAM",
        "Fusion-CAM's abstract",
        "drop on the same region map",
        ILSVRC,
        _fusion_and_union,
        _paper_fusion_and_union,
    ),
    Claim(
        "Fusion-CAM is best at θ = 10 to 20",
        "Fusion-CAM",
        "drop against every θ",
        "not run: no sweep of Fusion-CAM's θ is recorded",
        _nothing,
        _paper_fusion_theta,
    ),
)


def on_paper(folder: str | Path) -> pd.DataFrame:
    """Return a row for each finding on the paper's setup, from the finished runs of `paper.reproduce` in a folder.

    Its columns are the claim's number in `no.`, `claim`, `network and pictures`, `N`, `found` and `verdict`.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    rows = []
    for number, claim in enumerate(CLAIMS, 1):
        for found in _on_paper(claim, _folder(folder))[1]:
            rows.append((number, claim.text, found.where, found.n, found.found, found.verdict))
    return pd.DataFrame(rows, columns=["no.", "claim", "network and pictures", "N", "found", "verdict"])


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise NotADirectoryError(f"There is no folder {path}; it is the one that `make paper` fills.")
    return Path(path)


def _on_paper(claim: Claim, folder: Path) -> tuple[str, list[Finding]]:
    """Return the verdict on the paper's setup, and the results that decide it; none if nothing was run."""
    if isinstance(claim.on_paper, str):
        return claim.on_paper or claim.paper, []
    try:
        found = list(claim.on_paper(folder))
    except _NotRun as verdict:
        return str(verdict), []
    return " · ".join(f"{each.verdict} ({each.where}, N = {each.n:,})" for each in found), found


def verdicts(paper: str | Path | None = None) -> pd.DataFrame:
    """Return a row for each finding: the claim, its measure, the result, and the two verdicts at `tables.LEVEL`.

    Args:
        paper: folder of the paper's experiment, as `paper.reproduce` makes it. The finished runs in it decide the
            verdicts on the paper's setup. Without it, and for a claim whose run is not there, the verdict says what is
            needed.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    rows = []
    for number, claim in enumerate(CLAIMS, 1):
        on_the_papers = claim.paper if paper is None else _on_paper(claim, _folder(paper))[0]
        for finding in list(claim.findings()) or [Finding("", 0, "", "not run")]:
            rows.append(
                {
                    "no.": number,
                    "claim": claim.text,
                    "source": claim.source,
                    "measure": claim.measure,
                    "on the paper's setup": on_the_papers,
                    "network and pictures": finding.where,
                    "N": finding.n or "",
                    "found": finding.found,
                    "on ours": finding.verdict,
                }
            )
    return pd.DataFrame(rows)


# The README ---------------------------------------------------------------------------------------------------------


def _markdown(found: pd.DataFrame) -> str:
    lines = [f"| | {' | '.join(found.columns)} |", "|---" + "|---:" * found.shape[1] + "|"]
    rows = [f"| {name} | {' | '.join(map(str, row))} |" for name, *row in found.itertuples()]
    return "\n".join(lines + rows).replace("nan [nan, nan]", "–")


def _table(found: pd.DataFrame, methods: list[str], quantities: list[str]) -> str:
    shown = found[found["method"].isin(methods)]
    wide = tables.wide(tables.summary(shown, quantities))
    return _markdown(wide.loc[[find_title(method) for method in methods if method in set(shown["method"])]])


def _difference(found: pd.DataFrame, quantity: str, method: str, other: str) -> str:
    (row,) = paired(found, quantity, method, [other]).itertuples()
    return f"{row.difference:+.2f} points [{row.low:+.2f}, {row.high:+.2f}]"


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def readme_comparison() -> str:
    """Return the README's section about Table 1 and the region map that decides it."""
    frame, pictures = records("imagenet_500"), photos()
    like, softmax = "score_cam:weights=score", "union_cam:region_weights=softmax"
    kept, n = values_of(frame, "masked_probability"), _n(frame)
    never = int((kept["union_cam"] >= kept[like] - 1e-5).sum())
    kept, m = values_of(pictures, "masked_probability"), _n(pictures)
    again = int((kept[softmax] >= kept["score_cam"] - 1e-5).sum())
    right = 100 * tables.named_rightly(frame).mean()
    fake = values(frame, "drop")["fake_cam"].mean()
    text = f"""Two forms of Score-CAM are in use. Its channels are weighted by the softmax of their logits (in its
        paper, and in the libraries) or by their probability (in its authors' code). UnionCAM's region map is
        Score-CAM with the second. Equation 8 then selects the better of this map and another one, by the
        probability from which average drop is computed. So **with the same weights in both, UnionCAM's drop is
        never larger than Score-CAM's, and its increase never smaller, on any picture, by construction**
        ([proof](notebooks/04_selection.ipynb)). With EfficientNet-Lite0 the probability that UnionCAM
        keeps is at least Score-CAM's on {never} of {n} photos; with softmax in both, on {again} of {m}."""
    other = f"""The libraries' Score-CAM has a drop that is smaller than UnionCAM's on these photos: UnionCAM minus
        Score-CAM is {_difference(frame, "drop", "union_cam", "score_cam")}. With the same weights in both it is
        {_difference(frame, "drop", "union_cam", like)}. So whether UnionCAM has a smaller drop than Score-CAM in a
        table depends on the Score-CAM in it, and the paper's Tables 1 and 2 do not say which one they have. Fake-CAM,
        a map that explains nothing, has a drop of {fake:.1f} %: a low drop alone proves nothing."""
    three = tables.wide(tables.summary(pictures, ["drop"])).iloc[:, 0]
    three = ", ".join(f"{find_title(name)} {three[find_title(name)]}" for name in ("score_cam", softmax, "fusion_cam"))
    fusion = f"""With softmax in all three, N = {m}, the average drop in % is {three}. Fusion-CAM minus UnionCAM is
        {_difference(pictures, "drop", "fusion_cam", "union_cam")} of drop with unlike region maps, and
        {_difference(pictures, "drop", "fusion_cam", softmax)} with the same one. Means are in percent, with 95 %
        intervals. The photos are *training* images of ImageNet, one of each of {n} classes; the network names
        {right:.0f} % of them as they are labelled ([records](data/records/imagenet_500/run.json))."""
    shown = [*PAPER_METHODS[:-1], like, "union_cam", "fusion_cam", "fake_cam"]
    parts = [_paragraph(text), _table(frame, shown, ["drop", "increase", "insertion", "deletion"]), _paragraph(other)]
    return "\n\n".join([*parts, _paragraph(fusion)])


def readme_truth() -> str:
    """Return the README's section about the drawn scenes."""
    frame = records("truth/shapes")
    union = frame[frame["method"] == "union_cam"]
    turned = (union["beta_denoising"] + union["beta_region"] < 0) & (union["selected"] == "united")
    two = int(((union["beta_denoising"] < 0) & (union["beta_region"] < 0) & turned).sum())
    pairs = paired(frame, "drop", "union_cam", [*PAPER_METHODS[:-1], "score_cam:weights=score"])
    place = paired(frame, "energy", "union_cam", ["grad_cam", "grad_cam_plus_plus", "score_cam"])
    drop = {
        "best": "the lowest average drop of the paper's five methods, clearly",
        "beaten": "not the lowest average drop of the paper's five methods",
        "not distinguishable": "an average drop that cannot be told from the lowest",
    }[standing(pairs)]
    mass = "clearly less mass on the object than Grad-CAM, Grad-CAM++ and Score-CAM"
    if not (place["clear"] & ~place["better"]).all():
        mass = "about as much mass on the object as the others"
    text = f"""On this network UnionCAM has {drop}, and {mass}. One reason can be seen: in {int(turned.sum())} of the
        scenes **its map is inside out**. There the two contributions are negative in sum (both in {two} scenes,
        one of them in {int(turned.sum()) - two}), Equation 6 inverts the sum, the map shows everything but the
        object, the class survives, and Equation 8 selects it. Average drop rewards that; a mask does not."""
    drops = values(frame, "drop").mean()
    lower = [f"{find_title(name)} ({drops[name]:.1f} %)" for name in CONTROLS if drops[name] < drops["union_cam"]]
    text += f""" Maps that know nothing of the class have a smaller average drop than UnionCAM here:
        {", ".join(lower) or "none of the controls"}."""
    shown = [*PAPER_METHODS[:-1], "score_cam:weights=score", "union_cam", "fusion_cam", *CONTROLS]
    table = _table(frame, shown, ["drop", "energy", "best_iou"])
    return "\n\n".join([f"On {_n(frame)} of them:", table, _paragraph(text)])


def readme_verdicts() -> str:
    """Return the README's sentences about the number of claims that hold."""
    rows = verdicts()
    of_claim = rows.groupby("no.")["on ours"].agg(set)
    ours = of_claim[of_claim.map(lambda results: results != {"not run"})]
    holds, against = (int(ours.map(lambda results, v=v: results == {v}).sum()) for v in (HOLDS, CONTRADICTED))
    return _paragraph(
        f"""{len(of_claim)} claims of the two papers can be tested. On their own setup, VGG16 with ILSVRC2012
        and VOC2007, none of them was run here: those weights and pictures cannot come with the project, and one
        command runs it where they are. On our networks and pictures {len(ours)} claims were tried: {holds} hold
        wherever they were tried, {against} are contradicted wherever they were tried, and the others depend on
        the network or cannot be decided by these pictures."""
    )


def readme_costs() -> str:
    """Return the README's table of the cost of an explanation, with columns for each machine that measured it."""
    text = (
        "One explanation by EfficientNet-Lite0, 1280×7×7, 224², on two machines without a GPU (on yours: `make bench`):"
    )
    columns = {}
    for letter, record in zip("AB", ("cost_cpu", "cost_cpu_avx2"), strict=True):
        costs, machine = bench.read(RECORDS / f"{record}.json")
        text += f""" {letter} has {machine["cores"]} cores of a processor that calls itself
            "{machine["processor"]}" ([record](data/records/{record}.json))."""
        for column, heading in {"then, s": "seconds", "times faster": "times faster", "memory, MiB": "MiB"}.items():
            columns[f"{letter}: {heading}"] = bench.table(costs)[column]
    return "\n\n".join([_paragraph(text), _markdown(pd.DataFrame(columns).rename_axis(""))])


# Notebook -> what it shows, and the part of the paper that it is about.
SHOWN = {
    "00": ("a photo explained with two maps, two tests of the maps, and the way through the notebooks", ""),
    "01": ("how CAM, Grad-CAM, Grad-CAM++, Score-CAM and Group-CAM weigh feature maps", "§ 2"),
    "02": ("which gradients count, and when the default θ = 10 changes nothing", "Eqs. 1–3"),
    "03": ("one masked image for each channel, and how two maps are united", "Eqs. 4–6, Fig. 1"),
    "04": ("how a map is selected; the complete algorithm; right and wrong answers", "Eqs. 7–8, Fig. 2, Algorithm 1"),
    "05": ("the larger value where two maps agree, and their mean where they disagree", "Fusion-CAM"),
    "06": ("average drop, insertion, deletion, and how a map that explains nothing can win", "§ 4.2, Fig. 4"),
    "07": ("average drop and average increase on ILSVRC2012", "Table 1"),
    "08": ("the same measures on VOC2007, whose pictures show several objects", "Table 2"),
    "09": ("insertion and deletion, with their curves", "Table 3"),
    "10": ("UnionCAM without each of its parts; every θ, under three readings of Eq. 1", "Table 4, Fig. 8"),
    "11": ("maps side by side; two classes in one picture; two objects of one class", "Figs. 3, 5–7"),
    "12": ("is Fusion-CAM better than UnionCAM?", "Fusion-CAM's experiment"),
    "13": ("is a map on the object, does it depend on the weights, is it stable? A scorecard of all methods", ""),
    "14": ("VGG16's convolutions, with another head, on brain MRI", ""),
    "15": ("every step of both methods, live, on a picture of yours; a brush that tests a map", "Algorithm 1"),
    "16": ("seconds and memory, beside two libraries; how they grow; half precision", "§ 4.2"),
    "17": ("each claim of both papers with two verdicts, on the paper's setup and on ours", "all"),
    "18": ("one cell for each kind of network: one logit, several labels, grey images, a transformer, timm", ""),
    "19": ("time, price and disk space of 50,000 pictures; two workers, one of which is killed", "§ 4.2"),
}
# Ways through the notebooks that take longer than half an hour.
WAYS = {
    "The method": ("00", "01", "02", "03", "04", "05", "06"),
    "Your own network": ("00", "18", "16"),
    "Everything": None,
}


@dataclass(frozen=True)
class Chapter:
    """A notebook, as an index shows it."""

    file: str
    name: str  # its number and what its title says before the colon
    reading: int  # minutes
    seconds: float  # that it was last measured to take
    alone: bool  # nothing runs beside it

    @property
    def number(self) -> str:
        return self.file[:2]


def chapters() -> list[Chapter]:
    """Read the heading of each notebook."""
    found = []
    for path in sorted(START.parent.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        header = "".join(notebook["cells"][0]["source"])
        title = header.partition("\n")[0].removeprefix("# ").partition(":")[0]
        reading = re.search(r"(\d+) minutes to read", header)
        ours = notebook["metadata"]["unioncam"]
        minutes = int(reading[1]) if reading else 0
        found.append(Chapter(path.name, f"{path.stem[:2]} {title}", minutes, ours["seconds"], ours.get("alone", False)))
    return found


def notebooks(folder: str = "") -> str:
    """Return the index of the notebooks, and ways through them. The links start in `folder`, as "notebooks/"."""
    every = chapters()
    lines = ["| notebook | what it shows | of the paper | minutes to read |", "|---|---|---|---:|"]
    for chapter in every:
        text, part = SHOWN[chapter.number]
        lines.append(f"| [{chapter.name}]({folder}{chapter.file}) | {text} | {part} | {chapter.reading} |")
    ways = ["| way | notebooks | to read |", "|---|---|---:|"]
    ways.append("| A first look | 00, then the figures and summaries of 04 and 06 | half an hour |")
    for way, numbers in WAYS.items():
        minutes = sum(chapter.reading for chapter in every if numbers is None or chapter.number in numbers)
        ways.append(f"| {way} | {', '.join(numbers) if numbers else 'all'} | {_duration(minutes)} |")
    return "\n".join([*lines, "", *ways])


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{10 * max(1, round(minutes / 10))} minutes"
    return f"{round(minutes / 30) / 2:g} hours"


def readme_demo() -> str:
    """Return the README's sentences about how long `make demo` takes, from the seconds that the notebooks hold."""
    every = chapters()
    beside = sum(chapter.seconds for chapter in every if not chapter.alone)
    alone = sum(chapter.seconds for chapter in every if chapter.alone)
    numbers = " and ".join(chapter.number for chapter in every if chapter.alone)
    last = "Notebooks {} measure seconds, so they run" if " " in numbers else "Notebook {} measures seconds, so it runs"
    return _paragraph(
        f"""`make demo` runs as many notebooks at a time as there are cores. `build/index.html` is there at once: it
        says what runs, what waits and when all will be there. Each page can be read as soon as its notebook has run,
        that of notebook 00 first. {last.format(numbers)} last and alone. On 2 cores with AVX2, notebook
        00 took {every[0].seconds:.0f} seconds, and all of them together about
        {(beside / 2 + alone) / 60:.0f} minutes."""
    )


BLOCKS = {
    "costs": readme_costs,
    "comparison": readme_comparison,
    "truth": readme_truth,
    "verdicts": readme_verdicts,
    "notebooks": lambda: notebooks("notebooks/"),
    "demo": readme_demo,
}


def render(text: str, blocks: dict[str, Callable[[], str]] = BLOCKS) -> str:
    """Return a page in which the text between <!-- NAME --> and <!-- /NAME --> is new, for each of the blocks.

    Raises:
        ValueError: a pair of these marks is missing, or occurs more than once.
    """
    for name, write in blocks.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.S)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"The page must have <!-- {name} --> and <!-- /{name} --> once.")
        text = pattern.sub(lambda match, write=write: match[1] + write() + match[2], text)
    return text


def write_start(path: Path = START):
    """Write the index of the notebooks into notebook 00 anew."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if "<!-- notebooks -->" in text:
            cell["source"] = render(text, {"notebooks": notebooks}).splitlines(keepends=True)
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
