"""UnionCAM: where in an image the evidence for a class lies, by Equations 1-8 of the paper.

    Hu H, Wang R, Lin H, Yu H (2024). UnionCAM: enhancing CNN interpretability through denoising, weighted
    fusion, and selective high-quality class activation mapping. Front. Neurorobot. 18:1490198.
    https://doi.org/10.3389/fnbot.2024.1490198
    Dekdegue H, Garouani M, Mothe J, Bernigaud J (2026). Fusion-CAM. arXiv:2603.05386

The file reads from top to bottom in the order in which the data flow (Algorithm 1 of the paper):

    Protocol                                what the paper leaves open, and what is chosen here
    Scorer, Evidence, capture               line 1: one forward and one backward pass of the classifier
    denoise, pixel_weights, denoised_cam    lines 2-3, Eqs. 1-3: Activation Map Denoising (AMD)
    score_regions                           line 4: one masked image per channel
    region_weights, region_cam              line 5: what their scores weigh
    contribution                            Eqs. 4, 5, 7: what a map contributes to the class score
    UnionSteps, union_cam                   lines 6-10, Eqs. 6-8: Activation Map Union and Selection (AMU, AMS)
    FusionSteps, fusion_cam                 Fusion-CAM: the same steps, other weights, and a fusion per pixel
    UnionCAM, FusionCAM                     all of it behind pytorch-grad-cam's call

Shapes: N images, K channels of the target layer of size h x w, images of size H x W, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Protocol:
    """What the paper does not say, as named options. The defaults are the plainest reading of its text."""

    class_score: Literal["probability", "logit"] = "probability"  # f^c: softmax probability of c, or its logit
    gradient_of: Literal["logit", "probability"] = "logit"  # what W differentiates
    mask_space: Literal["pixel", "normalized"] = "pixel"  # what a mask of 0 shows: black, or the mean colour
    region_weights: Literal["score", "softmax", "increase"] = "score"  # W_R: f^c, softmax_k of logit_c, f^c - f^c(I_b)
    map_scale: Literal["min-max", "none"] = "min-max"  # of an upsampled map before it masks an image or is added
    relu: bool = True  # negative evidence in L_Denoising and L_Region is set to 0
    percentile_over: Literal["channel", "positive", "map"] = "channel"  # Eq. 1: of W^k, of W^k > 0, of the map's pixels
    clamp_beta: bool = False  # a negative contribution counts as 0 in Eq. 6

    def __post_init__(self):
        for option in fields(self):
            value, allowed = getattr(self, option.name), get_args(option.type) or (True, False)
            if value not in allowed:
                raise ValueError(f"Protocol.{option.name} is {value!r}; it can be {' or '.join(map(repr, allowed))}.")


@dataclass(frozen=True, eq=False)
class Scorer:
    """f^c: images (N, 3, H, W) -> score of class c (N,)."""

    network: Callable[[Tensor], Tensor]  # images -> logits (N, C), or at once -> f^c (N,)
    target: int
    class_score: str = "probability"

    def __call__(self, images: Tensor) -> Tensor:
        return self.read(self.network(images))

    def read(self, output: Tensor) -> Tensor:
        """f^c (N,) from what the network returned."""
        if output.ndim == 1:
            return output
        return (output.softmax(1) if self.class_score == "probability" else output)[:, self.target]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one forward and one backward pass give for one image and one class. Every map is a function of it."""

    image: Tensor  # I0, (3, H, W), as the classifier takes it
    target: int  # c, the class that is explained
    activations: Tensor  # A, (K, h, w): the feature maps of the target layer
    gradients: Tensor  # W, (K, h, w): d logit_c / d A
    probability: float  # softmax probability of c for the whole image
    black_score: float  # f^c(I_b): the score of what a mask of zeros leaves
    score: Callable[[Tensor], Tensor]  # f^c: images (N, 3, H, W) -> (N,)
    protocol: Protocol = Protocol()
    background: Tensor | None = None  # what a mask of 0 shows: a colour (3, 1, 1), or black

    @property
    def scorer(self) -> Scorer:
        return self.score if isinstance(self.score, Scorer) else Scorer(self.score, self.target)

    def masks(self, channels: Tensor | list[int]) -> Tensor:
        """The feature maps of n channels as masks (n, H, W): upsampled, each scaled to [0, 1]."""
        return upsample(self.activations[channels], self)

    def masked(self, masks: Tensor) -> Tensor:
        """mask ∘ I0 for each of the masks (N, H, W): images (N, 3, H, W)."""
        masks = masks[:, None].to(self.image)
        if self.background is None:
            return masks * self.image
        return self.background + masks * (self.image - self.background)

    @cached_property
    def live(self) -> Tensor:
        """(K,) bool: the channels that are not constant. A constant one masks nothing and is never scored."""
        return self.activations.amax((1, 2)) > self.activations.amin((1, 2))

    @cached_property
    def region_output(self) -> Tensor | None:
        """What the network returns for mask_k ∘ I0, for each live channel: logits (live, C), or f^c (live,).

        None if no channel is live. The expensive step: done on first use, by `score_regions`, then kept.
        """
        score_regions([self])
        return vars(self)["region_output"]

    @property
    def region_scores(self) -> Tensor:
        """(K,): f^c(mask_k ∘ I0), 0 for constant channels."""
        scores = torch.zeros_like(self.activations[:, 0, 0])
        if self.region_output is not None:
            scores[self.live] = self.scorer.read(self.region_output).to(scores)
        return scores

    @property
    def region_logits(self) -> Tensor:
        """(K,): logit_c of the same masked images, -inf for constant channels."""
        logits = torch.full_like(self.activations[:, 0, 0], -torch.inf)
        if self.region_output is not None:
            if self.region_output.ndim == 1:
                raise ValueError("region_weights='softmax' needs logits, but the given score returns f^c alone.")
            logits[self.live] = self.region_output[:, self.target].to(logits)
        return logits


