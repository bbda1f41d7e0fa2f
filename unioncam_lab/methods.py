"""Explanation methods: UnionCAM and the methods that it is compared with, each a function of the same Evidence.

    grad_cam, grad_cam_plus_plus, score_cam, group_cam    methods implemented from their equations
    fake_cam, random_map, center_blob, plain_sum          controls, which do not depend on the class
    Explanation                                           the result of every method that is called by name
    METHODS, method, find_method                          all methods by name, with options: "union_cam:theta=50"

The methods of pytorch-grad-cam are called by the names of their classes, such as "LayerCAM". `@method(TITLE)` registers
a new method.
"""

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from types import FunctionType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusioncam import fusion_cam
from unioncam_core import (
    Evidence,
    denoise,
    evaluation,
    min_max,
    region_cam,
    union_cam,
    weighted_cam,
)
from unioncam_lab import literal
from unioncam_lab.engine import Logits
from unioncam_lab.images import blur


def grad_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, Eqs. 1-2): the weight of a channel is its mean gradient, of either sign."""
    return weighted_cam(evidence, evidence.gradients.mean((1, 2)))


def grad_cam_plus_plus(
    evidence: Evidence, denominator: Literal["activations", "products"] = "activations", eps: float = 1e-6
) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018): a channel's weight is the sum over its positions of alpha ∘ ReLU(W).

    The score is the exponential of the logit, so its derivatives are powers of W. The common factor exp(logit) cancels
    out of alpha and of the scaled map, so the plain logit gives the same map. Two forms of alpha are published and in
    use. They agree if W is constant in each channel, as it is before global average pooling.

    Args:
        denominator: alpha = W² / (2 W² + S + eps). `activations`: S = W³ ΣA, the paper's Eq. 19, as in
            pytorch-grad-cam. `products`: S = Σ(A W³), as in the program that Group-CAM's authors used. (torchcam 0.5.0
            intends `products`, but it loses the division and computes ΣReLU(W)³.)
        eps: 1e-6 in pytorch-grad-cam, 0 in the paper. It changes the map where gradients are below 1e-3.

    With `products`, if a channel has gradients of both signs, the denominator and so the weight can be negative.

    Raises:
        ValueError: the denominator is unknown.
    """
    w, a = evidence.gradients, evidence.activations
    sums = {"activations": lambda: w**3 * a.sum((1, 2), keepdim=True), "products": lambda: (a * w**3).sum((1, 2), True)}
    if denominator not in sums:
        raise ValueError(f"denominator is {denominator!r}; it can be {' or '.join(map(repr, sums))}.")
    alpha = (w**2 / (2 * w**2 + sums[denominator]() + eps)).where(w > 0, 0)
    return weighted_cam(evidence, (alpha * w.relu()).sum((1, 2)))


def score_cam(evidence: Evidence, weights: Literal["softmax", "score", "increase"] = "softmax") -> Tensor:
    """Score-CAM (Wang et al. 2020): a sum of feature maps, weighted by the class scores of the images that they mask.

    Args:
        weights: `softmax`: the weight of channel k is the softmax over channels of logit_c(mask_k ∘ I0), as in the
            paper's Algorithm 1, pytorch-grad-cam and torchcam. `score`: the weight is f^c(mask_k ∘ I0) itself, as in
            the authors' program and in UnionCAM's region map. `increase`: the weight is f^c(mask_k ∘ I0) - f^c(I_b).
    """
    return region_cam(evidence, weights)


@torch.no_grad()
def group_cam(evidence: Evidence, groups: int = 32, theta: float | None = None) -> Tensor:
    """Group-CAM (Zhang et al. 2021): ReLU(Σ_l gain_l M_l) over groups of neighbouring channels.

    M_l is the ReLU of the group's sum of W̄ A (W̄ is the mean gradient of a channel), upsampled and scaled to [0, 1].
    gain_l is f^c(M_l ∘ I0 + (1 - M_l) ∘ Ĩ) - f^c(Ĩ), where Ĩ is the blurred image.

    Args:
        groups: number of groups; if it is larger than the number of channels, each channel is a group.
        theta: percentile of a group's sum; smaller values become 0 before upsampling. The paper uses 70. None omits
            this step. The authors have released programs with and without it.

    Raises:
        ValueError: groups is not a positive integer.
    """
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups is {groups!r}; it is a number of groups, 1 or more.")
    weighted = evidence.gradients.mean((1, 2), keepdim=True) * evidence.activations
    sums = torch.stack([group.sum(0) for group in weighted.tensor_split(min(groups, len(weighted)))]).relu()
    masks = evidence.upsampled(sums if theta is None else denoise(sums, theta))
    blurred = blur(evidence.image)
    mixed = blurred + masks[:, None].to(blurred) * (evidence.image - blurred)
    names = ["the blurred image", *(f"the image mixed with its blurred one by group {i}" for i in range(len(masks)))]
    baseline, *scores = evidence.score(torch.cat([blurred[None], mixed]), names.__getitem__).to(masks).unbind()
    gains = torch.stack(scores) - baseline
    return min_max(torch.einsum("l,lhw->hw", gains, masks).relu())


