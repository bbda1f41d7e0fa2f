"""How faithful a map is to the network: average drop and increase, insertion and deletion.

    drop, increase           from the class probability of an image and of what a map leaves of it
    perturbation             the images of an insertion or deletion curve
    auc                      the area under such a curve
    evaluate                 all of them for several maps of one image, in one stream through the network

None of them knows where the object is: they ask the network alone, and can be fooled (baselines.fake_cam).
Probabilities are softmax probabilities whatever the Protocol's class_score is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unioncam_core import Evidence
from unioncam_lab.images import blur

Metric = Literal["drop", "increase", "insertion", "deletion"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CURVES = ("insertion", "deletion")
ROWS_A_STEP = 8  # pixels change 8 rows' worth at a time: 224 * 8 in Group-CAM's table, 28 steps


def drop(before: float, after: float) -> float:
    """Of the probability of an image, how many percent are lost when it is masked by its map: 100 max(0, y - o) / y.

    The mean over images is the average drop (UnionCAM's § 4.2; Chattopadhay et al. 2018).
    """
    return 100 * max(0.0, before - after) / before if before > 0 else 0.0


def increase(before: float, after: float) -> bool:
    """Whether masking made the class more probable. The share of such images, in percent, is the average increase."""
    return before < after


def auc(curve: Sequence[float]) -> float:
    """The area under a curve over [0, 1] by the trapezoid rule, normalized by its number of steps."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def ranks(cam: Tensor) -> Tensor:
    """The place of each pixel (H, W) by falling saliency, from 0; of equal pixels, in the order of reading."""
    order = cam.flatten().argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view_as(cam)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The images of one curve: at i, the i * step most salient pixels are of `shown`, the others of `hidden`."""

    ranks: Tensor  # (H, W)
    shown: Tensor  # (3, H, W)
    hidden: Tensor  # (3, H, W)
    step: int  # pixels

    def __len__(self) -> int:
        """One more than there are steps."""
        return -(-self.ranks.numel() // self.step) + 1

    def __getitem__(self, i: int) -> Tensor:
        if not 0 <= i < len(self):
            raise IndexError(f"There is no image {i}; there are {len(self)}.")
        return torch.where(self.ranks < i * self.step, self.shown, self.hidden)


def perturbation(
    evidence: Evidence, cam: Tensor, metric: Literal["insertion", "deletion"], step: int | None = None
) -> Perturbation:
    """What the network is shown for an insertion or a deletion curve (Petsiuk et al. 2018; Group-CAM's protocol).

    Insertion begins with the blurred image (51 pixels, sigma 50) and puts in the most salient pixels first; deletion
    begins with the image and sets them to 0, or to what the Protocol's masks show.

    Args:
        evidence: of the image and class.
        cam: (H, W), any range; only its order counts.
        metric: which of the two.
        step: pixels that change at a time; 8 rows' worth by default.
    """
    image = evidence.image
    if metric == "insertion":
        shown, hidden = image, blur(image)
    else:
        shown, hidden = evidence.masked(torch.zeros_like(image[:1]))[0], image
    return Perturbation(ranks(cam.to(image.device)), shown, hidden, step or ROWS_A_STEP * image.shape[2])


@torch.no_grad()
def evaluate(
    evidence: Evidence, cams: Sequence[Tensor], metrics: Sequence[Metric] = METRICS, step: int | None = None
) -> list[dict]:
    """Each map (H, W) of an image by each metric, all in one stream through the network.

    Equal maps are scored once, and so are the images that all curves begin or end with.

    Returns:
        For each map a dictionary: `probability` of the image and, as far as asked for, `masked_probability`, `drop` in
        percent, `increase` true or false, `insertion` and `deletion` (area under the curve in percent), and
        `insertion_curve`, `deletion_curve` (a probability for each step).
    """
    check_metrics(metrics)
    size = evidence.image.shape[1:]
    for cam in cams:
        if cam.shape != size:
            raise ValueError(f"A map is {list(cam.shape)}; it must have the image's size {list(size)}.")
        if bad := int((~cam.isfinite()).sum()):
            raise ValueError(f"A map is NaN or infinite at {bad} pixels; it must be finite.")
    distinct: list[Tensor] = []
    own = []  # for each map, which of the distinct ones it is
    for cam in (cam.to(evidence.image.device) for cam in cams):
        own.append(next((i for i, other in enumerate(distinct) if torch.equal(cam, other)), len(distinct)))
        distinct += [cam] if own[-1] == len(distinct) else []

    images: list[Callable[[], Tensor]] = [lambda: evidence.image]

    def ask(image: Callable[[], Tensor]) -> int:
        images.append(image)
        return len(images) - 1

    asked: list[dict[str, list[int]]] = [{} for _ in distinct]  # for each map, which images its metrics ask for
    if {"drop", "increase"} & set(metrics):
        for cam, plan in zip(distinct, asked, strict=True):
            plan["masked"] = [ask(lambda cam=cam: evidence.masked(cam[None])[0])]
    for metric in (metric for metric in CURVES if metric in metrics):
        common = perturbation(evidence, distinct[0], metric, step)
        # One end of a curve is the image itself; the other, blurred or black, is the same for all maps.
        other = ask(lambda image=common.hidden if metric == "insertion" else common.shown: image)
        for cam, plan in zip(distinct, asked, strict=True):
            perturbed = replace(common, ranks=ranks(cam))
            between = [ask(partial(perturbed.__getitem__, i)) for i in range(1, len(perturbed) - 1)]
            plan[metric] = [other, *between, 0] if metric == "insertion" else [0, *between, other]

    def make(begin: int, end: int) -> Tensor:
        return torch.stack([image() for image in images[begin:end]])

    scorer = replace(evidence.scorer, class_score="probability")
    if hasattr(scorer.network, "stream"):
        output = scorer.network.stream(make, len(images))
    else:
        output = torch.cat([scorer.network(make(i, i + 8)) for i in range(0, len(images), 8)])
    scores = scorer.read(output).tolist()
    results = [
        _read(scores[0], {name: [scores[i] for i in found] for name, found in plan.items()}, metrics) for plan in asked
    ]
    return [dict(results[i]) for i in own]


def _read(probability: float, scores: dict[str, list[float]], metrics: Sequence[Metric]) -> dict:
    result = {"probability": probability}
    if "masked" in scores:
        result["masked_probability"] = after = scores["masked"][0]
        functions = {"drop": drop, "increase": increase}
        result |= {name: function(probability, after) for name, function in functions.items() if name in metrics}
    for metric in CURVES:
        if metric in scores:
            result |= {metric: 100 * auc(scores[metric]), f"{metric}_curve": scores[metric]}
    return result


def check_metrics(metrics: Sequence[str]):
    """One sentence about a metric that there is not, or about none."""
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ValueError(f"There is no metric {unknown[0]!r}; there are {', '.join(METRICS)}.")
    if not metrics:
        raise ValueError(f"No metric is given; there are {', '.join(METRICS)}.")
