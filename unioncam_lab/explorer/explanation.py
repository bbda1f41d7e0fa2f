"""What the explorer computes: everything about one picture, for any class, theta and reading. No page, no widget.

The masked passes are computed once for a picture, by `Explanation.compute`. They do not depend on the class, so a
second class needs one backward pass. What follows is the core's own functions, whose few scores are remembered.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusioncam import FusionSteps, fusion_cam
from unioncam_core import Evidence, Network, UnionSteps, capture, denoised_cam, score_regions, union_cam
from unioncam_lab import cache
from unioncam_lab.classifiers import Classifier
from unioncam_lab.engine import Engine
from unioncam_lab.explorer.view import Compared, Cover, Reading
from unioncam_lab.images import DEMO_PHOTOS, blur, demo_photo
from unioncam_lab.methods import METHODS, reread
from unioncam_lab.metrics import Perturbation, auc, perturbation, ranks
from unioncam_lab.scenes import compose_scene
from unioncam_lab.shapes import draw_scene

STEPS = 28  # of a curve, as metrics.perturbation makes them for images of 224 pixels
COMPOSED = {f"scene {seed}": ("two classes", seed) for seed in (1, 2, 5)}
DRAWN = {f"shapes {seed}": ("two classes", seed) for seed in (1, 3, 4, 7, 9)}
PICTURES = (*DEMO_PHOTOS, *COMPOSED, *DRAWN)


class Cancelled(Exception):
    """The visitor has cancelled the masked passes."""


def pictures(classifier: str) -> tuple[str, ...]:
    """Return the names of the pictures that suit a classifier: drawn shapes for the one that knows nothing else."""
    return tuple(DRAWN) if classifier == "shapes_vgg" else (*DEMO_PHOTOS, *COMPOSED)


def picture(name: str, size: int) -> Tensor:
    """Return one of the PICTURES as RGB (3, size, size) in [0, 1].

    Raises:
        ValueError: there is no picture of this name.
    """
    if name in COMPOSED:
        return compose_scene(*COMPOSED[name], size).image
    if name in DRAWN:
        return draw_scene(*DRAWN[name], size).image
    if name not in DEMO_PHOTOS:
        raise ValueError(f"There is no picture {name!r}; there are {', '.join(PICTURES)}.")
    return demo_photo(name, size).image


class Unkept(Evidence):
    """The evidence of a visitor's own photo: the engine keeps the scores of plain Evidence alone on disk."""


class Remembered(Network):
    """A network that remembers the outputs for its last images, so that an unchanged map is not scored again."""

    def __init__(self, network: Network, image: Tensor, most: int = 64):
        super().__init__(network, network.batch)
        self.network, self.most = network, most
        self.outputs: OrderedDict[str, Tensor] = OrderedDict()
        # The engine asks before each call whether the model has changed, which takes longer than the call.
        backend = network.backend_for(image[None]) if isinstance(network, Engine) else None
        self.run = backend.network if backend and backend.name in ("openvino", "eager") else network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        names = [cache.key(image) for image in images]
        new = {name: image for name, image in zip(names, images, strict=True) if name not in self.outputs}
        if new:
            self.outputs |= zip(new, self.run(torch.stack([*new.values()])), strict=True)
        found = torch.stack([self.outputs[name] for name in names])
        while len(self.outputs) > max(self.most, len(names)):
            self.outputs.popitem(last=False)
        return found

    def stream(self, make: Callable[[int, int], Tensor], count: int) -> Tensor:
        return self.network.stream(make, count)

    def region_pass(self, evidences: Sequence[Evidence]) -> list[Tensor | None]:
        return self.network.region_pass(evidences)


class Channel(NamedTuple):
    """One feature map: how the class score answers to its mask."""

    number: int
    activation: Tensor  # (h, w)
    mask: Tensor  # (H, W) in [0, 1]
    masked: Tensor  # (channels, H, W)
    score: float  # f^c of the masked image
    gradient: float  # the mean of W^k


@dataclass(frozen=True, eq=False)
class Curves:
    """The deletion and the insertion curve of a map: class probabilities at equally many pixels, and the images."""

    deletion: list[float]
    insertion: list[float]
    images: dict[str, Perturbation]

    def area(self, name: str) -> float:
        """Return the area under a curve, in percent."""
        return 100 * auc(getattr(self, name))