def capture(
    model: nn.Module,
    images: Tensor,
    *,
    target_layer: nn.Module | str,
    targets: Sequence | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    protocol: Protocol = Protocol(),
) -> list[Evidence]:
    """Algorithm 1, line 1: one forward and one backward pass, and the score of the black image.

    Args:
        model: classifier, images -> logits (N, C). Training mode, frozen parameters and in-place ReLUs are fine; it is
            left as it was. If it has an attribute `input_range` = (low, high), the images must lie within.
        images: (N, 3, H, W), floating point, as the model takes them.
        target_layer: a module of the model, or its dotted name, with output (N, K, h, w). If the model calls it several
            times, the last call counts.
        targets: one class index per image, or a sequence of several per image; None: the network's first choice.
        score: what judges masked images in the model's place: images -> logits (N, C) or -> f^c (N,).
        protocol: what the paper leaves open.

    Returns:
        One Evidence for each image and class, in the order of the images and their classes.

    Gradients come from the model itself. All else is scored by `score` if given, or by the model's attribute
    `gradient_free`, images -> logits, if it has one (unioncam_lab.engine's `accelerate` sets it), or by the model.

    Raises:
        TypeError, ValueError: one sentence that names what is wrong.
    """
    layer, name = _find_layer(model, target_layer)
    _check_images(images, model)
    classes = _check_targets(targets, images)
    outputs = []

    def cut(_module, _inputs, output):
        if not _is_four_dimensional(output):
            raise ValueError(f"The layer {name} returns {_kind(output)}; a target layer returns N×K×h×w.")
        # The graph begins here: nothing below is differentiated, and an in-place ReLU above changes a copy.
        torch.set_grad_enabled(True)
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    with torch.inference_mode(False), torch.no_grad(), evaluation(model):
        images = images.detach().clone().to(next(model.parameters(), images).device)
        background = _background(model, images, protocol)
        hook = layer.register_forward_hook(cut)
        try:
            logits = model(images)
        finally:
            hook.remove()
        classes = _check_outputs(logits, images, classes, outputs, name)
        activations = outputs[-1]
        with torch.enable_grad():
            probabilities = logits.softmax(1)
            scores = logits if protocol.gradient_of == "logit" else probabilities
            # Images of a batch do not touch each other: one backward pass serves the j-th class of all of them.
            rounds = [
                [scores[i, c[j]] for i, c in enumerate(classes) if j < len(c)] for j in range(max(map(len, classes)))
            ]
            gradients = [_gradient(torch.stack(wanted).sum(), activations, name) for wanted in rounds]
    probabilities, activations = probabilities.detach(), activations.detach()
    network = score or getattr(model, "gradient_free", None) or partial(_logits, model)
    with torch.no_grad():
        black = network(torch.zeros_like(images[:1]) + (0 if background is None else background))
    precise = torch.promote_types(activations.dtype, torch.float32)
    evidences = []
    for i, (image, maps) in enumerate(zip(images, activations.to(precise), strict=True)):
        for c, gradient in zip(classes[i], gradients, strict=False):
            scorer = Scorer(network, c, protocol.class_score)
            numbers = float(probabilities[i, c]), float(scorer.read(black))
            evidence = Evidence(image, c, maps, gradient[i].to(precise), *numbers, scorer, protocol, background)
            evidences.append(evidence)
    return evidences


