"""UnionCAM: where in an image the evidence for a class lies, by Equations 1-8 of the paper.

    Hu H, Wang R, Lin H, Yu H (2024). UnionCAM: enhancing CNN interpretability through denoising, weighted fusion, and
    selective high-quality class activation mapping. Front. Neurorobot. 18:1490198. doi.org/10.3389/fnbot.2024.1490198

The file reads from top to bottom in the order in which the data flow (Algorithm 1 of the paper):

    Protocol                                what the paper leaves open, and what is chosen here
    Network, Scorer, Evidence, capture      line 1: one forward and one backward pass of the classifier
    denoise, pixel_weights, denoised_cam    lines 2-3, Eqs. 1-3: Activation Map Denoising (AMD)
    score_regions, region_cam               lines 4-5: one masked image per channel, and what their scores weigh
    contribution                            Eqs. 4, 5, 7: what a map contributes to the class score
    UnionSteps, union_cam                   lines 6-10, Eqs. 6-8: Activation Map Union and Selection (AMU, AMS)
    UnionCAM                                all of it behind pytorch-grad-cam's call

Shapes: N images, K channels of the target layer of size h×w, images of size H×W, C classes. The examples below use a
random network, or explain a white image of 2×2 pixels with two channels, whose class score is the mean of its pixels:
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
>>> A, W = torch.tensor([[[0.0, 1], [2, 3]], [[3, 0], [0, 0]]]), torch.tensor([[[-1, 1], [2, 3.0]], [[2, 0], [0, -1]]])
>>> toy = Evidence(torch.ones(3, 2, 2), 0, A, W, 1.0, 0.0, score=Scorer(lambda images: images.mean((1, 2, 3)), 0))
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
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


class Network:
    """What scores images without gradient: (n, 3, H, W) -> logits (n, C), or at once f^c (n,). A faster one derives."""

    def __init__(self, function: Callable[[Tensor], Tensor], batch: int = 8):
        self.function, self.batch = function, batch

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)

    def stream(self, make: Callable[[int, int], Tensor], count: int) -> Tensor:
        """The output for `count` images, of which make(first, last) gives a few, so that all never exist at once."""
        return torch.cat([self(make(i, min(i + self.batch, count))) for i in range(0, count, self.batch)])

    def region_pass(self, evidences: Sequence["Evidence"]) -> list[Tensor | None]:
        """The output for mask_k ∘ I0 of each live channel k, for each image; None where no channel is live."""
        live = [evidence.live.nonzero().flatten() for evidence in evidences]
        makes = [lambda i, j, e=e, k=k: e.masked(e.masks(k[i:j])) for e, k in zip(evidences, live, strict=True)]
        return [self.stream(make, len(k)) if len(k) else None for make, k in zip(makes, live, strict=True)]


@dataclass(frozen=True, eq=False)
class Scorer:
    """f^c: images (N, 3, H, W) -> score of class c (N,). A plain function becomes a Network."""

    network: Network
    target: int
    class_score: str = "probability"

    def __post_init__(self):
        if not isinstance(self.network, Network):
            object.__setattr__(self, "network", Network(self.network))

    def __call__(self, images: Tensor) -> Tensor:
        return self.read(self.network(images))

    def read(self, y: Tensor) -> Tensor:
        """f^c (N,) from what the network returned: logits y (N, C), or f^c itself."""
        return y if y.ndim == 1 else (y.softmax(1) if self.class_score == "probability" else y)[:, self.target]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one forward and one backward pass give for one image and one class. Every map is a function of it."""

    image: Tensor  # I0, (3, H, W), as the classifier takes it
    target: int  # c, the class that is explained
    activations: Tensor  # A, (K, h, w): the feature maps of the target layer
    gradients: Tensor  # W, (K, h, w): d logit_c / d A
    probability: float  # softmax probability of c for the whole image
    black_score: float  # f^c(I_b): the score of what a mask of zeros leaves
    score: Scorer  # f^c: images (N, 3, H, W) -> (N,)
    protocol: Protocol = Protocol()
    background: Tensor | float = 0.0  # what a mask of 0 shows: black, or a colour (3, 1, 1)
    regions: dict = field(default_factory=dict, repr=False)  # region_key -> region_output; an image's classes share it

    def scaled(self, maps: Tensor) -> Tensor:
        """Maps (..., H, W), each scaled as the Protocol says: L_Union, and every map that was upsampled."""
        return min_max(maps) if self.protocol.map_scale == "min-max" else maps

    def upsampled(self, maps: Tensor) -> Tensor:
        """Maps (n, h, w) upsampled bilinearly to the image's size and scaled: (n, H, W)."""
        # Bilinear interpolation is a matrix product along each axis, done so it is several times faster.
        down, across = (
            nn.functional.interpolate(torch.eye(small).to(maps)[None], size=large, mode="linear", align_corners=False)[
                0
            ]
            for small, large in zip(maps.shape[1:], self.image.shape[1:], strict=True)
        )
        return self.scaled(down.T @ maps @ across)

    def masks(self, channels: Tensor | list[int] | slice) -> Tensor:
        """mask_k for each of n channels k: their feature maps upsampled and scaled, (n, H, W)."""
        return self.upsampled(self.activations[channels])

    def masked(self, masks: Tensor) -> Tensor:
        """mask ∘ I0 for each of the masks (N, H, W): images (N, 3, H, W)."""
        return self.background + masks[:, None].to(self.image) * (self.image - self.background)

    @cached_property
    def live(self) -> Tensor:
        """(K,) bool: the channels that are not constant. A constant one masks nothing and is never scored."""
        return self.activations.amax((1, 2)) > self.activations.amin((1, 2))

    @property
    def region_key(self) -> tuple:
        """All that decides `region_output`, by identity: what `dataclasses.replace` changes is never taken for this."""
        return self.score.network, self.image, self.activations, self.background, self.protocol.map_scale

    @property
    def region_output(self) -> Tensor | None:
        """Logits (live, C), or f^c (live,), for mask_k ∘ I0 of each live channel, computed once; None without any."""
        score_regions([self])
        return self.regions[self.region_key]

    @property
    def region_scores(self) -> Tensor:
        """(K,): f^c(mask_k ∘ I0), 0 for constant channels."""
        return region_weights(self, "score")