class Explanation:
    """A picture explained by a classifier. Its methods can be called as soon as `compute` has returned.

    Args:
        classifier: as `load_classifier` returns it.
        image: (channels, H, W) in [0, 1].
        own: whether it is the visitor's own, of which nothing is kept on disk.
    """

    def __init__(self, classifier: Classifier, image: Tensor, own: bool = False):
        self.classifier, self.own, self.ready = classifier, own, False
        self._evidences: OrderedDict[Hashable, Evidence] = OrderedDict()
        self._maps: OrderedDict[Hashable, Any] = OrderedDict()
        self._channels: OrderedDict[Hashable, Any] = OrderedDict()
        self._drawn: OrderedDict[Hashable, str] = OrderedDict()
        self._first = self._capture(classifier.as_input(image), None)
        network = self._first.score.network
        self.network = Remembered(network, self._first.image)
        self._first = replace(self._first, score=replace(self._first.score, network=self.network))
        self.probabilities = self._probabilities(self._first.image)
        self._blurred: Tensor | None = None

    @property
    def image(self) -> Tensor:
        return self._first.image

    @property
    def first(self) -> int:
        """The network's first answer."""
        return int(self._first.target)

    def answers(self, count: int = 5) -> list[tuple[int, float]]:
        """Return the most probable classes, each with its probability."""
        top = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def _capture(self, image: Tensor, target: int | None) -> Evidence:
        classifier = self.classifier
        (evidence,) = capture(
            classifier,
            image[None],
            target_layer=classifier.target_layer,
            targets=None if target is None else [target],
            reshape_transform=classifier.reshape_transform,
        )
        return Unkept(**{one.name: getattr(evidence, one.name) for one in fields(Evidence)}) if self.own else evidence

    def _probabilities(self, image: Tensor) -> Tensor:
        logits = self.network(image[None])
        return torch.cat([-logits, logits], 1).sigmoid()[0] if logits.shape[1] == 1 else logits.softmax(1)[0]

    def compute(self, watch: Callable[[float], None] = lambda share: None):
        """Compute the masked passes. `watch` is told the share that is done, in [0, 1], and may raise Cancelled.

        Raises:
            Cancelled: by `watch`. What was computed is lost, and `compute` can be called again.
        """
        engine, lock, done = self.network.network, threading.Lock(), 0

        def told(before: int, count: int):
            nonlocal done
            with lock:
                done = max(done, before)  # chunks are computed by several threads
                watch(done / count)

        if isinstance(engine, Engine):
            engine.watch = told
        try:
            score_regions([self._first])
        finally:
            if isinstance(engine, Engine):
                engine.watch = None
        self.ready = True

    def evidence(self, target: int, reading: Reading = "channel") -> Evidence:
        """Return the evidence for a class, which shares the masked passes with all others of this picture."""

        def captured() -> Evidence:
            if target == self.first:
                return self._first
            other, first = self._capture(self.image, target), self._first
            score = replace(other.score, network=self.network)
            return replace(other, image=first.image, activations=first.activations, regions=first.regions, score=score)

        return reread(_kept(self._evidences, target, captured, 6), percentile_over=reading)

    def union(self, target: int, theta: float = 10, reading: Reading = "channel") -> UnionSteps:
        """Return every step of Algorithm 1, as the core computes it."""
        name = "union", target, theta, reading
        return _kept(self._maps, name, lambda: union_cam(self.evidence(target, reading), theta))

    def fusion(self, target: int, theta: float = 10) -> FusionSteps:
        """Return every step of Fusion-CAM. Equation 1 has no part in it, so there is no reading."""
        return _kept(self._maps, ("fusion", target, theta), lambda: fusion_cam(self.evidence(target), theta))

    def cam(self, method: Compared, target: int, theta: float = 10, reading: Reading = "channel") -> Tensor:
        """Return the map (H, W) in [0, 1] of a method of `methods.METHODS`."""
        if method == "union_cam":
            return self.union(target, theta, reading).cam
        if method == "fusion_cam":
            return self.fusion(target, theta).cam
        return _kept(self._maps, (method, target), lambda: METHODS[method](self.evidence(target)).cam)

    def probability(self, target: int, cam: Tensor) -> float:
        """Return the class probability of the image masked by a map (H, W)."""
        return float(self._probabilities(self._first.masked(cam[None])[0])[target])

    def channels(self, target: int, count: int = 8) -> list[int]:
        """Return the channels with the largest region scores, f^c(mask_k ∘ I0), the largest first."""

        def largest() -> list[int]:
            scores = self.evidence(target).region_scores
            return scores.topk(min(count, len(scores))).indices.tolist()

        return _kept(self._channels, (target, "largest", count), largest)

    def channel(self, target: int, number: int) -> Channel:
        """Look at one feature map.

        Raises:
            ValueError: the target layer has no such channel.
        """
        evidence = self.evidence(target)
        if not 0 <= number < len(evidence.activations):
            raise ValueError(f"There is no channel {number}; there are 0 to {len(evidence.activations) - 1}.")

        def looked_at() -> Channel:
            mask = evidence.masks([number])
            score, gradient = float(evidence.region_scores[number]), float(evidence.gradients[number].mean())
            return Channel(number, evidence.activations[number], mask[0], evidence.masked(mask)[0], score, gradient)

        return _kept(self._channels, (target, number), looked_at)

    def drawn(self, name: Hashable, draw: Callable[[], str]) -> str:
        """Return a picture of this explanation as `draw` makes it, from memory if it was drawn a short while ago."""
        return _kept(self._drawn, name, draw, 64)

    def theta_acts(self, target: int, theta: float, reading: Reading) -> bool:
        """Return whether the denoised map differs from that without denoising, by more than rounding."""
        plain = _kept(self._maps, ("plain", target), lambda: denoised_cam(self.evidence(target), 0))
        return float((self.union(target, theta, reading).denoised - plain).abs().max()) > 1e-6

    def constant_gradients(self, target: int) -> bool:
        """Return whether the gradient is constant in each channel, as behind global average pooling."""
        gradients = self.evidence(target).gradients
        return bool((gradients.amax((1, 2)) - gradients.amin((1, 2)) <= 1e-6 * gradients.abs().amax((1, 2))).all())

    def has_curves(self, method: Compared, target: int, theta: float = 10, reading: Reading = "channel") -> bool:
        """Return whether `curves` answers at once."""
        return self._curves_name(method, target, theta, reading) in self._maps

    @staticmethod
    def _curves_name(method: Compared, target: int, theta: float, reading: Reading) -> tuple:
        uses = (theta, reading) if method == "union_cam" else (theta,) if method == "fusion_cam" else ()
        return "curves", method, target, *uses

    def curves(self, method: Compared, target: int, theta: float = 10, reading: Reading = "channel") -> Curves:
        """Return the deletion and the insertion curve of a method's map, in STEPS steps or a few less."""
        name = self._curves_name(method, target, theta, reading)
        return _kept(self._maps, name, lambda: self._curves(method, target, theta, reading))

    def _curves(self, method: Compared, target: int, theta: float, reading: Reading) -> Curves:
        evidence, cam = self.evidence(target), self.cam(method, target, theta, reading)
        step = -(-cam.numel() // STEPS)
        images = {name: perturbation(evidence, cam, name, step) for name in ("deletion", "insertion")}
        found = {}
        for name, changed in images.items():
            logits = self.network.stream(
                lambda i, j, changed=changed: torch.stack([changed[at] for at in range(i, j)]), len(changed)
            )
            found[name] = evidence.score.read(logits).tolist()
        return Curves(found["deletion"], found["insertion"], images)

    def painted(self, mask: Tensor, cover: Cover = "black") -> Tensor:
        """Return the image (channels, H, W) whose masked pixels, (H, W) bool, are covered.

        Raises:
            ValueError: the mask has another size than the image.
        """
        if mask.shape != self.image.shape[1:]:
            raise ValueError(f"The mask is {list(mask.shape)}; it must have the image's {list(self.image.shape[1:])}.")
        if cover == "blurred":
            self._blurred = blur(self.image) if self._blurred is None else self._blurred
            filled = self._blurred
        elif cover == "mean colour":
            filled = self.image.mean((1, 2), keepdim=True).expand_as(self.image)
        else:
            filled = torch.zeros_like(self.image)
        return torch.where(mask.to(self.image.device), filled, self.image)

    def after(self, mask: Tensor, cover: Cover = "black") -> Tensor:
        """Return the probabilities (C,) of the painted image."""
        return self._probabilities(self.painted(mask, cover))

    def most_salient(self, cam: Tensor, share: float, least: bool = False) -> Tensor:
        """Return the share, in [0, 1], of the pixels in which a map is largest, or smallest: (H, W) bool."""
        return ranks(-cam if least else cam) < share * cam.numel()


def _kept(results: OrderedDict, name: Hashable, compute: Callable[[], Any], most: int = 24) -> Any:
    """Return a result from `results`, which holds the most recent ones, or compute it."""
    if name not in results:
        results[name] = compute()
    results.move_to_end(name)
    while len(results) > most:
        results.popitem(last=False)
    return results[name]
