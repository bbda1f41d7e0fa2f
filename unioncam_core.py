"""UnionCAM: where in an image the evidence for a class lies, by Equations 1-8 of the paper.

    Hu H, Wang R, Lin H, Yu H (2024). UnionCAM: enhancing CNN interpretability through denoising, weighted fusion, and
    selective high-quality class activation mapping. Front. Neurorobot. 18:1490198. doi.org/10.3389/fnbot.2024.1490198

The examples explain a random network, or a white image with two channels, whose class score is the mean of its pixels:
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
>>> A, W = torch.tensor([[[0.0, 1], [2, 3]], [[3, 0], [0, 0]]]), torch.tensor([[[-1, 1], [2, 3.0]], [[2, 0], [0, -1]]])
>>> toy = Evidence(torch.ones(3, 2, 2), 0, A, W, 1.0, 0.0, score=Scorer(lambda images: images.mean((1, 2, 3)), 0))"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from threading import RLock, get_ident
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

_LOCK = RLock()  # explanations in several threads take turns: they switch a network's mode and hook its layers


class NonFiniteScore(ValueError):
    """The network's output for an image is NaN or infinite."""


def _need(condition: Any, sentence: str, error: type[Exception] = ValueError):
    if not condition:
        raise error(sentence)


@dataclass(frozen=True)
class Protocol:
    """What the paper does not say, as named options. The defaults are the plainest reading of its text."""

    class_score: Literal["probability", "sigmoid", "logit"] = "probability"  # f^c: by softmax, by sigmoid, or the logit
    gradient_of: Literal["logit", "probability"] = "logit"  # what W differentiates
    mask_space: Literal["pixel", "normalized"] = "pixel"  # what a mask of 0 shows: black, or the mean colour
    region_weights: Literal["score", "softmax", "increase"] = "score"  # W_R: f^c, softmax_k of logit_c, f^c - f^c(I_b)
    map_scale: Literal["min-max", "none"] = "min-max"  # of an upsampled map before it masks an image or is added
    relu: bool = True  # negative evidence in L_Denoising and L_Region is set to 0
    percentile_over: Literal["channel", "positive", "map"] = "channel"  # Eq. 1: of W^k, of W^k > 0, of the map's pixels
    clamp_beta: bool = False  # a negative contribution counts as 0 in Eq. 6

    def __post_init__(self):
        for known in fields(self):
            value, allowed = getattr(self, known.name), get_args(known.type) or (True, False)
            _need(value in allowed, f"Protocol.{known.name} is {value!r}; it can be {' or '.join(map(repr, allowed))}.")


class Network:
    """What scores images without gradient: (n, channels, H, W) -> logits (n, C), or f^c (n,). A faster one derives."""

    def __init__(self, function: Callable[[Tensor], Tensor], batch: int = 8):
        self.function, self.batch = function, batch

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)

    def stream(self, make: Callable[[int, int], Tensor], count: int) -> Tensor:
        """The output for `count` images, of which make(first, last) gives a few, so that all never exist at once."""
        return torch.cat([self(make(i, min(i + self.batch, count))) for i in range(0, count, self.batch)])

    def check(self, images: Tensor, logits: Tensor):
        """Raise a ValueError if images are scored otherwise, beside black ones, than by the model: `logits` are its."""
        again, allowed = self(torch.cat([0 * images, images])), 0.01 if images.dtype.itemsize > 2 else 0.1
        far = (again[len(images) :] - logits).abs().max() > allowed * logits.abs().max().clamp(0.1)
        _need(not far, "The logits of an image change from call to call, or with the other images of a batch.")

    def region_pass(self, evidences: Sequence["Evidence"]) -> list[Tensor | None]:
        """The output for mask_k ∘ I0 of each live channel k, for each image; None where no channel is live."""
        live = [evidence.live.nonzero().flatten() for evidence in evidences]
        makes = [lambda i, j, e=e, k=k: e.masked(e.masks(k[i:j])) for e, k in zip(evidences, live, strict=True)]
        return [self.stream(make, len(k)) if len(k) else None for make, k in zip(makes, live, strict=True)]