def fake_cam(evidence: Evidence) -> Tensor:
    """Fake-CAM (Poppi et al. 2021): a map of ones, in which one corner pixel is 0. Its average drop is near 0."""
    cam = torch.ones_like(evidence.image[0])
    cam[0, 0] = 0
    return cam


def random_map(evidence: Evidence) -> Tensor:
    """Random noise at the resolution of the feature maps, upsampled like them: a map without information.

    Only the image determines the seed, so an image always has the same noise.
    """
    image = evidence.image.cpu()
    # As 8 bits, in which rounding of the last digit does not count; in other images this would overflow.
    pixels = (255 * image).round().to(torch.uint8) if image.min() >= 0 and image.max() <= 1 else image.double()
    generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes()))
    noise = torch.rand(evidence.activations.shape[1:], generator=generator, dtype=torch.float64)
    return min_max(evidence.upsampled(noise[None].to(evidence.activations))[0])


def center_blob(evidence: Evidence) -> Tensor:
    """A Gaussian at the image's centre, where objects often are; its standard deviation is a quarter of the side."""
    down, across = (
        torch.exp(-8 * torch.linspace(-1, 1, side, dtype=torch.float64).square() / 4)
        for side in evidence.image.shape[1:]
    )
    return min_max(torch.outer(down, across)).to(evidence.image)


def plain_sum(evidence: Evidence) -> Tensor:
    """The sum of all feature maps with weight 1. It shows where the network is active, for any class."""
    return weighted_cam(evidence, torch.ones_like(evidence.activations[:, 0, 0]))


CONTROLS = ("fake_cam", "random_map", "center_blob", "plain_sum")
BETAS = ("beta_denoising", "beta_region", "beta_united")


@dataclass(frozen=True, eq=False)
class Explanation:
    """The result of a method for one Evidence."""

    cam: Tensor  # (H, W) in [0, 1]
    betas: dict[str, float] = field(default_factory=dict)  # name in BETAS -> contribution; empty if a method has none
    selected: str | None = None  # the map that Eq. 8 selected: "united" or "region"; None for other methods


METHODS: dict[str, Callable[..., Explanation]] = {}
TITLES: dict[str, str] = {}
NEED_REGIONS: set[str] = set()  # the methods that use the scores of the masked images


def method(title: str, regions: bool = False) -> Callable[[FunctionType], FunctionType]:
    """Register a function, Evidence -> map (H, W) in [0, 1], as a method with the name of the function.

    Example:
        >>> @method("Positive sum")
        ... def positive_sum(evidence):
        ...     return weighted_cam(evidence, (evidence.gradients.mean((1, 2)) > 0).float())
        >>> METHODS["positive_sum"](evidence).cam.shape
        torch.Size([224, 224])

    Args:
        title: name of the method in tables and figures.
        regions: whether the method uses the scores of the masked images; its `seconds` then include their passes.
    """

    def register(function: FunctionType) -> FunctionType:
        @wraps(function)
        def explain(evidence: Evidence, *arguments, **options) -> Explanation:
            result = function(evidence, *arguments, **options)
            if isinstance(result, Tensor | np.ndarray):
                return Explanation(torch.as_tensor(result))
            return Explanation(
                result.cam, {name: getattr(result, name) for name in BETAS}, getattr(result, "selected", None)
            )

        METHODS[function.__name__], TITLES[function.__name__] = explain, title
        if regions:
            NEED_REGIONS.add(function.__name__)
        return function

    return register


method("Grad-CAM")(grad_cam)
method("Grad-CAM++")(grad_cam_plus_plus)
method("Score-CAM", regions=True)(score_cam)
method("Group-CAM")(group_cam)
method("UnionCAM", regions=True)(union_cam)
method("Fusion-CAM", regions=True)(fusion_cam)
method("Fake-CAM")(fake_cam)
method("Random map")(random_map)
method("Centred blob")(center_blob)
method("Plain sum")(plain_sum)
# Names of options in tables and figures. Other options are shown as they are written, as in "groups=16".
OPTION_TITLES = {
    "weights=score": "probability",
    "weights=softmax": "softmax",
    "region_weights=score": "probability",
    "region_weights=softmax": "softmax",
    "weighted=False": "unweighted",
    "eps=0": "ε = 0",
    "percentile_over=channel": "of the channel",
    "percentile_over=positive": "of positive gradients",
    "percentile_over=map": "of the map",
}
# Options of the Protocol that a method can change for the same Evidence.
READINGS = ("relu", "percentile_over", "clamp_beta", "region_weights")