def denoise(gradients: Tensor, theta: float, positive: bool = False) -> Tensor:
    """Eq. 1: each channel keeps the values that reach its theta-th percentile; the others become 0.

    Args:
        gradients: W, (..., h, w).
        theta: percentile in [0, 100], interpolated linearly between neighbouring values.
        positive: take the percentile of the channel's positive values alone.
    """
    if not 0 <= theta <= 100:
        raise ValueError(f"theta is {theta}; a percentile lies between 0 and 100.")
    flat = gradients.flatten(-2)
    ranked, length = flat.sort(-1).values, flat.shape[-1]
    count = (flat > 0).sum(-1, keepdim=True) if positive else torch.full_like(ranked[..., :1], length)
    # Multiplied before divided, so that a percentile which falls on a value is that value, and Eq. 1's >= keeps it.
    rank = (length - count + theta * (count - 1).double() / 100).clamp(0, length - 1)
    below, above = ranked.gather(-1, rank.floor().long()), ranked.gather(-1, rank.ceil().long())
    threshold = torch.lerp(below, above, rank.frac().to(flat.dtype))
    kept = (flat >= threshold) & (flat > 0) if positive else flat >= threshold
    return flat.where(kept, 0).view_as(gradients)


def pixel_weights(gradients: Tensor) -> Tensor:
    """Eq. 3 times ReLU(W), the factor of A in Eq. 2: (K, h, w).

    alpha is one over the sum of the channel's positive gradients, so a channel's weights sum to 1, however small its
    gradients are; they are all 0 where no gradient is positive.
    """
    positive = gradients.relu()
    total = positive.sum((-2, -1), keepdim=True)
    return (positive / total).where(total > 0, 0)


def denoised_cam(evidence: Evidence, theta: float = 10) -> Tensor:
    """Eqs. 1-3: L_Denoising, the sum over channels of alpha ∘ ReLU(W) ∘ A, W denoised: (H, W) in [0, 1]."""
    reading = evidence.protocol.percentile_over
    gradients = evidence.gradients
    if reading != "map":
        gradients = denoise(gradients, theta, positive=reading == "positive")
    cam = saliency_map((pixel_weights(gradients) * evidence.activations).sum(0), evidence)
    return denoise(cam, theta) if reading == "map" else cam


@torch.no_grad()
def score_regions(evidences: Sequence[Evidence]):
    """Algorithm 1, line 4, for several images: sets the `region_output` of each.

    A few masked images exist at a time, never all. A network with a method `region_pass` does it its own way:
    unioncam_lab.engine's do, and let images of one size share a chunk.
    """
    network, *others = (evidence.scorer.network for evidence in evidences)
    if hasattr(network, "region_pass") and all(other is network for other in others):
        outputs = network.region_pass(evidences)
    else:
        outputs = map(_region_pass, evidences)
    for evidence, output in zip(evidences, outputs, strict=True):
        vars(evidence)["region_output"] = output


def _region_pass(evidence: Evidence) -> Tensor | None:
    chunk = 8 if evidence.image.device.type == "cpu" else 64  # a CPU is fastest while a chunk stays in its cache
    chunks = evidence.live.nonzero().flatten().split(chunk) if evidence.live.any() else ()
    outputs = [evidence.scorer.network(evidence.masked(evidence.masks(channels))) for channels in chunks]
    return torch.cat(outputs) if outputs else None