@dataclass(frozen=True, eq=False)
class Scorer:
    """f^c: images (N, channels, H, W) -> score of class c (N,). A plain function becomes a Network."""

    network: Network
    target: Any  # c, or a function: logits (C,) of an image -> f^c itself, a tensor
    class_score: str = "probability"

    def __post_init__(self):
        if not isinstance(self.network, Network):
            object.__setattr__(self, "network", Network(self.network))

    def __call__(self, images: Tensor, image: Callable[[int], str] = "image {}".format) -> Tensor:
        return self.read(self.network(images), image)

    def read(self, y: Tensor, image: Callable[[int], str] = "image {}".format) -> Tensor:
        """f^c (N,) from what the network returned: logits y (N, C), or f^c itself. `image` names one in an error."""
        if y.ndim == 2 and callable(self.target):
            y = torch.stack([torch.as_tensor(self.target(row)).squeeze() for row in y])
            _need(y.ndim == 1, f"The target {self.target!r} must return a single number.")
        elif y.ndim == 2:
            single, y = y.shape[1] == 1, torch.cat([-y, y], 1) if y.shape[1] == 1 else y  # one logit: classes 0 and 1
            sigmoid = single or self.class_score == "sigmoid"
            y = (y if self.class_score == "logit" else y.sigmoid() if sigmoid else y.softmax(1))[:, self.target]
        for i in (~y.isfinite()).nonzero().flatten().tolist():
            raise NonFiniteScore(f"The model's logits hold NaN or infinite values for {image(i)}.")
        return y


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one forward and one backward pass give for one image and one class. Every map is a function of it."""

    image: Tensor  # I0, (channels, H, W), as the classifier takes it
    target: Any  # c, the class that is explained, or a function: logits (C,) -> f^c
    activations: Tensor  # A, (K, h, w): the feature maps of the target layer
    gradients: Tensor  # W, (K, h, w): d logit_c / d A
    probability: float  # of c for the whole image; f^c itself if the target is a function
    black_score: float  # f^c(I_b): the score of what a mask of zeros leaves
    score: Scorer  # f^c: images (N, channels, H, W) -> (N,)
    protocol: Protocol = Protocol()
    background: Tensor | float = 0.0  # what a mask of 0 shows: black, or a colour (channels, 1, 1)
    regions: dict = field(default_factory=dict, repr=False)  # region_key -> region_output; an image's classes share it

    def scaled(self, maps: Tensor) -> Tensor:
        """Maps (..., H, W), each scaled as the Protocol says: L_Union, and every map that was upsampled."""
        return min_max(maps) if self.protocol.map_scale == "min-max" else maps

    def upsampled(self, maps: Tensor) -> Tensor:
        """Maps (n, h, w) upsampled bilinearly to the image's size and scaled: (n, H, W)."""
        # Bilinear interpolation is a matrix product along each axis, done so it is several times faster.
        sides = zip(maps.shape[1:], self.image.shape[1:], strict=True)
        down, across = (nn.functional.interpolate(torch.eye(n).to(maps)[None], m, mode="linear")[0] for n, m in sides)
        return self.scaled(down.T @ maps @ across)

    def masks(self, channels: Tensor | list[int] | slice) -> Tensor:
        """mask_k for each of n channels k: their feature maps upsampled and scaled, (n, H, W)."""
        return self.upsampled(self.activations[channels])

    def masked(self, masks: Tensor) -> Tensor:
        """mask ∘ I0 for each of the masks (N, H, W): images (N, channels, H, W)."""
        return self.background + masks[:, None].to(self.image) * (self.image - self.background)

    @cached_property
    def live(self) -> Tensor:
        """(K,) bool: the channels that are not constant. A constant one masks nothing and is never scored."""
        return self.activations.amax((1, 2)) > self.activations.amin((1, 2))

    # All that decides `region_output`, by identity: what `dataclasses.replace` changes is never taken for this.
    region_key = property(lambda e: (e.score.network, e.image, e.activations, e.background, e.protocol.map_scale))
    region_output = property(lambda e: score_regions([e]) or e.regions[e.region_key])  # outputs for the live channels
    region_scores = property(lambda e: region_weights(e, "score"))  # (K,): f^c(mask_k ∘ I0), 0 for constant channels