@dataclass(frozen=True)
class Method:
    """A method with its options: for the `name` "union_cam:theta=50" the `function` is "union_cam"."""

    name: str
    function: str
    explain: Callable[[Evidence], Explanation]

    @property
    def needs_regions(self) -> bool:
        """Whether the method uses the scores of the masked images."""
        return self.function in NEED_REGIONS


def find_title(name: str) -> str:
    """Return the title of a method for tables and figures: "union_cam:theta=50" is UnionCAM (θ = 50)."""
    function, *options = name.split(":")
    shown = [OPTION_TITLES.get(option, option.replace("theta=", "θ = ")) for option in options]
    return TITLES.get(function, function) + (f" ({', '.join(shown)})" if shown else "")


def find_method(name: str, classifier: nn.Module | None = None) -> Method:
    """Return the method with a name: a name in METHODS, with options after colons, or a class of pytorch-grad-cam.

    An option is an argument of the function, `group_cam:groups=16`, or one of the READINGS, `union_cam:relu=False`.

    Args:
        name: as in "union_cam:theta=50" or "LayerCAM".
        classifier: the explained classifier with its `target_layer`; pytorch-grad-cam's classes need it.

    Raises:
        ValueError: the method or option does not exist, or the classifier is missing.
    """
    function, *settings = name.split(":")
    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} in {name!r} is no option; write it as in union_cam:theta=50.")
        options[key] = literal(value)
    if function not in METHODS:
        return Method(name, function, _from_pytorch_grad_cam(function, options, classifier))
    own = list(inspect.signature(METHODS[function]).parameters)[1:]
    if unknown := [key for key in options if key not in own and key not in READINGS]:
        raise ValueError(
            f"{function} has no option {unknown[0]!r}; it has {', '.join(dict.fromkeys([*own, *READINGS]))}."
        )
    readings = {key: options.pop(key) for key in READINGS if key in options and key not in own}

    def explain(evidence: Evidence) -> Explanation:
        return METHODS[function](reread(evidence, **readings) if readings else evidence, **options)

    return Method(name, function, explain)


def reread(evidence: Evidence, **readings) -> Evidence:
    """Return the same Evidence with other options of the Protocol. Both share the scores of the masked images."""
    return replace(evidence, protocol=replace(evidence.protocol, **readings))


def _from_pytorch_grad_cam(name: str, options: dict, classifier: nn.Module | None) -> Callable[[Evidence], Explanation]:
    import pytorch_grad_cam  # this takes two seconds, and most users need none of its methods
    from pytorch_grad_cam.base_cam import BaseCAM

    method = getattr(pytorch_grad_cam, name, None)
    if not (isinstance(method, type) and issubclass(method, BaseCAM)):
        theirs = [n for n, c in vars(pytorch_grad_cam).items() if isinstance(c, type) and issubclass(c, BaseCAM)]
        raise ValueError(f"There is no method {name!r}; there are {', '.join([*METHODS, *theirs])}.")
    if options:
        raise ValueError(f"{name} is pytorch-grad-cam's and takes no option here, but {', '.join(options)} was given.")
    if classifier is None:
        raise ValueError(f"{name} is pytorch-grad-cam's and needs the classifier, so the classifier must be given.")

    def explain(evidence: Evidence) -> Explanation:
        before = [parameter.grad for parameter in classifier.parameters()]
        layer, reshape = classifier.target_layer, getattr(classifier, "reshape_transform", None)
        layers = [layer if isinstance(layer, nn.Module) else classifier.get_submodule(str(layer))]
        logit = replace(evidence.score, class_score="logit")

        def target(outputs: Tensor) -> Tensor:  # (C,) of one image
            return logit.read(outputs[None])[0]

        # pytorch-grad-cam also computes gradients of the parameters, and it leaves the network in evaluation mode.
        try:
            with torch.enable_grad(), evaluation(classifier), method(Logits(classifier), layers, reshape) as cam:
                saliency = cam(evidence.image[None], [target])[0]
        finally:
            for parameter, gradient in zip(classifier.parameters(), before, strict=True):
                parameter.grad = gradient
        return Explanation(torch.from_numpy(saliency).to(evidence.image.device))

    return explain