def region_weights(evidence: Evidence, kind: str | None = None) -> Tensor:
    """W_R, (K,): what each channel, used as a mask, leaves of the class score. Constant channels weigh 0.

    `kind` is one of the Protocol's region_weights, by default the Evidence's own.
    """
    match evidence.protocol.region_weights if kind is None else kind:
        case "score":
            return evidence.region_scores
        case "increase":
            return (evidence.region_scores - evidence.black_score).where(evidence.live, 0)
        case "softmax":
            return evidence.region_logits.softmax(0).where(evidence.live, 0)
    raise ValueError(f"region_weights is {kind!r}; it can be 'score', 'softmax' or 'increase'.")


def weighted_cam(evidence: Evidence, weights: Tensor) -> Tensor:
    """The feature maps summed with weights (K,): (H, W) in [0, 1]."""
    return saliency_map(torch.einsum("k,khw->hw", weights, evidence.activations), evidence)


def region_cam(evidence: Evidence, kind: str | None = None) -> Tensor:
    """Algorithm 1, lines 4-5: L_Region, the feature maps summed with the weights W_R: (H, W) in [0, 1]."""
    return weighted_cam(evidence, region_weights(evidence, kind))


@torch.no_grad()
def contribution(evidence: Evidence, cam: Tensor) -> float:
    """Eqs. 4, 5 and 7: beta = f^c(cam ∘ I0) - f^c(I_b), for a map (H, W)."""
    cam = torch.as_tensor(cam)
    if (size := evidence.image.shape[1:]) != cam.shape:
        raise ValueError(f"The map is {list(cam.shape)}; it must have the image's size {list(size)}.")
    return float(evidence.score(evidence.masked(cam[None]))) - evidence.black_score


@dataclass(frozen=True, eq=False)
class Steps:
    """What both methods compute on the way. Maps are (H, W) in [0, 1]; betas are differences of class scores."""

    denoised: Tensor
    region: Tensor
    united: Tensor
    beta_denoising: float
    beta_region: float
    beta_united: float


@dataclass(frozen=True, eq=False)
class UnionSteps(Steps):
    """Every intermediate of Algorithm 1."""

    selected: Literal["united", "region"]
    cam: Tensor  # L_UnionCAM, the selected map


def union_cam(evidence: Evidence, theta: float = 10, weighted: bool = True) -> UnionSteps:
    """Algorithm 1: the denoised and the region map, their union (Eq. 6), and the choice by contribution (Eq. 8).

    With theta=0 nothing is denoised; with weighted=False both maps weigh 1 in Eq. 6: Table 4's base has both.
    """
    denoised, region = denoised_cam(evidence, theta), region_cam(evidence)
    beta_denoising, beta_region = contribution(evidence, denoised), contribution(evidence, region)
    weights = [max(beta, 0.0) if evidence.protocol.clamp_beta else beta for beta in (beta_denoising, beta_region)]
    weights = weights if weighted else [1.0, 1.0]
    united = _scale(weights[0] * denoised + weights[1] * region, evidence)
    beta_united = contribution(evidence, united)
    # Two weights of 0 unite nothing: then the region map stands, whatever the empty map scores.
    selected = "united" if any(weights) and beta_united > beta_region else "region"
    cam = united if selected == "united" else region
    return UnionSteps(denoised, region, united, beta_denoising, beta_region, beta_united, selected, cam)


@dataclass(frozen=True, eq=False)
class FusionSteps(Steps):
    """Every intermediate of Fusion-CAM. Two shares sum to 1."""

    shares: tuple[float, float]  # of the denoised and the region map in their union
    second_shares: tuple[float, float]  # of the union and the region map in the fusion
    similarity: Tensor
    cam: Tensor


