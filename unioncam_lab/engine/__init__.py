"""Masked forward passes at the speed of the hardware: backends, batch sizes, memory.

accelerate(model) gives a classifier an attribute `gradient_free`, an Engine: images -> logits, which unioncam_core uses
for every pass that needs no gradient. The model itself, its layers and its gradients stay as they are.

    Engine          images in, logits out, a chunk at a time: tuned, with progress, and smaller when memory runs out
    backends.py     what computes a chunk: OpenVINO, torch.compile, or PyTorch as it is
    accelerate      one line for one's own model; load_classifier has done it
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unioncam_core import Evidence, Network, evaluation, min_max
from unioncam_lab import progress_disabled
from unioncam_lab.engine.backends import BACKENDS, Function, Precision, batch_of, openvino_graph

log = logging.getLogger(__name__)  # its warnings are one line each on stderr

BackendName = Literal["auto", "openvino", "compile", "eager"]
# How far a backend's logits may be from those of the model in fp32, relative to the largest of them (at least 1).
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
# Chunks to try, in this order, until larger ones cease to gain: on a CPU they then leave its cache.
CPU_CHUNKS, GPU_CHUNKS = (2, 4, 8, 16), (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Backend:
    """A network ready for images of one size on one device.

    Attributes:
        name: one of BACKENDS, or of one's own.
        network: images (n, 3, H, W) -> logits (n, C), float32.
        chunk: how many images at a time are fastest.
        rate: images a second at that.
        threads: how many threads of the processor compute.
    """

    name: str
    network: Function
    chunk: int
    rate: float
    threads: int


class Engine(Network):
    """Images (N, 3, H, W) -> logits (N, C), as the model in evaluation mode gives them, without gradient.

    The backend is built and its chunk measured when images of a new size come first (about 2 seconds), or when the
    model has changed since: other weights, another device. To edit a tensor through `.data` is not noticed.

    Args:
        model, backend, precision, chunk, progress, threads: as in `accelerate`.
    """

    def __init__(
        self,
        model: nn.Module,
        backend: BackendName = "auto",
        precision: Precision = "fp32",
        chunk: int | None = None,
        progress: bool = True,
        threads: int | None = None,
    ):
        for name, value, allowed in (
            ("backend", backend, get_args(BackendName)),
            ("precision", precision, get_args(Precision)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, allowed))}.")
        if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"chunk is {chunk!r}; it is a number of images, 1 or more, or None to have it measured.")
        if precision == "tf32" and _device(model).type != "cuda":
            raise ValueError(f"precision 'tf32' is a mode of NVIDIA GPUs; the model is on {_device(model)}.")
        super().__init__(model)
        self.model, self.precision = model, precision
        self.backend: str = backend
        self.chunk, self.progress, self.threads = chunk, progress, threads
        self._ready: dict[tuple, Backend] = {}
        self._masks: dict[tuple, Callable[[Tensor, Tensor], Tensor]] = {}
        self._built_from: tuple = ()

    def __call__(self, images: Tensor) -> Tensor:
        return self.stream(lambda first, last: images[first:last], len(images))

    @torch.no_grad()
    def stream(self, make: Callable[[int, int], Tensor], count: int) -> Tensor:
        """Logits (count, C) of `count` images, of which make(first, last) gives some. All of them never exist.

        Beyond 2 seconds there is a progress bar. When a GPU's memory runs out, the chunk is halved, now and for later.
        """
        if count < 1:
            raise ValueError(f"{count} images are to be scored; 1 or more are needed.")
        backend = self.backend_for(make(0, 1))
        unseen = progress_disabled() if self.progress and count > 2 * backend.rate else True
        outputs, first = [], 0
        with (
            evaluation(self.model),
            _single_thread() if backend.name == "openvino" else nullcontext(),
            tqdm(total=count, unit="image", leave=False, disable=unseen) as bar,
        ):
            while first < count:
                last = min(first + backend.chunk, count)
                try:
                    output = backend.network(make(first, last))
                except torch.OutOfMemoryError:
                    if backend.chunk == 1:
                        raise
                    backend = self._shrink(backend)
                    continue
                outputs.append(output)
                bar.update(last - first)
                first = last
        return torch.cat(outputs)

    def region_pass(self, evidences: Sequence[Evidence]) -> list[Tensor | None]:
        """Logits (live, C) of the masked images of each image, all in one stream; None where no channel is live.

        Images share chunks, so that a GPU is never left waiting, and channels that make the same mask share one.
        """
        sizes = {tuple(evidence.image.shape) for evidence in evidences}
        if len(sizes) > 1:
            raise ValueError(f"The images are of the sizes {sorted(sizes)}; to be scored together they must have one.")
        images = [evidence for evidence in evidences if evidence.live.any()]
        if not images:
            return [None] * len(evidences)
        maskings = [self._masking(evidence) for evidence in images]
        distinct, owners = zip(*map(distinct_masks, images), strict=True)
        counts = [len(channels) for channels in distinct]

        def make(first: int, last: int) -> Tensor:
            pieces = []
            for masked, channels, end in zip(maskings, distinct, accumulate(counts), strict=True):
                start = end - len(channels)
                if first < end and start < last:
                    pieces.append((masked, channels[max(0, first - start) : last - start]))
            if len(pieces) == 1:
                return pieces[0][0](pieces[0][1])
            return torch.cat([masked(channels).clone() for masked, channels in pieces])

        logits = self.stream(make, sum(counts)).split(counts)
        outputs = iter([rows[own] for rows, own in zip(logits, owners, strict=True)])
        return [next(outputs) if evidence.live.any() else None for evidence in evidences]

    def _masking(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Channels -> the image masked by each: by OpenVINO too where it is in use, so that no core stands idle."""
        if self.backend_for(evidence.image[None]).name != "openvino" or isinstance(evidence.background, Tensor):
            return lambda channels: evidence.masked(evidence.masks(channels))
        key = evidence.activations.shape[1:], evidence.image.shape, evidence.protocol.map_scale
        if key not in self._masks:
            example = evidence.activations[:2].contiguous(), evidence.image
            shapes, threads = [(-1, *key[0]), key[1]], self.threads or torch.get_num_threads()
            self._masks[key] = openvino_graph(_Masking(evidence), example, shapes, "fp32", threads)
        return lambda channels: self._masks[key](evidence.activations[channels], evidence.image)

    def backend_for(self, images: Tensor) -> Backend:
        """The backend for images of this size. If there is none yet it is built, and its chunk measured."""
        built_from = _fingerprint(self.model)
        if built_from != self._built_from:
            self._ready, self._built_from = {}, built_from
        key = _key(images)
        if key not in self._ready:
            with torch.inference_mode(False), torch.no_grad(), evaluation(self.model):
                self._ready[key] = self._build(images)
        return self._ready[key]

    def use(self, images: Tensor, backend: Backend):
        """Score images of this size with a backend of one's own, until the model changes."""
        self.backend_for(images)
        self._ready[_key(images)] = backend

    def _build(self, images: Tensor) -> Backend:
        """The wanted backend if it can be built and agrees with the model in fp32, or else eager."""
        on_cpu = images.device.type == "cpu"
        best = "openvino" if on_cpu and images.dtype == torch.float32 else "eager"
        wanted = best if self.backend == "auto" else self.backend
        if wanted != "eager":
            try:
                return self._checked(wanted, images)
            except Exception as error:
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                log.warning("The backend %s is not used: %s. Going on with eager.", wanted, reason)
        return self._checked("eager", images)

    def _checked(self, name: str, images: Tensor) -> Backend:
        """A backend, its chunk measured.

        Raises:
            ValueError: its logits are not those of the model in fp32, or it was not asked for and eager is faster.
            Exception: whatever its builder raises.
        """
        sizes = (self.chunk,) if self.chunk else CPU_CHUNKS if images.device.type == "cpu" else GPU_CHUNKS
        noise = torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        threads = self.threads or torch.get_num_threads()
        reference, _ = BACKENDS["eager"](self.model, noise, "fp32", sizes, threads)
        expected = reference(noise)
        network, usable = BACKENDS[name](self.model, noise, self.precision, sizes, threads)
        off = (network(batch_of(noise, usable[0])) - batch_of(expected, usable[0])).abs().max()
        off = float(off / expected.abs().max().clamp(min=1))
        if not off <= TOLERANCE[self.precision]:
            raise ValueError(f"its logits are off by {off:.2g}, where {TOLERANCE[self.precision]} is allowed")
        chunk, best = _fastest_chunk(network, noise, usable)
        if name != "eager" and self.backend == "auto" and best < (eager := images_per_second(reference, noise)):
            raise ValueError(f"it is slower: {best:.0f} images a second, where eager makes {eager:.0f}")
        return Backend(name, network, chunk, best, threads)

    def _shrink(self, backend: Backend) -> Backend:
        smaller = replace(backend, chunk=backend.chunk // 2)
        log.warning("Out of memory with %d images at a time: going on with %d.", backend.chunk, smaller.chunk)
        self._ready = {key: smaller if kept is backend else kept for key, kept in self._ready.items()}
        torch.cuda.empty_cache()
        return smaller

    def __getstate__(self) -> dict:
        """For copies and pickles of the model: they build their own."""
        return vars(self) | {"_ready": {}, "_masks": {}, "_built_from": ()}


def distinct_masks(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The live channels that make different masks (n,), and for each live channel which of these is its own (live,).

    Maps that differ by a factor alone are one mask when they are scaled: many have a single place that is not 0.
    """
    live = evidence.live.nonzero().flatten()
    positions = torch.arange(len(live), device=live.device)
    if evidence.protocol.map_scale != "min-max":
        return live, positions
    scaled = min_max(evidence.activations[live]).flatten(1)
    masks, own = torch.unique(scaled, dim=0, return_inverse=True)
    first = torch.full_like(own[: len(masks)], len(live)).scatter_reduce(0, own, positions, "amin")
    return live[first], own


class _Masking(nn.Module):
    """What Evidence makes of feature maps (n, h, w) and an image (3, H, W): the masked images (n, 3, H, W)."""

    def __init__(self, evidence: Evidence):
        super().__init__()
        self.evidence = evidence

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        evidence = replace(self.evidence, activations=maps, image=image)
        return evidence.masked(evidence.masks(slice(None)))


@contextmanager
def _single_thread() -> Generator[None, None, None]:
    """PyTorch on one thread: its idle ones wait actively, and take OpenVINO's cores away."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def images_per_second(network: Function, images: Tensor, seconds: float = 0.04) -> float:
    """Images a second: the best of several passes, after one that does not count."""
    times = []
    network(images)
    while len(times) < 2 or sum(times) < seconds:
        _wait(images.device)
        start = time.perf_counter()
        network(images)
        _wait(images.device)
        times.append(time.perf_counter() - start)
    return len(images) / min(times)


def _wait(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest_chunk(network: Function, noise: Tensor, sizes: Sequence[int]) -> tuple[int, float]:
    """The chunk with the best rate, and that rate; larger ones are tried while they do not lose.

    Of those within 2 % of the best, a CPU gets the largest, since each has its fixed cost, and a GPU the smallest,
    since its memory is small.
    """
    rates, start = {}, time.perf_counter()
    for size in sizes:
        try:
            rates[size] = images_per_second(network, batch_of(noise, size))
        except torch.OutOfMemoryError:
            if not rates:
                raise
            break
        if rates[size] < 0.9 * max(rates.values()) or time.perf_counter() - start > 2:
            break
    near = [size for size in rates if rates[size] > 0.9 * max(rates.values())]
    while len(near) > 1 and time.perf_counter() - start < 0.7:  # by turns, since a machine's speed drifts
        rates |= {size: max(rates[size], images_per_second(network, batch_of(noise, size), 0.02)) for size in near}
    good = [size for size in rates if rates[size] >= 0.98 * max(rates.values())]
    chunk = max(good) if noise.device.type == "cpu" else min(good)
    return chunk, rates[chunk]


def _key(images: Tensor) -> tuple:
    return tuple(images.shape[1:]), images.device, images.dtype


def _fingerprint(model: nn.Module) -> tuple:
    """What changes when a model does: its modules, and where its tensors lie and how often they were written to."""
    modules = tuple((id(module), type(module)) for module in model.modules())
    tensors = chain(model.parameters(), model.buffers())
    return modules, tuple((t.data_ptr(), t.device, 0 if t.is_inference() else t._version) for t in tensors)


def _device(model: nn.Module) -> torch.device:
    return next(chain(model.parameters(), model.buffers()), torch.empty(0)).device


def accelerate(
    model: nn.Module,
    backend: BackendName = "auto",
    precision: Precision = "fp32",
    chunk: int | None = None,
    progress: bool = True,
    threads: int | None = None,
) -> nn.Module:
    """Let a classifier's passes without gradient run as fast as its machine can; the same model is returned.

    Example:
        >>> model = accelerate(resnet50(weights=ResNet50_Weights.DEFAULT))
        >>> maps = UnionCAM(model, [model.layer4])(input_tensor)

    The model keeps its layers, its weights and its gradients: it gets an attribute `gradient_free`, which unioncam_core
    asks for scores. A backend that cannot be built here, or whose logits are off, is replaced by eager, in one line.

    Args:
        model: classifier, images (N, 3, H, W) -> logits (N, C).
        backend: `auto`: OpenVINO for float32 on a CPU, otherwise eager. `openvino`; `compile`, which takes half a
            minute to build and on a CPU needs a C++ compiler; `eager`.
        precision: of the passes without gradient. `fp32`; `tf32` on an NVIDIA GPU; `bf16` or `fp16`. A backend that
            would compute in another precision is not used; eager then is, which without such instructions is slow.
        chunk: images at a time; measured where None.
        progress: show a bar when scoring takes longer than 2 seconds.
        threads: of OpenVINO; as many as PyTorch has where None.

    Raises:
        ValueError: no such backend or precision, or not on this device.
    """
    model.gradient_free = Engine(model, backend, precision, chunk, progress, threads)  # ty: ignore[invalid-assignment]
    return model