def capture(
    model: nn.Module,
    images: Tensor,
    *,
    target_layer: nn.Module | str,
    targets: Sequence | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    protocol: Protocol = Protocol(),
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> list[Evidence]:
    """Algorithm 1, line 1: one forward and one backward pass, W = d logit_c / d A, and the score of the black image.
    The model returns logits (N, C) for images (N, channels, H, W); one alone is that of class 1, minus it of class 0.
    The target layer, a module or its dotted name, returns (N, K, h, w) in its last call, or by `reshape_transform`. A
    target is a class, several classes, pytorch-grad-cam's target object, or a function, logits (C,) -> f^c; None is the
    first choice. `score`, by default the model or its `gradient_free`, returns logits or f^c (N,) for masked images.
    >>> assert capture(model, torch.rand(1, 3, 8, 8), target_layer="1", targets=[4])[0].target == 4"""
    layer, name = _find_layer(model, target_layer)
    classes = _check_inputs(model, images, targets, protocol)
    reshape, calls, grads, thread = reshape_transform or (lambda output: output), [], [], get_ident()

    def start_graph(_module, _inputs, output):
        if get_ident() != thread:  # a prediction in another thread
            return None
        good = isinstance(output, Tensor) and output.is_floating_point()
        _need(good, f"The layer {name} returns a {type(output).__name__}; a target layer returns floats N×K×h×w.")
        # The graph begins here: nothing below is differentiated, and an in-place ReLU above changes a copy.
        torch.set_grad_enabled(True)
        calls.append(output.detach().requires_grad_())
        return calls[-1].clone()

    with torch.inference_mode(False), torch.no_grad(), evaluation(model):
        images = images.detach().clone().to(next(model.parameters(), images).device)
        with layer.register_forward_hook(start_graph):
            y = _logits(model(images), len(images))
        _need(calls, f"The layer {name} was not reached in the forward pass.")
        if len(calls[-1]) != len(images) > 1:  # a model can run its batch in parts: it has none if an image is alone
            kept: Any = {"score": score, "protocol": protocol, "reshape_transform": reshape_transform}
            pairs = zip(images.split(1), [[c] for c in classes] if classes else [None] * len(images), strict=True)
            return [e for image, c in pairs for e in capture(model, image, target_layer=layer, targets=c, **kept)]
        activations = reshape(output := calls[-1].detach())
        if activations is not output or not reshape_transform:
            _check_maps(model, images, layer, name, activations, bool(reshape_transform))
        classes = classes or [[int(c)] for c in (y.argmax(1) if y.shape[1] > 1 else y[:, 0] > 0)]
        for c in (c for group in classes for c in group if isinstance(c, int) and not 0 <= c < max(2, y.shape[1])):
            raise ValueError(f"The target {c} is out of range: there are classes 0 to {max(2, y.shape[1]) - 1}.")
        kinds = {"logit": "logit", "probability": "sigmoid" if protocol.class_score == "sigmoid" else "probability"}
        torch.set_grad_enabled(True)
        for j in range(max(map(len, classes))):
            # Images of a batch do not touch each other: one backward pass serves the j-th class of all of them.
            scorers = [Scorer(Network(model), c[min(j, len(c) - 1)], kinds[protocol.gradient_of]) for c in classes]
            f = torch.cat([f_c.read(y[i : i + 1], f"image {i}".format) for i, f_c in enumerate(scorers)]).sum()
            found = torch.autograd.grad(f, calls[-1], None, True, allow_unused=True) if f.requires_grad else [None]
            known = found[0] is not None and found[0].isfinite().all() and reshape(found[0]).any() >= found[0].any()
            _need(known, f"The class score does not depend on the layer {name}, or is quantized: no finite gradient.")
            grads.append(reshape(torch.as_tensor(found[0])))
    forward = evaluation(model)(lambda some: _logits(model(some), len(some)))
    network = score or getattr(model, "gradient_free", None)
    if not isinstance(network, Network):
        network = Network(score or forward, 8 if images.device.type == "cpu" else 64)
    if score is None:
        network.check(images[:1], y[:1].detach())
    background = 0.0 if protocol.mask_space == "pixel" else model.unioncam_pixels[2].to(images)  # ty: ignore
    black, evidences = network(torch.zeros_like(images[:1]) + background), []
    activations = activations.to(torch.promote_types(activations.dtype, torch.float32))
    for i, (image, maps, regions) in enumerate(zip(images, activations, [{} for _ in images], strict=True)):
        for c, gradient in zip(classes[i], grads, strict=False):
            scorer = Scorer(network, c, protocol.class_score)
            whole = float(replace(scorer, class_score=kinds["probability"]).read(y[i : i + 1].detach()))
            scores = whole, float(scorer.read(black, "the black image".format)), scorer
            evidences.append(Evidence(image, c, maps, gradient[i].to(maps), *scores, protocol, background, regions))
    return evidences


def weighted_cam(evidence: Evidence, weights: Tensor) -> Tensor:
    """ReLU(Σ_k w_k ∘ A^k) for weights (K,), or (K, h, w), made a saliency map: (H, W) in [0, 1].
    >>> assert weighted_cam(toy, torch.tensor([0.0, 1])).tolist() == [[1, 0], [0, 0]]"""
    maps = evidence.activations
    cam = torch.einsum("k,khw->hw", weights, maps) if weights.ndim == 1 else (weights * maps).sum(0)
    return evidence.upsampled((cam.relu() if evidence.protocol.relu else cam)[None])[0]


def denoise(gradients: Tensor, theta: float, positive: bool = False) -> Tensor:
    """Eq. 1: W^k where it is ≥ its theta-th percentile, theta in [0, 100], else 0; for each channel k of (..., h, w).
    Percentiles are interpolated linearly. `positive` takes those of the channel's positive values alone.
    >>> assert denoise(W[0], 50).tolist() == [[0, 0], [2, 3]]"""
    good = not isinstance(theta, str | None) and 0 <= theta <= 100
    _need(good, f"theta is {theta!r}; a percentile lies between 0 and 100.")
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
    >>> assert pixel_weights(W)[1].tolist() == [[1, 0], [0, 0]]  # they sum to 1, however small the gradients are"""
    total = gradients.relu().sum((-2, -1), keepdim=True)
    return (gradients.relu() / total).where(total > 0, 0)


def denoised_cam(evidence: Evidence, theta: float = 10) -> Tensor:
    """Eqs. 1-3: L_Denoising = ReLU(Σ_k alpha^k ∘ ReLU(W^k) ∘ A^k), W denoised: (H, W) in [0, 1].
    >>> assert denoised_cam(toy, theta=0)[1].mul(17).round().tolist() == [3, 8]"""
    reading, gradients = evidence.protocol.percentile_over, evidence.gradients
    gradients = gradients if reading == "map" else denoise(gradients, theta, positive=reading == "positive")
    cam = weighted_cam(evidence, pixel_weights(gradients))
    return denoise(cam, theta) if reading == "map" else cam


def score_regions(evidences: Sequence[Evidence]):
    """Algorithm 1, line 4, for several images together: f^c(mask_k ∘ I0), kept as the `region_output` of each.
    >>> score_regions([toy]); assert toy.region_output.tolist() == [0.5, 0.25]"""
    new = {evidence.region_key: evidence for evidence in evidences if evidence.region_key not in evidence.regions}
    for network in dict.fromkeys(key[0] for key in new):
        mine = [evidence for evidence in new.values() if evidence.score.network is network]
        for evidence, output in zip(mine, network.region_pass(mine), strict=True):
            evidence.regions[evidence.region_key] = output


def region_weights(evidence: Evidence, kind: str | None = None) -> Tensor:
    """W_R^k = f^c(mask_k ∘ I0), (K,): what channel k, used as a mask, leaves of the class score; 0 if it is constant.
    `kind` is one of the Protocol's region_weights, by default the Evidence's own.
    >>> assert region_weights(toy, "increase").tolist() == [0.5, 0.25]"""
    kind = (evidence.protocol if kind is None else replace(evidence.protocol, region_weights=kind)).region_weights
    weights, output = torch.zeros_like(evidence.activations[:, 0, 0]), evidence.region_output
    if output is None:
        return weights
    _need(kind != "softmax" or output.ndim == 2, "region_weights='softmax' needs logits, not f^c alone from `score`.")
    scorer = replace(evidence.score, class_score="logit") if kind == "softmax" else evidence.score
    names = [f"the image masked by channel {k}" for k in evidence.live.nonzero().flatten().tolist()]
    scores = scorer.read(output, names.__getitem__).to(weights)
    constant, black = -torch.inf if kind == "softmax" else 0.0, evidence.black_score * (kind == "increase")
    weights = (weights + constant).masked_scatter(evidence.live, scores - black)
    return weights.softmax(0) if kind == "softmax" else weights


def region_cam(evidence: Evidence, kind: str | None = None) -> Tensor:
    """Algorithm 1, lines 4-5: L_Region = ReLU(Σ_k W_R^k A^k), (H, W) in [0, 1]. `kind` as in `region_weights`.
    >>> assert region_cam(toy).tolist() == [[0.25, 0], [0.5, 1]]"""
    return weighted_cam(evidence, region_weights(evidence, kind))


def contribution(evidence: Evidence, cam: Tensor) -> float:
    """Eqs. 4, 5 and 7: beta = f^c(cam ∘ I0) - f^c(I_b), for a map (H, W).
    >>> assert contribution(toy, torch.tensor([[1.0, 0], [0, 0]])) == 0.25"""
    cam, size = torch.as_tensor(cam), evidence.image.shape[1:]
    _need(cam.shape == size, f"The map is {list(cam.shape)}; it must have the image's size {list(size)}.")
    return (
        float(evidence.score(evidence.masked(cam[None]), "the image masked by the map".format)) - evidence.black_score
    )


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
    >>> assert union_cam(toy).selected == "united" and union_cam(toy).beta_region == 0.4375"""
    denoised, region = denoised_cam(evidence, theta), region_cam(evidence)
    betas = contribution(evidence, denoised), contribution(evidence, region)
    weights = [max(beta, 0.0) if evidence.protocol.clamp_beta else beta for beta in betas] if weighted else [1.0, 1.0]
    united = evidence.scaled(weights[0] * denoised + weights[1] * region)
    beta_united = contribution(evidence, united)
    # Two weights of 0 unite nothing: then the region map stands, whatever the empty map scores.
    kept = "united" if any(weights) and beta_united > betas[1] else "region"
    return UnionSteps(denoised, region, united, *betas, beta_united, kept, united if kept == "united" else region)


class UnionCAM(AbstractContextManager):
    """UnionCAM behind pytorch-grad-cam's call, for any classifier and whatever tensor it takes: masks show its 0.
    With several target layers the map is the mean of theirs, rescaled. The options are `capture`'s, as protocol=....
    >>> assert UnionCAM(model, target_layers=[model[1]])(input_tensor=torch.rand(7, 3, 8, 8)).shape == (7, 8, 8)"""

    def __init__(self, model: nn.Module, target_layers: Sequence[nn.Module | str], theta: float = 10, **options):
        layers = [target_layers] if isinstance(target_layers, nn.Module | str) else target_layers
        self.model, self.target_layers = model, [_find_layer(model, layer)[0] for layer in layers]
        _need(self.target_layers, "target_layers is empty; one or more layers are needed.")
        denoise(torch.zeros(1, 1), theta)  # so that a wrong theta is refused before anything is computed
        self.theta, self.options = theta, options

    def __call__(self, input_tensor: Tensor, targets: Sequence | None = None) -> np.ndarray:
        """Explain images (N, channels, H, W), a class each: (N, H, W) float32 in [0, 1]. Arguments as in `capture`."""
        per_layer = []
        for layer in self.target_layers:
            evidences = capture(self.model, input_tensor, target_layer=layer, targets=targets, **self.options)
            _need(len(evidences) == len(input_tensor), f"targets is {targets!r}; one class an image is needed.")
            score_regions(evidences)
            per_layer.append(torch.stack([self.explain(evidence).cam for evidence in evidences]))
        return min_max(torch.stack(per_layer).mean(0)).float().cpu().numpy()

    def explain(self, evidence: Evidence) -> Any:
        return union_cam(evidence, self.theta)

    def __exit__(self, *_exception):
        """Nothing to release: no hook outlives a call."""


def min_max(maps: Tensor) -> Tensor:
    """(L - min L) / (max L - min L) for each map of (..., H, W); a constant map becomes 0.
    >>> assert min_max(torch.tensor([[2.0, 4, 6]])).tolist() == [[0, 0.5, 1]]"""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


@contextmanager
def evaluation(model: nn.Module) -> Generator[None, None, None]:
    """The model in evaluation mode, and afterwards each of its modules in the mode it was in.
    >>> with evaluation(model): assert not model.training"""
    with _LOCK, ExitStack() as afterwards:
        for module in model.modules():
            afterwards.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def _find_layer(model: nn.Module, layer: nn.Module | str) -> tuple[nn.Module, str]:
    found = [(m, n or type(model).__name__) for n, m in model.named_modules() if m is layer or n == layer]
    last = ", ".join([name for name, _ in model.named_modules()][1:][-5:])
    wanted = layer if isinstance(layer, str) else type(layer)
    _need(found, f"{type(model).__name__} has no layer {wanted!r}; its last ones are {last}.")
    return found[0]


def _check_inputs(model: nn.Module, images: Tensor, targets: Sequence | None, protocol: Protocol) -> list[list] | None:
    _need(not isinstance(model, torch.jit.ScriptModule), "The model is traced or scripted; give it as it was before.")
    _need(isinstance(protocol, Protocol), f"protocol is {protocol!r}; a Protocol is needed.", TypeError)
    good = isinstance(images, Tensor) and images.ndim == 4 and 0 not in images.shape
    _need(good, f"The images are {type(images).__name__} {[*getattr(images, 'shape', [])]}; N×channels×H×W is needed.")
    _need(images.is_floating_point(), f"The images are {images.dtype}; floating point is needed (/ 255).", TypeError)
    bad, least, most = int((~images.isfinite()).sum()), images.min(), images.max()
    _need(not bad, f"{bad} values of the images are NaN or infinite.")
    low, high, mean = getattr(model, "unioncam_pixels", (-torch.inf, torch.inf, None))  # this project's own have it
    _need(low <= least and most <= high, f"The images range from {least:.3g} to {most:.3g}, not {low:g} to {high:g}.")
    good, dtype = protocol.mask_space == "pixel" or mean is not None, next(model.parameters(), images).dtype
    _need(good, "mask_space='normalized' needs a classifier with its mean colour, as load_classifier returns.")
    _need(dtype == images.dtype, f"The images are {images.dtype} and the model is {dtype}; equalize them.", TypeError)
    if targets is None:
        return None
    targets = targets.tolist() if isinstance(targets, Tensor | np.ndarray) else targets
    good = isinstance(targets, Sequence) and not isinstance(targets, str) and len(targets) == len(images)
    _need(good, f"targets is {targets!r}; one target for each of the {len(images)} images is needed.")
    groups = []
    for target in targets:
        named = type(target).__name__ in ("ClassifierOutputTarget", "BinaryClassifierOutputTarget")
        group = np.atleast_1d(target.category if named else target)
        good = (callable(target) and not named) or (group.dtype.kind in "iu" and group.ndim == 1 and group.size)
        _need(good, f"A target is {target!r}; it must be a class index, a target object or a function.", TypeError)
        once = len(set(group.tolist())) == group.size
        _need(once, f"The target {target!r} names a class twice; for one-hot rows give their argmax(1).")
        groups.append(group.tolist())
    return groups


def _logits(output: Any, count: int) -> Tensor:
    """Logits (N, C) of a model that returns (N, C), (N,), (N, C, 1, 1), or an object with these as its `logits`."""
    y = getattr(output, "logits", output)
    good = isinstance(y, Tensor) and (y.numel() == count or (y.ndim > 1 and y.numel() == count * y.shape[1]))
    _need(good, f"The model returns {getattr(y, 'shape', type(y).__name__)} for {count} images; logits N×C are needed.")
    node, one = y.grad_fn, y.requires_grad and y.ndim == 2 and y.shape[1] > 1 and (y.sum(1) - 1).abs().max() < 1e-4
    while node is not None and node.name().startswith(("View", "Unsafe", "Squeeze", "Unsqueeze", "ToCopy", "Clone")):
        node = node.next_functions[0][0]
    ends = (one and y.min() >= 0) or (node is not None and node.name().startswith(("Softmax", "Sigmoid")))
    _need(not ends, "The network ends in a softmax or a sigmoid; without that layer it returns logits, as is needed.")
    return y.reshape(count, -1)


def _check_maps(model: nn.Module, images: Tensor, layer: nn.Module, name: str, maps: Tensor, told: bool):
    """Refuse what cannot be the feature maps (N, K, h, w) of these images, and warn of maps with a single position."""
    (h, w), (H, W) = maps.shape[-2:] if maps.ndim == 4 else (0, 0), images.shape[2:]
    shown = f"The layer {name} gives {list(maps.shape)} for images {list(images.shape)}"
    mixed = not told and any(isinstance(m, nn.LayerNorm | nn.Linear) for m in layer.modules())  # of channels last
    square = h == w and (H == W or not told) and not (mixed and (H != W or h == maps.shape[1]))
    good = len(maps) == len(images) and h and (square or (H != W and abs(h * W - w * H) < H + W))
    _need(good, f"{shown}, not N×K×h×w: see reshape_transform, channels_last, vit_tokens.")
    if h * w == 1:
        names, called = {m: name for name, m in model.named_modules()}, []
        with torch.nn.modules.module.register_module_forward_hook(lambda m, _, y: called.append((names.get(m), y))):
            model(images[:1])
        fit = [n for n, y in called if n and isinstance(y, Tensor) and y.ndim == 4 and y[0, 0].numel() > 1]
        warnings.warn(f"{shown}: one position, so the map is empty; {['no layer', *fit][-1]} has more.", stacklevel=3)