def fusion_cam(
    evidence: Evidence, theta: float = 10, region_weights: Literal["softmax", "score", "increase"] = "softmax"
) -> FusionSteps:
    """Fusion-CAM: Grad-CAM, denoised by the percentile of its own pixels, and the region map, fused per pixel.

    A negative beta counts as 0; if both do, the region map has all of the weight.
    """
    denoised = denoise(weighted_cam(evidence, evidence.gradients.mean((1, 2))), theta)
    region = region_cam(evidence, region_weights)
    beta_denoising, beta_region = contribution(evidence, denoised), contribution(evidence, region)
    shares = _shares(beta_denoising, beta_region)
    united = _scale(shares[0] * denoised + shares[1] * region, evidence)
    beta_united = contribution(evidence, united)
    second = _shares(beta_united, shares[1])
    similarity, fused = fuse(second[0] * united, second[1] * region)
    betas, cam = (beta_denoising, beta_region, beta_united), _scale(fused, evidence)
    return FusionSteps(denoised, region, united, *betas, shares, second, similarity, cam)


def fuse(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity of two maps, and their fusion: the larger value where they agree, the mean where they do not."""
    similarity = (1 - (first - second).abs()).clamp(0, 1)
    return similarity, similarity * torch.maximum(first, second) + (1 - similarity) * (first + second) / 2


def _shares(first: float, second: float) -> tuple[float, float]:
    first, second = max(first, 0.0), max(second, 0.0)
    return (first / (first + second), second / (first + second)) if first + second > 0 else (0.0, 1.0)


@dataclass(eq=False, repr=False)
class UnionCAM:
    """UnionCAM behind pytorch-grad-cam's call, for any classifier and whatever tensor it takes.

    Example:
        >>> cam = UnionCAM(model, target_layers=[model.layer4[-1]])
        >>> maps = cam(input_tensor)    # (N, H, W) float32 in [0, 1], each image's first choice explained
        >>> maps = cam(input_tensor, targets=[ClassifierOutputTarget(281)] * len(input_tensor))

    With several target layers the map is the mean of theirs, rescaled. The black image of the paper is a tensor of
    zeros; if the model takes normalized images, zeros are the mean colour.
    """

    model: nn.Module
    target_layers: Sequence[nn.Module | str]
    theta: float = 10
    protocol: Protocol = Protocol()
    score: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        if isinstance(self.target_layers, nn.Module | str):
            self.target_layers = [self.target_layers]
        for layer in self.target_layers:
            _find_layer(self.model, layer)

    def __call__(self, input_tensor: Tensor, targets: Sequence | None = None) -> np.ndarray:
        """Explain images (N, 3, H, W), one class each: (N, H, W) float32 in [0, 1]. Arguments as in `capture`."""
        per_layer = []
        for layer in self.target_layers:
            options = {"target_layer": layer, "targets": targets, "score": self.score, "protocol": self.protocol}
            evidences = capture(self.model, input_tensor, **options)
            score_regions(evidences)
            per_layer.append(torch.stack([self.explain(evidence).cam for evidence in evidences]))
        return min_max(torch.stack(per_layer).mean(0)).float().cpu().numpy()

    def explain(self, evidence: Evidence) -> UnionSteps:
        return union_cam(evidence, self.theta)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        """Nothing to release: no hook outlives a call."""


@dataclass(eq=False, repr=False)
class FusionCAM(UnionCAM):
    """Fusion-CAM behind the same call. `region_weights` as in `fusion_cam`, whatever the Protocol's are."""

    region_weights: Literal["softmax", "score", "increase"] = "softmax"

    def explain(self, evidence: Evidence) -> FusionSteps:
        return fusion_cam(evidence, self.theta, self.region_weights)


def min_max(maps: Tensor) -> Tensor:
    """Each map (..., H, W) to [0, 1] by its own minimum and maximum; a constant map to 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


def _scale(maps: Tensor, evidence: Evidence) -> Tensor:
    return min_max(maps) if evidence.protocol.map_scale == "min-max" else maps


def upsample(maps: Tensor, evidence: Evidence) -> Tensor:
    """Maps (N, h, w) upsampled bilinearly to the image's size and scaled: (N, H, W)."""
    # Bilinear interpolation is a matrix product along each axis, done so it is several times faster.
    down, across = (
        F.interpolate(torch.eye(small).to(maps)[None], size=large, mode="linear", align_corners=False)[0]
        for small, large in zip(maps.shape[1:], evidence.image.shape[1:], strict=True)
    )
    return _scale(down.T @ maps @ across, evidence)


def saliency_map(cam: Tensor, evidence: Evidence) -> Tensor:
    """A weighted sum of feature maps (h, w) made a saliency map (H, W)."""
    return upsample((cam.relu() if evidence.protocol.relu else cam)[None], evidence)[0]


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards each of its modules in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with evaluation(model):
        return model(images.contiguous(memory_format=torch.channels_last))  # up to twice as fast on a CPU


def _gradient(score: Tensor, activations: Tensor, name: str) -> Tensor:
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, activations, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(f"The class score does not depend on the layer {name}, so it has no gradient there.")
    return gradient


def _background(model: nn.Module, images: Tensor, protocol: Protocol) -> Tensor | None:
    if protocol.mask_space == "pixel":
        return None
    # Masking the normalized tensor, mask * (I - mean) / std, is masking towards the mean colour in pixel space.
    if getattr(model, "mean", None) is None:
        raise ValueError("mask_space='normalized' needs a classifier with its mean colour in an attribute `mean`.")
    return model.mean.reshape(3, 1, 1).to(images)


def _is_four_dimensional(output) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4


def _kind(value) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _find_layer(model: nn.Module, layer: nn.Module | str) -> tuple[nn.Module, str]:
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if module is layer or name == layer:
            return module, name or type(model).__name__
    wanted = repr(layer) if isinstance(layer, str) else f"{type(layer).__name__} that was given"
    last = ", ".join(list(modules)[-5:])
    raise ValueError(f"{type(model).__name__} has no layer {wanted}; its last ones are {last}.")


def _check_images(images: Tensor, model: nn.Module):
    if not _is_four_dimensional(images) or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"The images are {_kind(images)}; a tensor N×3×H×W is needed.")
    if not images.is_floating_point():
        raise TypeError(f"The images are {images.dtype}; floating point is needed: images / 255 for 8-bit ones.")
    if not images.isfinite().all():
        raise ValueError(f"{int((~images.isfinite()).sum())} values of the images are NaN or infinite.")
    low, high = getattr(model, "input_range", (-torch.inf, torch.inf))
    if images.min() < low or images.max() > high:
        found = f"{float(images.min()):.3g} to {float(images.max()):.3g}"
        raise ValueError(f"The images range from {found}; this classifier takes {low:g} to {high:g}.")
    if (dtype := next(model.parameters(), images).dtype) != images.dtype:
        raise TypeError(f"The images are {images.dtype} and the model is {dtype}; they must be the same.")


