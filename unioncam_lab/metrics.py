"""How good a map is: faithful to the network, at the right place, bound to what was learned, and steady.

    drop, increase              from the class probability of an image and of what a map leaves of it
    perturbation, auc           the images of an insertion or deletion curve, and the area under it
    evaluate                    all of these for several maps of one image, in one stream through the network
    pointing_game, energy, iou  where it is known where the object is: `localize` computes all
    adcc                        drop, coherency and complexity in one number
    randomize_layers, TRANSFORMS  other networks and other images, for which the map should change, or should not
    explain_again               adcc, sanity and stability, for which every method explains again

Faithfulness asks the network alone, and can be fooled (methods.fake_cam). Its probabilities are softmax probabilities
whatever the Protocol's class_score is. Maps are (H, W).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from unioncam_core import Evidence, capture
from unioncam_lab.classifiers import Classifier
from unioncam_lab.images import blur
from unioncam_lab.methods import Method

Faithfulness = Literal["drop", "increase", "insertion", "deletion"]
Localization = Literal["pointing", "energy", "iou", "best_iou"]
Robustness = Literal["stability"]
Randomization = Literal["sanity"]
ExplainedAgain = Literal["adcc", Robustness, Randomization]  # each method has to explain the class again
Metric = Literal[Faithfulness, Localization, ExplainedAgain]
FAITHFULNESS: tuple[Faithfulness, ...] = get_args(Faithfulness)  # what a run measures if it is not told
LOCALIZATION: tuple[Localization, ...] = get_args(Localization)
EXPLAINED_AGAIN: tuple[ExplainedAgain, ...] = get_args(ExplainedAgain)
CURVES = ("insertion", "deletion")
SEEDS = 3  # of the networks that have forgotten, for `sanity`
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
    evidence: Evidence, cams: Sequence[Tensor], metrics: Sequence[Faithfulness] = FAITHFULNESS, step: int | None = None
) -> list[dict]:
    """Each map (H, W) of an image by each metric, all in one stream through the network.

    Equal maps are scored once, and so are the images that all curves begin or end with.

    Returns:
        For each map a dictionary: `probability` of the image and, as far as asked for, `masked_probability`, `drop` in
        percent, `increase` true or false, `insertion` and `deletion` (area under the curve in percent), and
        `insertion_curve`, `deletion_curve` (a probability for each step).
    """
    check_metrics(metrics, FAITHFULNESS)
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

    scorer = replace(evidence.score, class_score="probability")
    scores = scorer.read(scorer.network.stream(make, len(images))).tolist()
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


def check_metrics(metrics: Sequence[str], known: Sequence[str] = (*FAITHFULNESS, *LOCALIZATION, *EXPLAINED_AGAIN)):
    """One sentence about a metric that there is not, or about none."""
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"There is no metric {unknown[0]!r}; there are {', '.join(known)}.")
    if not metrics:
        raise ValueError(f"No metric is given; there are {', '.join(known)}.")


def pointing_game(cam: Tensor, mask: Tensor) -> float:
    """Whether the most salient pixel lies on the object: 1 or 0 (Zhang et al. 2018, without its 15 pixels' tolerance).

    Of several equally salient ones, as at the edge of an upsampled map, the share that lies there. 0 for an empty map.
    """
    return float(mask[cam == cam.max()].double().mean()) if cam.max() > 0 else 0.0


def energy(cam: Tensor, mask: Tensor) -> float:
    """The share of the map's mass that lies on the object (Score-CAM's energy-based pointing game).

    With a cell of a mosaic as the object it is the grid pointing game (Böhle et al. 2021): 1/4 is chance. 0 for an
    empty map.
    """
    cam = cam.double()
    return float(cam[mask].sum() / cam.sum()) if cam.sum() > 0 else 0.0


def iou(cam: Tensor, mask: Tensor, threshold: float = 0.5) -> float:
    """Intersection over union of the object and the pixels whose saliency reaches the threshold, in [0, 1]."""
    marked = cam >= threshold
    union = int((marked | mask).sum())
    return int((marked & mask).sum()) / union if union else 0.0


def best_iou(cam: Tensor, mask: Tensor) -> float:
    """The largest `iou` that any threshold gives."""
    values, order = cam.flatten().sort(descending=True)
    hits = mask.flatten()[order].double().cumsum(0)
    count = torch.arange(1, len(values) + 1, device=cam.device)
    last = torch.cat([values[1:] < values[:-1], torch.ones_like(mask.flatten()[:1])])  # of several equal ones
    return float((hits / (count + hits[-1] - hits))[last].max())


def recall(cam: Tensor, mask: Tensor, threshold: float = 0.5) -> float:
    """The share of the object's pixels whose saliency reaches the threshold: how complete the object is marked."""
    return float((cam[mask] >= threshold).double().mean())


