"""Metrics of saliency maps: faithfulness, localization, robustness and randomization.

    drop, increase                from the class probabilities of an image and of the image masked by a map
    perturbation, auc             the images of an insertion or deletion curve, and the area under the curve
    evaluate                      these faithfulness metrics for several maps of one image, in one stream of images
    pointing_game, energy, iou    comparison with the ground truth; `localize` computes all metrics of LOCALIZATION
    as_map, as_mask               what a metric takes, an array or a tensor, as a tensor that was checked
    adcc                          drop, coherency and complexity in one number
    randomize_layers, TRANSFORMS  randomized networks, for which a map should change, and transformed images
    explain_again                 adcc, stability and sanity, for which each method explains the class again

Faithfulness uses only the network, and a map without information can have good values (methods.fake_cam). It is
measured in probabilities, also where the Protocol explains the logit: by the softmax over the logits, or by the sigmoid
of each if the Protocol says so or there is only one. For a target that is a function, its value is measured.

Maps and masks are (H, W), tensors or NumPy arrays. All functions that take one refuse a map with values that are NaN or
infinite, and a map of another size than its image or mask, by a ValueError.
"""

import inspect
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

from unioncam_core import Evidence, NonFiniteScore, capture
from unioncam_lab import cache
from unioncam_lab.classifiers import Classifier
from unioncam_lab.engine import Engine
from unioncam_lab.images import blur
from unioncam_lab.methods import Method

Faithfulness = Literal["drop", "increase", "insertion", "deletion"]
Localization = Literal["pointing", "energy", "iou", "best_iou"]
Robustness = Literal["stability"]
Randomization = Literal["sanity"]
ExplainedAgain = Literal["adcc", Robustness, Randomization]  # for these, each method explains the class again
Metric = Literal[Faithfulness, Localization, ExplainedAgain]
FAITHFULNESS: tuple[Faithfulness, ...] = get_args(Faithfulness)  # the default metrics of a run
LOCALIZATION: tuple[Localization, ...] = get_args(Localization)
EXPLAINED_AGAIN: tuple[ExplainedAgain, ...] = get_args(ExplainedAgain)
CURVES = ("insertion", "deletion")
SEEDS = 3  # number of seeds of the randomized networks for `sanity`
Map = Tensor | np.ndarray
ROWS_A_STEP = 8  # a step of a curve changes as many pixels as 8 rows hold: 224 * 8 and 28 steps in Group-CAM's table


def as_map(values: Map, size: Sequence[int] | None = None, of: str = "image", name: str = "map") -> Tensor:
    """Return a map (H, W) as a tensor of floating point.

    Args:
        values: a tensor or an array.
        size: the size that it must have; any if None.
        of, name: for the message, what has this size, and what this is.

    Raises:
        ValueError: it is not (H, W), has another size, or holds values that are NaN or infinite.
    """
    # A copy, because PyTorch takes no array that is reversed or read-only.
    cam = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))
    cam = cam if cam.is_floating_point() else cam.double()
    if size is not None and cam.shape != tuple(size):
        raise ValueError(f"A {name} is {list(cam.shape)}; it must have the {of}'s size {list(size)}.")
    if cam.ndim != 2 or not cam.numel():
        raise ValueError(f"A {name} is {list(cam.shape)}; one {name} H×W is needed, as {name}s[0] of a batch.")
    if bad := int((~cam.isfinite()).sum()):
        raise ValueError(f"A {name} is NaN or infinite at {bad} pixels; it must be finite.")
    return cam


def as_mask(values: Map) -> Tensor:
    """Return a mask (H, W) of an object, bool, or a number on the object and 0 elsewhere, as a tensor (H, W) of bool.

    Raises:
        ValueError: as `as_map`; or it holds several values other than 0, so what belongs to the object is unknown.
    """
    mask = as_map(values, name="mask")
    marked = mask != 0
    if len(others := mask[marked].unique()) > 1:
        shown = " and ".join(f"{value:g}" for value in others[:2].tolist())
        raise ValueError(f"The mask holds {len(others)} values other than 0, such as {shown}; mask > 0.5 would be one.")
    return marked