def _check_targets(targets: Sequence | None, images: Tensor) -> list[list[int]] | None:
    """Each image's classes, from indices, sequences of indices or pytorch-grad-cam's ClassifierOutputTargets."""
    if targets is None:
        return None
    if isinstance(targets, str) or not hasattr(targets, "__len__") or len(targets) != len(images):
        raise ValueError(f"targets is {targets!r}; one target for each of the {len(images)} images is needed.")
    classes = []
    for target in targets.tolist() if isinstance(targets, Tensor) else targets:
        indices = np.atleast_1d(target.category if type(target).__name__ == "ClassifierOutputTarget" else target)
        if indices.ndim > 1 or indices.size == 0 or indices.dtype.kind not in "iu":
            raise TypeError(f"A target is {target!r}; it must be a class index or a ClassifierOutputTarget.")
        classes.append(indices.tolist())
    return classes


def _check_outputs(logits, images: Tensor, classes: list[list[int]] | None, outputs: list, name: str):
    """The classes to explain, once the forward pass has shown that there are logits, such classes and feature maps."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"The model returns {_kind(logits)} for {len(images)} images; logits N×C are needed.")
    if not logits.isfinite().all():
        raise ValueError("The model's logits hold NaN or infinite values.")
    for c in (c for per_image in classes or [] for c in per_image):
        if not 0 <= c < logits.shape[1]:
            raise ValueError(f"The target {c} is out of range: the classifier has classes 0 to {logits.shape[1] - 1}.")
    if not outputs:
        raise ValueError(f"The layer {name} was not reached in the forward pass.")
    return classes or [[int(c)] for c in logits.argmax(1)]
