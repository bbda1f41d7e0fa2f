"""UnionCAM and the methods that it is compared with, each a function of the same Evidence.

    grad_cam, grad_cam_plus_plus, score_cam, group_cam    from their equations
    fake_cam, random_map, center_blob, plain_sum          controls that do not look for the class
    Explanation                                           what every method returns when it is called by its name
    METHODS, method, find_method                          all methods by name, with options: "union_cam:theta=50"

Any class activation map of pytorch-grad-cam takes part by its class's name, "LayerCAM"; one's own, by `@method(TITLE)`.
"""

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from types import FunctionType
from typing import Literal

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
from unioncam_lab.images import blur


def grad_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, Eqs. 1-2): each channel weighs the mean of its gradient, negative ones too."""
    return weighted_cam(evidence, evidence.gradients.mean((1, 2)))


def grad_cam_plus_plus(
    evidence: Evidence, denominator: Literal["activations", "products"] = "activations", eps: float = 1e-6
) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018): a channel weighs the sum over its places of alpha ∘ ReLU(W).

    The score is the exponential of the logit, so that its derivatives are powers of W; the common factor exp(logit)
    cancels out of alpha and of the map, which is therefore that of the plain logit too. Two forms of alpha are in
    print and in use; where W is constant in a channel, as behind global average pooling, they are one.

    Args:
        denominator: alpha = W² / (2 W² + S + eps). `activations`: S = W³ ΣA, the paper's Eq. 19, as in
            pytorch-grad-cam. `products`: S = Σ(A W³), as in the program that Group-CAM's authors used. (torchcam 0.5.0
            means the latter, but its division is lost: it computes ΣReLU(W)³.)
        eps: 1e-6 in pytorch-grad-cam, 0 in the paper. It counts where gradients are below 1e-3.

    With `products` the denominator can be negative, and with it a weight, where gradients of both signs meet.
    """
    w, a = evidence.gradients, evidence.activations
    sums = {"activations": lambda: w**3 * a.sum((1, 2), keepdim=True), "products": lambda: (a * w**3).sum((1, 2), True)}
    if denominator not in sums:
        raise ValueError(f"denominator is {denominator!r}; it can be {' or '.join(map(repr, sums))}.")
    alpha = (w**2 / (2 * w**2 + sums[denominator]() + eps)).where(w > 0, 0)
    return weighted_cam(evidence, (alpha * w.relu()).sum((1, 2)))


def score_cam(evidence: Evidence, weights: Literal["softmax", "score", "increase"] = "softmax") -> Tensor:
    """Score-CAM (Wang et al. 2020): the feature maps summed, each weighted by what it leaves of the class as a mask.

    Args:
        weights: `softmax`: a channel weighs the softmax, over channels, of logit_c(mask_k ∘ I0), as in the paper's
            Algorithm 1, pytorch-grad-cam and torchcam. `score`: it weighs the probability f^c(mask_k ∘ I0) itself, as
            in the program of the authors; this is UnionCAM's region map. `increase`: that minus f^c(I_b).
    """
    return region_cam(evidence, weights)


@torch.no_grad()
def group_cam(evidence: Evidence, groups: int = 32, theta: float | None = None) -> Tensor:
    """Group-CAM (Zhang et al. 2021): ReLU(Σ_l gain_l M_l) over groups of neighbouring channels.

    M_l is the ReLU of the group's sum of W̄ A (W̄ the mean gradient of a channel), upsampled and scaled to [0, 1];
    gain_l = f^c(M_l ∘ I0 + (1 - M_l) ∘ Ĩ) - f^c(Ĩ), Ĩ the blurred image.

    Args:
        groups: how many, at most one for each channel.
        theta: percentile below which a group's sum becomes 0 before it is upsampled, 70 in its paper. None: nothing
            does. Its authors have released programs with and without.
    """
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups is {groups!r}; it is a number of groups, 1 or more.")
    weighted = evidence.gradients.mean((1, 2), keepdim=True) * evidence.activations
    sums = torch.stack([group.sum(0) for group in weighted.tensor_split(min(groups, len(weighted)))]).relu()
    masks = evidence.upsampled(sums if theta is None else denoise(sums, theta))
    blurred = blur(evidence.image)
    mixed = blurred + masks[:, None].to(blurred) * (evidence.image - blurred)
    baseline, *scores = evidence.score(torch.cat([blurred[None], mixed])).to(masks).unbind()
    gains = torch.stack(scores) - baseline
    return min_max(torch.einsum("l,lhw->hw", gains, masks).relu())


def fake_cam(evidence: Evidence) -> Tensor:
    """Fake-CAM (Poppi et al. 2021): 1 everywhere but for one corner pixel. Its average drop is near 0."""
    cam = torch.ones_like(evidence.image[0])
    cam[0, 0] = 0
    return cam


def random_map(evidence: Evidence) -> Tensor:
    """Noise at the resolution of the feature maps, upsampled as they are: a map that knows nothing.

    The image alone seeds it, so that an image always gets the same noise.
    """
    pixels = (255 * evidence.image).round().to(torch.uint8).cpu()
    generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes()))
    noise = torch.rand(evidence.activations.shape[1:], generator=generator, dtype=torch.float64)
    return min_max(evidence.upsampled(noise[None].to(evidence.activations))[0])