def localize(cam: Tensor, mask: Tensor) -> dict[str, float]:
    """A map by each of LOCALIZATION, in percent, for the object whose pixels are `mask` (H, W) bool."""
    if cam.shape != mask.shape or not mask.any():
        raise ValueError(f"The mask is {list(mask.shape)} with {int(mask.sum())} pixels; the map is {list(cam.shape)}.")
    functions = {"pointing": pointing_game, "energy": energy, "iou": iou, "best_iou": best_iou}
    return {name: 100 * function(cam, mask) for name, function in functions.items()}


def complexity(cam: Tensor) -> float:
    """The mean of a map in [0, 1]: the less of the image it shows, the simpler it is (Poppi et al. 2021)."""
    return float(cam.double().abs().mean())


def coherency(cam: Tensor, again: Tensor) -> float:
    """How far a map is the map of what it leaves of the image: (1 + Pearson correlation) / 2 (Poppi et al. 2021).

    `again` explains the same class for the image masked by `cam`. A constant map correlates with nothing: 1/2.
    """
    first, second = ((each - each.mean()).flatten() for each in (cam.double(), again.double()))
    return 0.5 + 0.5 * float(torch.cosine_similarity(first, second, dim=0, eps=1e-12))


def adcc(drop: float, coherency: float, complexity: float) -> float:
    """The harmonic mean of 1 - drop, coherency and 1 - complexity, all in [0, 1] (Poppi et al. 2021, Eq. 5)."""
    parts = (1 - drop, coherency, 1 - complexity)
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def similarity(cam: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two maps over the pixels (as in Adebayo et al. 2018); 1 for equal ones.

    0 where one is constant, and the other is not the same.
    """
    if torch.equal(cam, other):
        return 1.0
    if cam.min() == cam.max() or other.min() == other.max():
        return 0.0
    return float(stats.spearmanr(cam.flatten().cpu().numpy(), other.flatten().cpu().numpy()).statistic)


def randomize_layers(classifier: Classifier, stages: int = 5, seed: int = 0) -> list[tuple[float, Classifier]]:
    """Copies of a classifier that have forgotten more and more, from the top (Adebayo et al. 2018, cascading).

    A layer forgets by having the values of each of its parameters shuffled: their distribution stays.

    Returns:
        `stages` pairs of the share of layers that are shuffled, from the last one alone to 1 for all, and the copy.
    """
    layers = [
        name for name, module in classifier.named_modules() if next(module.parameters(recurse=False), None) is not None
    ]
    counts = sorted({round(count) for count in np.linspace(1, len(layers), stages).tolist()})
    generator = torch.Generator().manual_seed(seed)
    copies, current = [], classifier
    for begin, end in zip([0, *counts], counts, strict=False):
        current = deepcopy(current)
        for name in layers[::-1][begin:end]:
            for parameter in current.get_submodule(name).parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.data = parameter.detach().flatten()[order].view_as(parameter)
        copies.append((end / len(layers), current))
    return copies


@dataclass(frozen=True)
class Transform:
    """A change of an image by which its map should change alike.

    Attributes:
        change: image (3, H, W) -> image.
        compare: its map and the map of the changed image -> the two, pixel on pixel.
    """

    change: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _shifted(image: Tensor) -> Tensor:
    by = max(1, image.shape[1] // 16)
    return F.pad(image[None], (by, 0, by, 0), mode="replicate")[0, :, : image.shape[1], : image.shape[2]]


def _overlap(cam: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    by = max(1, cam.shape[0] // 16)
    return cam[:-by, :-by], moved[by:, by:]


def _noisy(image: Tensor) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    return (image + 0.05 * noise).clamp(0, 1)


TRANSFORMS = {
    "shift": Transform(_shifted, _overlap),  # by a sixteenth of the side, down and to the right
    "flip": Transform(lambda image: image.flip(2), lambda cam, flipped: (cam, flipped.flip(1))),
    "noise": Transform(_noisy, lambda cam, other: (cam, other)),  # Gaussian, deviation 0.05
}


def explain_again(
    evidence: Evidence,
    classifier: Classifier,
    methods: Sequence[Method],
    cams: Sequence[Tensor],
    metrics: Sequence[ExplainedAgain] = EXPLAINED_AGAIN,
    networks: Sequence[Sequence[tuple[Classifier, Sequence[Method]]]] = (),
) -> list[dict]:
    """Each method's map by the metrics for which it has to explain the class again.

    Args:
        evidence: of the image and class.
        classifier: that is explained, with its `target_layer`.
        methods: with `explain`: Evidence -> map, or an object that has it as `cam`; see methods.find_method.
        cams: the map (H, W) of each method.
        metrics: of EXPLAINED_AGAIN.
        networks: for `sanity`, what `randomize_layers` returns with the methods for each network, once for each seed.

    Returns:
        For each method a dictionary, in percent, as far as asked for: `complexity` and `coherency` (`adcc` follows with
        the drop); `stability_shift`, `stability_flip`, `stability_noise` and their mean `stability`, the similarity of
        the map to that of the changed image. For sanity, `sanity_rho`: the similarity to the map of each network, seed
        by seed, with its sign; `sanity_curve`: its size, averaged over the seeds; and the mean of that, `sanity`: what
        remains of the map when the network forgets. A map that becomes its own negative has forgotten nothing, so the
        sign does not count.
    """

    def explain(network: Classifier, image: Tensor, methods: Sequence[Method]) -> list[Tensor]:
        layer, targets = network.target_layer, [evidence.target]
        (again,) = capture(network, image[None], target_layer=layer, targets=targets, protocol=evidence.protocol)
        results = [method.explain(again) for method in methods]
        return [result.cam.to(image.device) for result in results]

    cams = [cam.to(evidence.image.device) for cam in cams]
    found: list[dict] = [{} for _ in methods]
    if "adcc" in metrics:
        for method, cam, row in zip(methods, cams, found, strict=True):
            (again,) = explain(classifier, evidence.masked(cam[None])[0], [method])
            row |= {"complexity": 100 * complexity(cam), "coherency": 100 * coherency(cam, again)}
    if "stability" in metrics:
        for name, transform in TRANSFORMS.items():
            others = explain(classifier, transform.change(evidence.image), methods)
            for cam, other, row in zip(cams, others, found, strict=True):
                row[f"stability_{name}"] = 100 * similarity(*transform.compare(cam, other))
        for row in found:
            row["stability"] = float(np.mean([row[f"stability_{name}"] for name in TRANSFORMS]))
    if "sanity" in metrics:
        maps = [explain(network, evidence.image, theirs) for seed in networks for network, theirs in seed]
        for cam, row, others in zip(cams, found, zip(*maps, strict=True), strict=True):
            row["sanity_rho"] = [100 * similarity(cam, other) for other in others]
            row["sanity_curve"] = np.abs(row["sanity_rho"]).reshape(len(networks), -1).mean(0).tolist()
            row["sanity"] = float(np.mean(row["sanity_curve"]))
    return found