def capture(
    model: nn.Module,
    images: Tensor,
    *,
    target_layer: nn.Module | str,
    targets: Sequence | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    protocol: Protocol = Protocol(),
) -> list[Evidence]:
    """Algorithm 1, line 1: one forward and one backward pass, W = d logit_c / d A, and the score of the black image.

    Args:
        model: classifier, images -> logits (N, C), left as it was; its `input_range`, if any, bounds the images.
        images: (N, 3, H, W), floating point, as the model takes them.
        target_layer: a module of the model, or its dotted name, with output (N, K, h, w); its last call counts.
        targets: one class index per image, or a sequence of several per image; None: the network's first choice.
        score: what scores masked images, -> logits (N, C) or f^c (N,); None: the model's `gradient_free`, or the model.
    Returns one Evidence for each image and class, in their order. Raises TypeError or ValueError, one sentence.
    >>> [evidence.target for evidence in capture(model, torch.rand(2, 3, 8, 8), target_layer="1", targets=[0, [1, 2]])]
    [0, 1, 2]
    """
    layer, name = _find_layer(model, target_layer)
    classes, outputs = _check_inputs(model, images, targets, protocol), []

    def start_graph(_module, _inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise ValueError(f"The layer {name} returns {_kind(output)}; a target layer returns N×K×h×w.")
        # The graph begins here: nothing below is differentiated, and an in-place ReLU above changes a copy.
        torch.set_grad_enabled(True)
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    with torch.inference_mode(False), torch.no_grad(), evaluation(model), layer.register_forward_hook(start_graph):
        images = images.detach().clone().to(next(model.parameters(), images).device)
        # Masking the normalized tensor, mask * (I - mean) / std, is masking towards the mean colour in pixel space.
        background = torch.as_tensor(model.mean).reshape(3, 1, 1).to(images) if protocol.mask_space != "pixel" else 0.0
        logits = model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(f"The model returns {_kind(logits)} for {len(images)} images; logits N×C are needed.")
        if not logits.isfinite().all():
            raise ValueError("The model's logits hold NaN or infinite values.")
        if not outputs:
            raise ValueError(f"The layer {name} was not reached in the forward pass.")
        classes, activations, grads = classes or [[int(c)] for c in logits.argmax(1)], outputs[-1], []
        for c in (c for group in classes for c in group if not 0 <= c < logits.shape[1]):
            raise ValueError(f"The target {c} is out of range: the classifier has classes 0 to {logits.shape[1] - 1}.")
        torch.set_grad_enabled(True)
        probabilities = logits.softmax(1)
        scores = logits if protocol.gradient_of == "logit" else probabilities
        for j in range(max(map(len, classes))):
            # Images of a batch do not touch each other: one backward pass serves the j-th class of all of them.
            y = torch.stack([scores[i, c[j]] for i, c in enumerate(classes) if j < len(c)]).sum()
            grads += torch.autograd.grad(y, activations, None, True, allow_unused=True) if y.requires_grad else [None]
            if grads[-1] is None:
                raise ValueError(f"The class score does not depend on the layer {name}: it has no gradient there.")
    # A CPU is fastest while a batch stays in its cache, and often twice as fast in channels_last.
    forward = evaluation(model)(lambda images: model(images.contiguous(memory_format=torch.channels_last)))
    network = score or getattr(model, "gradient_free", None) or forward
    network = network if isinstance(network, Network) else Network(network, 8 if images.device.type == "cpu" else 64)
    black, evidences = network(torch.zeros_like(images[:1]) + background), []
    precise = torch.promote_types(activations.dtype, torch.float32)
    for i, (image, maps) in enumerate(zip(images, activations.detach().to(precise), strict=True)):
        regions: dict = {}
        for c, gradient in zip(classes[i], grads, strict=False):
            scorer, probability = Scorer(network, c, protocol.class_score), float(probabilities[i, c].detach())
            captured = image, c, maps, gradient[i].to(precise), probability, float(scorer.read(black)), scorer
            evidences.append(Evidence(*captured, protocol, background, regions))
    return evidences


def weighted_cam(evidence: Evidence, weights: Tensor) -> Tensor:
    """ReLU(Σ_k w_k ∘ A^k) for weights (K,), or (K, h, w), made a saliency map: (H, W) in [0, 1].
    >>> weighted_cam(toy, torch.tensor([0.0, 1])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    maps = evidence.activations
    cam = torch.einsum("k,khw->hw", weights, maps) if weights.ndim == 1 else (weights * maps).sum(0)
    return evidence.upsampled((cam.relu() if evidence.protocol.relu else cam)[None])[0]


def denoise(gradients: Tensor, theta: float, positive: bool = False) -> Tensor:
    """Eq. 1: W^k where it is ≥ its theta-th percentile, theta in [0, 100], else 0; for each channel k of (..., h, w).
    Percentiles are interpolated linearly. `positive` takes those of the channel's positive values alone.
    >>> denoise(W[0], 50).tolist()
    [[0.0, 0.0], [2.0, 3.0]]
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
    return flat.where((flat >= threshold) & ((flat > 0) | (not positive)), 0).view_as(gradients)


def pixel_weights(gradients: Tensor) -> Tensor:
    """Eq. 3 times ReLU(W), the factor of A in Eq. 2: ReLU(W^k) / Σ ReLU(W^k), (K, h, w); 0 where that sum is 0.
    >>> pixel_weights(W)[1].tolist()  # the weights of a channel sum to 1, however small its gradients are
    [[1.0, 0.0], [0.0, 0.0]]
    """
    positive = gradients.relu()
    total = positive.sum((-2, -1), keepdim=True)
    return (positive / total).where(total > 0, 0)


def denoised_cam(evidence: Evidence, theta: float = 10) -> Tensor:
    """Eqs. 1-3: L_Denoising = ReLU(Σ_k alpha^k ∘ ReLU(W^k) ∘ A^k), W denoised: (H, W) in [0, 1].
    >>> denoised_cam(toy, theta=0)[1]
    tensor([0.1765, 0.4706])
    """
    reading, gradients = evidence.protocol.percentile_over, evidence.gradients
    if reading != "map":
        gradients = denoise(gradients, theta, positive=reading == "positive")
    cam = weighted_cam(evidence, pixel_weights(gradients))
    return denoise(cam, theta) if reading == "map" else cam


def score_regions(evidences: Sequence[Evidence]):
    """Algorithm 1, line 4, for several images together: f^c(mask_k ∘ I0), kept as the `region_output` of each.
    >>> score_regions([toy]), toy.region_scores
    (None, tensor([0.5000, 0.2500]))
    """
    new = {evidence.region_key: evidence for evidence in evidences if evidence.region_key not in evidence.regions}
    for network in dict.fromkeys(key[0] for key in new):
        mine = [evidence for evidence in new.values() if evidence.score.network is network]
        for evidence, output in zip(mine, network.region_pass(mine), strict=True):
            evidence.regions[evidence.region_key] = output


def region_weights(evidence: Evidence, kind: str | None = None) -> Tensor:
    """W_R^k = f^c(mask_k ∘ I0), (K,): what channel k, used as a mask, leaves of the class score; 0 if it is constant.
    `kind` is one of the Protocol's region_weights, by default the Evidence's own.
    >>> region_weights(toy, "increase")
    tensor([0.5000, 0.2500])
    """
    kind = (evidence.protocol if kind is None else replace(evidence.protocol, region_weights=kind)).region_weights
    weights, output = torch.zeros_like(evidence.activations[:, 0, 0]), evidence.region_output
    if output is None:
        return weights
    if kind == "softmax" and output.ndim == 1:
        raise ValueError("region_weights='softmax' needs logits, but the given score returns f^c alone.")
    scores = (output[:, evidence.target] if kind == "softmax" else evidence.score.read(output)).to(weights)
    constant, black = -torch.inf if kind == "softmax" else 0.0, evidence.black_score * (kind == "increase")
    weights = (weights + constant).masked_scatter(evidence.live, scores - black)
    return weights.softmax(0) if kind == "softmax" else weights


def region_cam(evidence: Evidence, kind: str | None = None) -> Tensor:
    """Algorithm 1, lines 4-5: L_Region = ReLU(Σ_k W_R^k A^k), (H, W) in [0, 1]. `kind` as in `region_weights`.
    >>> region_cam(toy).tolist()
    [[0.25, 0.0], [0.5, 1.0]]
    """
    return weighted_cam(evidence, region_weights(evidence, kind))


def contribution(evidence: Evidence, cam: Tensor) -> float:
    """Eqs. 4, 5 and 7: beta = f^c(cam ∘ I0) - f^c(I_b), for a map (H, W).
    >>> contribution(toy, torch.tensor([[1.0, 0], [0, 0]]))
    0.25
    """
    if (size := evidence.image.shape[1:]) != (cam := torch.as_tensor(cam)).shape:
        raise ValueError(f"The map is {list(cam.shape)}; it must have the image's size {list(size)}.")
    return float(evidence.score(evidence.masked(cam[None]))) - evidence.black_score


@dataclass(frozen=True, eq=False)
class UnionSteps:
    """Every intermediate of Algorithm 1. Maps are (H, W) in [0, 1]; betas are differences of class scores."""

    denoised: Tensor
    region: Tensor
    united: Tensor
    beta_denoising: float
    beta_region: float
    beta_united: float
    selected: Literal["united", "region"]
    cam: Tensor  # L_UnionCAM, the selected map


def union_cam(evidence: Evidence, theta: float = 10, weighted: bool = True) -> UnionSteps:
    """Algorithm 1: beta_D L_Denoising + beta_R L_Region (Eq. 6), or L_Region where that contributes as much (Eq. 8).
    With theta=0 nothing is denoised; with weighted=False both maps weigh 1 in Eq. 6: Table 4's base has both.
    >>> union_cam(toy).selected, round(union_cam(toy).beta_region, 4), round(union_cam(toy).beta_united, 4)
    ('united', 0.4375, 0.5718)
    """
    denoised, region = denoised_cam(evidence, theta), region_cam(evidence)
    betas = contribution(evidence, denoised), contribution(evidence, region)
    weights = [max(beta, 0.0) if evidence.protocol.clamp_beta else beta for beta in betas] if weighted else [1.0, 1.0]
    united = evidence.scaled(weights[0] * denoised + weights[1] * region)
    beta_united = contribution(evidence, united)
    # Two weights of 0 unite nothing: then the region map stands, whatever the empty map scores.
    selected = "united" if any(weights) and beta_united > betas[1] else "region"
    cam = united if selected == "united" else region
    return UnionSteps(denoised, region, united, *betas, beta_united, selected, cam)


@dataclass(eq=False, repr=False)
class UnionCAM(AbstractContextManager):
    """UnionCAM behind pytorch-grad-cam's call, for any classifier and whatever tensor it takes.
    With several target layers the map is the mean of theirs, rescaled. Black is 0: normalized images' mean colour.
    >>> UnionCAM(model, target_layers=[model[1]])(input_tensor=torch.rand(7, 3, 8, 8)).shape
    (7, 8, 8)
    """

    model: nn.Module
    target_layers: Sequence[nn.Module | str]
    theta: float = 10
    protocol: Protocol = Protocol()
    score: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        layers = [self.target_layers] if isinstance(self.target_layers, nn.Module | str) else self.target_layers
        self.target_layers = [_find_layer(self.model, layer)[0] for layer in layers]

    def __call__(self, input_tensor: Tensor, targets: Sequence | None = None) -> np.ndarray:
        """Explain images (N, 3, H, W), one class each: (N, H, W) float32 in [0, 1]. Arguments as in `capture`."""
        captured = partial(capture, self.model, input_tensor, targets=targets, score=self.score, protocol=self.protocol)
        per_layer = []
        for layer in self.target_layers:
            score_regions(evidences := captured(target_layer=layer))
            per_layer.append(torch.stack([self.explain(evidence).cam for evidence in evidences]))
        return min_max(torch.stack(per_layer).mean(0)).float().cpu().numpy()

    def explain(self, evidence: Evidence) -> UnionSteps | Any:
        return union_cam(evidence, self.theta)

    def __exit__(self, *_exception):
        """Nothing to release: no hook outlives a call."""


def min_max(maps: Tensor) -> Tensor:
    """(L - min L) / (max L - min L) for each map of (..., H, W); a constant map becomes 0.
    >>> min_max(torch.tensor([[2.0, 4, 6]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


@contextmanager
def evaluation(model: nn.Module) -> Generator[None, None, None]:
    """The model in evaluation mode, and afterwards each of its modules in the mode it was in.
    >>> with evaluation(model): print(model.training)
    False
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _kind(value) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _find_layer(model: nn.Module, layer: nn.Module | str) -> tuple[nn.Module, str]:
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if module is layer or name == layer:
            return module, name or type(model).__name__
    wanted = repr(layer) if isinstance(layer, str) else f"{type(layer).__name__} that was given"
    raise ValueError(f"{type(model).__name__} has no layer {wanted}; its last ones are {', '.join([*modules][-5:])}.")


def _check_inputs(model: nn.Module, images: Tensor, targets: Sequence | None, protocol: Protocol):
    """Each image's classes, from indices, sequences of indices or pytorch-grad-cam's ClassifierOutputTargets."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"The images are {_kind(images)}; a tensor N×3×H×W is needed.")
    if not images.is_floating_point():
        raise TypeError(f"The images are {images.dtype}; floating point is needed: images / 255 for 8-bit ones.")
    if not images.isfinite().all():
        raise ValueError(f"{int((~images.isfinite()).sum())} values of the images are NaN or infinite.")
    (low, high), least, most = getattr(model, "input_range", (-torch.inf, torch.inf)), images.min(), images.max()
    if least < low or most > high:
        raise ValueError(f"The images range from {least:.3g} to {most:.3g}; this classifier takes {low:g} to {high:g}.")
    if (dtype := next(model.parameters(), images).dtype) != images.dtype:
        raise TypeError(f"The images are {images.dtype} and the model is {dtype}; they must be the same.")
    if protocol.mask_space == "normalized" and getattr(model, "mean", None) is None:
        raise ValueError("mask_space='normalized' needs a classifier with its mean colour in an attribute `mean`.")
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