def _map_and_mask(cam: Map, mask: Map) -> tuple[Tensor, Tensor]:
    """Return a map and the mask of an object. They must have one size, and the mask must mark a pixel."""
    cam = as_map(cam)
    mask = as_mask(mask).to(cam.device)
    if cam.shape != mask.shape or not mask.any():
        raise ValueError(
            f"The mask is {list(mask.shape)} with {int(mask.sum())} pixels; the map is {list(cam.shape)}: the mask "
            "must have the map's size and mark a pixel."
        )
    return cam, mask


def drop(before: float, after: float) -> float:
    """Return the loss of class probability when the map masks the image, in percent: 100 max(0, y - o) / y.

    y is the probability for the image (`before`) and o for the masked image (`after`). The mean over images is the
    average drop (UnionCAM's § 4.2; Chattopadhay et al. 2018).
    """
    return 100 * max(0.0, before - after) / before if before > 0 else 0.0


def increase(before: float, after: float) -> bool:
    """Return whether the class is more probable after masking.

    The share of such images, in percent, is the average increase.
    """
    return before < after


def auc(curve: Sequence[float]) -> float:
    """Return the area under a curve by the trapezoid rule; its steps are equally spaced over [0, 1]."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def ranks(cam: Map) -> Tensor:
    """Return the rank of each pixel (H, W): 0 for the most salient one.

    Equal pixels are ranked from left to right and from top to bottom.
    """
    cam = as_map(cam)
    order = cam.flatten().argsort(descending=True, stable=True)
    positions = torch.empty_like(order)
    positions[order] = torch.arange(len(order), device=order.device)
    return positions.view_as(cam)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The images of one curve. In image i the i * step most salient pixels come from `shown`, others from `hidden`."""

    ranks: Tensor  # (H, W)
    shown: Tensor  # (channels, H, W)
    hidden: Tensor  # (channels, H, W)
    step: int  # pixels

    def __len__(self) -> int:
        """Return the number of images: the number of steps plus 1."""
        return -(-self.ranks.numel() // self.step) + 1

    def __getitem__(self, i: int) -> Tensor:
        if not 0 <= i < len(self):
            raise IndexError(f"There is no image {i}; there are {len(self)}.")
        return torch.where(self.ranks < i * self.step, self.shown, self.hidden)


def perturbation(
    evidence: Evidence, cam: Map, metric: Literal["insertion", "deletion"], step: int | None = None
) -> Perturbation:
    """Return the images of an insertion or a deletion curve (Petsiuk et al. 2018; Group-CAM's protocol).

    Insertion begins with the blurred image (51 pixels, sigma 50) and inserts the most salient pixels first. Deletion
    begins with the image and replaces the most salient pixels first by what a mask of 0 shows: black, or the mean
    colour.

    Args:
        evidence: the evidence for the image and class.
        cam: (H, W), in any range, because only the order of the pixels counts.
        metric: "insertion" or "deletion".
        step: number of pixels that change in a step; by default as many as 8 rows hold.
    """
    image = evidence.image
    cam = as_map(cam, image.shape[1:])
    if metric == "insertion":
        shown, hidden = image, blur(image)
    else:
        shown, hidden = evidence.masked(torch.zeros_like(image[:1]))[0], image
    return Perturbation(ranks(cam.to(image.device)), shown, hidden, step or ROWS_A_STEP * image.shape[2])


@torch.no_grad()
def evaluate(
    evidence: Evidence, cams: Sequence[Map], metrics: Sequence[Faithfulness] = FAITHFULNESS, step: int | None = None
) -> list[dict]:
    """Compute metrics for the maps (H, W) of an image; the network scores all images in one stream.

    Equal maps are scored once. The first and the last image of the curves, which all maps share, are scored once too.

    Returns:
        A dictionary for each map: `probability` of the image and, for the metrics requested, `masked_probability`,
        `drop` in percent, `increase` true or false, `insertion` and `deletion` (area under the curve in percent), and
        `insertion_curve` and `deletion_curve` (probabilities, steps + 1 values).

    Raises:
        ValueError: a metric is unknown, or a map has another size than the image or values that are not finite.
        NonFiniteScore: the network's score of an image is NaN or infinite; the message says of which.
    """
    check_metrics(metrics, FAITHFULNESS)
    size = evidence.image.shape[1:]
    distinct: list[Tensor] = []
    own = []  # for each map, its position in `distinct`
    for cam in [as_map(cam, size).to(evidence.image.device) for cam in cams]:
        own.append(next((i for i, other in enumerate(distinct) if torch.equal(cam, other)), len(distinct)))
        distinct += [cam] if own[-1] == len(distinct) else []

    images: list[Callable[[], Tensor]] = [lambda: evidence.image]
    names = ["the image"]

    def request(name: str, image: Callable[[], Tensor]) -> int:
        images.append(image)
        names.append(name)
        return len(images) - 1

    plans: list[dict[str, list[int]]] = [{} for _ in distinct]  # for each map, the images that its metrics need
    network = evidence.score.network
    curves: dict[str, list[int]] = {}  # key of a curve's images -> their positions
    if {"drop", "increase"} & set(metrics):
        for cam, plan in zip(distinct, plans, strict=True):
            plan["masked"] = [request("the image masked by the map", lambda cam=cam: evidence.masked(cam[None])[0])]
    for metric in (metric for metric in CURVES if metric in metrics):
        common = perturbation(evidence, distinct[0], metric, step)
        done = "inserted" if metric == "insertion" else "deleted"
        # One end of a curve is the image itself. The other end, blurred or black, is the same for all maps.
        name, image = ("blurred", common.hidden) if metric == "insertion" else ("wholly deleted", common.shown)
        other = request(f"the {name} image", lambda image=image: image)
        for cam, plan in zip(distinct, plans, strict=True):
            perturbed = replace(common, ranks=ranks(cam))
            between = [
                request(f"the image with {i * common.step} pixels {done}", partial(perturbed.__getitem__, i))
                for i in range(1, len(perturbed) - 1)
            ]
            plan[metric] = [other, *between, 0] if metric == "insertion" else [0, *between, other]
            if isinstance(network, Engine):
                curves[cache.key(inspect.getsource(Perturbation), *vars(perturbed).values())] = between

    def make(begin: int, end: int) -> Tensor:
        return torch.stack([image() for image in images[begin:end]])

    kind = "sigmoid" if evidence.score.class_score == "sigmoid" else "probability"
    outputs = network.scored(images, curves) if isinstance(network, Engine) else network.stream(make, len(images))
    scores = replace(evidence.score, class_score=kind).read(outputs, names.__getitem__).tolist()
    results = [
        _read(scores[0], {name: [scores[i] for i in positions] for name, positions in plan.items()}, metrics)
        for plan in plans
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
    """Raise a ValueError if a metric is unknown, or if none is given."""
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"There is no metric {unknown[0]!r}; there are {', '.join(known)}.")
    if not metrics:
        raise ValueError(f"No metric is given; there are {', '.join(known)}.")


def pointing_game(cam: Map, mask: Map) -> float:
    """Return 1 if the most salient pixel lies on the object, else 0 (Zhang et al. 2018, without 15 pixels' tolerance).

    If several pixels are equally salient, as at the edge of an upsampled map, return the share of them on the object.
    An empty map has 0.
    """
    cam, mask = _map_and_mask(cam, mask)
    return float(mask[cam == cam.max()].double().mean()) if cam.max() > 0 else 0.0


def energy(cam: Map, mask: Map) -> float:
    """Return the share of the map's mass on the object (Score-CAM's energy-based pointing game).

    If the object is a cell of a mosaic, this is the grid pointing game (Böhle et al. 2021), where chance is 1/4. An
    empty map has 0.
    """
    cam, mask = _map_and_mask(cam, mask)
    cam = cam.double()
    return float(cam[mask].sum() / cam.sum()) if cam.sum() > 0 else 0.0


def iou(cam: Map, mask: Map, threshold: float = 0.5) -> float:
    """Return the intersection over union, in [0, 1], of the object and the pixels with saliency >= threshold."""
    cam, mask = _map_and_mask(cam, mask)
    marked = cam >= threshold
    return int((marked & mask).sum()) / int((marked | mask).sum())


def best_iou(cam: Map, mask: Map) -> float:
    """Return the largest `iou` over all thresholds."""
    cam, mask = _map_and_mask(cam, mask)
    values, order = cam.flatten().sort(descending=True)
    hits = mask.flatten()[order].double().cumsum(0)
    count = torch.arange(1, len(values) + 1, device=cam.device)
    last = torch.cat([values[1:] < values[:-1], torch.ones_like(mask.flatten()[:1])])  # the last of equal values
    return float((hits / (count + hits[-1] - hits))[last].max())


def recall(cam: Map, mask: Map, threshold: float = 0.5) -> float:
    """Return the share of the object's pixels with saliency >= threshold."""
    cam, mask = _map_and_mask(cam, mask)
    return float((cam[mask] >= threshold).double().mean())


def localize(cam: Map, mask: Map) -> dict[str, float]:
    """Compute all metrics of LOCALIZATION, in percent, for a map and the object's `mask`, both (H, W).

    Raises:
        ValueError: the mask is empty, or has another size than the map; the map is not finite.
    """
    cam, mask = _map_and_mask(cam, mask)
    functions = {"pointing": pointing_game, "energy": energy, "iou": iou, "best_iou": best_iou}
    return {name: 100 * function(cam, mask) for name, function in functions.items()}


def complexity(cam: Map) -> float:
    """Return the mean of a map in [0, 1] (Poppi et al. 2021). A map that shows less of the image is simpler."""
    return float(as_map(cam).double().abs().mean())


def coherency(cam: Map, again: Map) -> float:
    """Return (1 + Pearson correlation) / 2 of a map and the map of the masked image (Poppi et al. 2021).

    `again` explains the same class for the image masked by `cam`. A constant map has the correlation 0, so 1/2.
    """
    pair = _two_maps(cam, again)
    first, second = ((values - values.mean()).flatten() for values in pair)
    return 0.5 + 0.5 * float(torch.cosine_similarity(first, second, dim=0, eps=1e-12))


def adcc(drop: float, coherency: float, complexity: float) -> float:
    """Return the harmonic mean of 1 - drop, coherency and 1 - complexity, all in [0, 1] (Poppi et al. 2021, Eq. 5)."""
    parts = (1 - drop, coherency, 1 - complexity)
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def _two_maps(cam: Map, other: Map) -> tuple[Tensor, Tensor]:
    """Return two maps of one size in double precision, on the device of the first one."""
    cam = as_map(cam).double()
    return cam, as_map(other, cam.shape, "other map").to(cam)


def similarity(cam: Map, other: Map) -> float:
    """Return Spearman's rank correlation of two maps over the pixels (as in Adebayo et al. 2018).

    It is 1 for equal maps, and 0 for different maps of which one is constant.
    """
    cam, other = _two_maps(cam, other)
    if torch.equal(cam, other):
        return 1.0
    if cam.min() == cam.max() or other.min() == other.max():
        return 0.0
    return float(stats.spearmanr(cam.flatten().cpu().numpy(), other.flatten().cpu().numpy()).statistic)


def randomize_layers(classifier: Classifier, stages: int = 5, seed: int = 0) -> list[tuple[float, Classifier]]:
    """Return copies of a classifier in which more and more layers are shuffled (Adebayo et al. 2018, cascading).

    The last layer is shuffled first. Shuffling permutes the values of each parameter, so their distribution remains.

    Returns:
        Pairs of the share of shuffled layers and the copy. In the first copy only the last layer is shuffled, in the
        last copy all layers (share 1). There are `stages` pairs, or fewer if the network has fewer layers.
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
    """A transformation of an image. The map should change in the same way as the image.

    Attributes:
        change: image (channels, H, W) -> transformed image.
        compare: (map of the image, map of the transformed image) -> both, so that equal positions can be compared.
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
    """Add noise in proportion to the range of the pixels, which is [0, 1], or larger if the image's own is."""
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    return (image + 0.05 * (high - low) * noise).clamp(low, high)


TRANSFORMS = {
    "shift": Transform(_shifted, _overlap),  # by a sixteenth of the side, down and to the right
    "flip": Transform(lambda image: image.flip(2), lambda cam, flipped: (cam, flipped.flip(1))),
    "noise": Transform(_noisy, lambda cam, other: (cam, other)),  # Gaussian, standard deviation 0.05 of the range
}


def explain_again(
    evidence: Evidence,
    classifier: Classifier,
    methods: Sequence[Method],
    cams: Sequence[Map],
    metrics: Sequence[ExplainedAgain] = EXPLAINED_AGAIN,
    networks: Sequence[Sequence[tuple[Classifier, Sequence[Method]]]] = (),
) -> list[dict]:
    """Compute the metrics for which each method explains the class again.

    Args:
        evidence: the evidence for the image and class.
        classifier: the explained classifier, with its `target_layer`, and its `reshape_transform` if it has one.
        methods: methods as `methods.find_method` returns them.
        cams: the map (H, W) of each method.
        metrics: metrics of EXPLAINED_AGAIN.
        networks: for `sanity`, a sequence for each seed: (network of `randomize_layers`, methods for this network).

    Returns:
        A dictionary for each method, in percent, for the metrics requested. For adcc: `complexity` and `coherency`;
        `adcc` also needs the drop. For stability: `stability_shift`, `stability_flip` and `stability_noise`, the
        similarity of the map to the map of the transformed image, and their mean `stability`. For sanity: `sanity_rho`,
        the similarity to the map of each network, in the order of the seeds, with its sign; `sanity_curve`, its
        absolute value, averaged over the seeds; and `sanity`, the mean of this curve. The sign does not count, because
        a negated map still holds the same information.

    Raises:
        ValueError: a map has another size than the image or values that are not finite.
        NonFiniteScore: a score is NaN or infinite; the message says what was explained again.
    """

    def explain(network: Classifier, image: Tensor, methods: Sequence[Method], what: str) -> list[Tensor]:
        try:
            (again,) = capture(
                network,
                image[None],
                target_layer=network.target_layer,
                targets=[evidence.target],
                protocol=evidence.protocol,
                reshape_transform=getattr(network, "reshape_transform", None),
            )
            results = [method.explain(again) for method in methods]
        except NonFiniteScore as error:
            raise NonFiniteScore(f"When {what} is explained again: {error}") from error
        return [result.cam.to(image.device) for result in results]

    cams = [as_map(cam, evidence.image.shape[1:]).to(evidence.image.device) for cam in cams]
    rows: list[dict] = [{} for _ in methods]
    if "adcc" in metrics:
        for method, cam, row in zip(methods, cams, rows, strict=True):
            (again,) = explain(classifier, evidence.masked(cam[None])[0], [method], "the masked image")
            row |= {"complexity": 100 * complexity(cam), "coherency": 100 * coherency(cam, again)}
    if "stability" in metrics:
        for name, transform in TRANSFORMS.items():
            others = explain(classifier, transform.change(evidence.image), methods, f"the image under {name}")
            for cam, other, row in zip(cams, others, rows, strict=True):
                row[f"stability_{name}"] = 100 * similarity(*transform.compare(cam, other))
        for row in rows:
            row["stability"] = float(np.mean([row[f"stability_{name}"] for name in TRANSFORMS]))
    if "sanity" in metrics:
        shuffled = "the image by a network with shuffled layers"
        maps = [explain(network, evidence.image, theirs, shuffled) for seed in networks for network, theirs in seed]
        for cam, row, others in zip(cams, rows, zip(*maps, strict=True), strict=True):
            row["sanity_rho"] = [100 * similarity(cam, other) for other in others]
            row["sanity_curve"] = np.abs(row["sanity_rho"]).reshape(len(networks), -1).mean(0).tolist()
            row["sanity"] = float(np.mean(row["sanity_curve"]))
    return rows