def center_blob(evidence: Evidence) -> Tensor:
    """A Gaussian in the middle of the image, its deviation a quarter of the side: where photographers put objects."""
    down, across = (
        torch.exp(-8 * torch.linspace(-1, 1, side, dtype=torch.float64).square() / 4)
        for side in evidence.image.shape[1:]
    )
    return min_max(torch.outer(down, across)).to(evidence.image)


def plain_sum(evidence: Evidence) -> Tensor:
    """All feature maps summed, each with the weight 1: where the network is active, whatever the class."""
    return weighted_cam(evidence, torch.ones_like(evidence.activations[:, 0, 0]))


CONTROLS = ("fake_cam", "random_map", "center_blob", "plain_sum")
BETAS = ("beta_denoising", "beta_region", "beta_united")


@dataclass(frozen=True, eq=False)
class Explanation:
    """A method's answer for one Evidence."""

    cam: Tensor  # (H, W) in [0, 1]
    betas: dict[str, float] = field(default_factory=dict)  # by the names in BETAS; empty where a method has none
    selected: str | None = None  # which map Eq. 8 chose: "united" or "region"


METHODS: dict[str, Callable[..., Explanation]] = {}
TITLES: dict[str, str] = {}
NEED_REGIONS: set[str] = set()  # the methods that use the scores of the masked images


def method(title: str, regions: bool = False) -> Callable[[FunctionType], FunctionType]:
    """Register a function, Evidence -> map (H, W) in [0, 1], as a method that is called by the function's name.

    Example:
        >>> @method("Positive sum")
        ... def positive_sum(evidence):
        ...     return weighted_cam(evidence, (evidence.gradients.mean((1, 2)) > 0).float())
        >>> METHODS["positive_sum"](evidence).cam.shape
        torch.Size([224, 224])

    Args:
        title: how tables and figures name the method.
        regions: whether the method uses the scores of the masked images, so that its `seconds` include their passes.
    """

    def register(function: FunctionType) -> FunctionType:
        @wraps(function)
        def explain(evidence: Evidence, *arguments, **options) -> Explanation:
            result = function(evidence, *arguments, **options)
            if isinstance(result, Tensor):
                return Explanation(result)
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
# How tables and figures name an option; others are named as they are written, "groups=16".
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
# What of the Protocol a method can read differently from one and the same Evidence.
READINGS = ("relu", "percentile_over", "clamp_beta", "region_weights")


@dataclass(frozen=True)
class Method:
    """A method as it was asked for: `name` is "union_cam:theta=50", `function` is "union_cam"."""

    name: str
    function: str
    explain: Callable[[Evidence], Explanation]

    @property
    def needs_regions(self) -> bool:
        """Whether it uses the scores of the masked images."""
        return self.function in NEED_REGIONS


def find_title(name: str) -> str:
    """A method's name as a table shows it: "union_cam:theta=50" is UnionCAM (θ = 50)."""
    function, *options = name.split(":")
    shown = [OPTION_TITLES.get(option, option.replace("theta=", "θ = ")) for option in options]
    return TITLES.get(function, function) + (f" ({', '.join(shown)})" if shown else "")


def find_method(name: str, classifier: nn.Module | None = None) -> Method:
    """A method by its function's name, with options behind colons, or by its name in pytorch-grad-cam.

    Options are the function's own, `group_cam:groups=16`, or readings of the Protocol, `union_cam:relu=False`.

    Args:
        name: see METHODS; a class of pytorch-grad-cam, such as LayerCAM, is asked with `classifier`.
        classifier: the classifier that is explained, with its `target_layer`.

    Raises:
        ValueError: no such method or option; one sentence that names it.
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
    """The same Evidence under another reading of the Protocol. Both share the scores of the masked images."""
    return replace(evidence, protocol=replace(evidence.protocol, **readings))


def _from_pytorch_grad_cam(name: str, options: dict, classifier: nn.Module | None) -> Callable[[Evidence], Explanation]:
    import pytorch_grad_cam  # two seconds, and most users ask for none of its methods
    from pytorch_grad_cam.base_cam import BaseCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = getattr(pytorch_grad_cam, name, None)
    if not (isinstance(method, type) and issubclass(method, BaseCAM)):
        theirs = [n for n, c in vars(pytorch_grad_cam).items() if isinstance(c, type) and issubclass(c, BaseCAM)]
        raise ValueError(f"There is no method {name!r}; there are {', '.join([*METHODS, *theirs])}.")
    if options:
        raise ValueError(f"{name} is pytorch-grad-cam's and takes no option here, but {', '.join(options)} was given.")
    if classifier is None:
        raise ValueError(f"{name} asks the classifier itself, so the classifier must be given.")

    def explain(evidence: Evidence) -> Explanation:
        before = [parameter.grad for parameter in classifier.parameters()]
        target = ClassifierOutputTarget(evidence.target)
        # It computes the gradient of parameters too and leaves it there, and the network in evaluation mode.
        try:
            with torch.enable_grad(), evaluation(classifier), method(classifier, [classifier.target_layer]) as cam:
                saliency = cam(evidence.image[None], [target])[0]
        finally:
            for parameter, gradient in zip(classifier.parameters(), before, strict=True):
                parameter.grad = gradient
        return Explanation(torch.from_numpy(saliency).to(evidence.image.device))

    return explain
