"""The engine, which computes forward passes without gradient fast: backends, batch sizes, memory.

accelerate(model) gives a classifier the attribute `gradient_free`, an Engine: images -> logits. unioncam_core uses it
for every pass that needs no gradient. The model, its layers and its gradients do not change.

    Engine          images -> logits in chunks (batches); it measures the best chunk, and halves it if memory runs out
    backends.py     the backends that compute a chunk: OpenVINO, ncnn, torch.compile, or PyTorch in eager mode
    accelerate      adds an Engine to a model; load_classifier has already called it
"""

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import unioncam_core
from unioncam_core import Evidence, Network, evaluation, min_max
from unioncam_lab import cache, progress_disabled
from unioncam_lab.engine import backends
from unioncam_lab.engine.backends import BACKENDS, CONCURRENT, Function, Precision, batch_of, openvino_graph
from unioncam_lab.provenance import installed_version, machine

log = logging.getLogger(__name__)  # each warning is one line on stderr

BackendName = Literal["auto", "openvino", "ncnn", "compile", "eager"]
# Largest allowed difference of a backend's logits from the model's in fp32, relative to the largest logit (at least 1).
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
# An image's logits may differ this many times as much as those of the images that the backend was built with.
STALE, LEAST = 10, 1e-4
# Batch sizes to try, in this order, until they become slower. Large ones do not fit into the cache of a CPU.
CPU_CHUNKS, GPU_CHUNKS = (2, 4, 8, 16), (8, 16, 32, 64, 128, 256, 512)
# Below these rates, in images per second, `auto` takes the time to also try ncnn, and to measure bf16 once.
TRY_NCNN, TRY_BF16 = 20, 100
WORTH_KEEPING = 0.25  # seconds that the masked passes of an image take, from which on the cache keeps their logits


@dataclass(frozen=True)
class Backend:
    """A backend for images of one size on one device.

    Attributes:
        name: one of BACKENDS, or another name for a user's own backend.
        network: images (n, channels, H, W) -> logits (n, C), float32.
        chunk: the fastest batch size.
        rate: images per second with this batch size.
        threads: number of CPU threads.
        difference: of its logits from the model's, relative to the largest logit (at least 1).
        calls: number of calls of `network` to make at once, each in a thread of its own.
        key: of all that its logits depend on, for the cache; "": its logits are not kept.
    """

    name: str
    network: Function
    chunk: int
    rate: float
    threads: int
    difference: float = 0.0
    calls: int = 1
    key: str = ""


class _Slower(ValueError):
    """A backend that `auto` measured to be slower than another one."""


class Engine(Network):
    """Images (N, channels, H, W) -> logits (N, C) of the model in evaluation mode, without gradient.

    For the first images of each size, the engine builds the backend and measures its chunk (about 2 seconds). It does
    so again after the model has changed: other weights, another device, or an image that is scored otherwise than by
    the model (see `check`). Several threads can use one engine; they take turns.

    Args:
        model, backend, precision, chunk, progress, threads: as in `accelerate`.

    Attributes:
        saved: seconds that the masked passes took which were read from the cache, in all.
        watch: None, or a function that is called before each chunk with the number of images in the chunks before it
            and of all images of the stream, perhaps in several threads. If it raises an error, the stream ends with it.
    """

    _told_of_bf16 = False

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
        self._ready: dict[tuple, Backend] = {}  # _key(images) -> backend
        self._masks: dict[tuple, Callable[[Tensor, Tensor], Tensor]] = {}
        self._built_from: tuple = ()
        self.saved = 0.0
        self.watch: Callable[[int, int], None] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        return self.stream(lambda first, last: images[first:last], len(images))

    @torch.no_grad()
    def stream(self, make: Callable[[int, int], Tensor], count: int) -> Tensor:
        """Return the logits (count, C) of `count` images. make(first, last) makes a chunk of them when it is needed.

        With OpenVINO and ncnn, as many chunks as there are threads are made and computed at once, each by one thread.
        A progress bar is shown if more than 2 seconds are expected. If the memory of a GPU runs out, the chunk is
        halved, and remains so for later calls.
        """
        if count < 1:
            raise ValueError(f"{count} images are to be scored; 1 or more are needed.")
        with ExitStack() as stack:
            stack.enter_context(evaluation(self.model))
            backend = self.backend_for(make(0, 1))
            if backend.name in CONCURRENT:
                stack.enter_context(_single_thread())
            hide = progress_disabled() if self.progress and count > 2 * backend.rate else True
            bar = stack.enter_context(tqdm(total=count, unit="image", leave=False, disable=hide))
            each = stack.enter_context(concurrently(backend.calls))
            outputs, first = torch.empty(0), 0

            def compute(chunk: tuple[int, int], network: Function) -> Tensor:
                if self.watch:
                    self.watch(chunk[0], count)
                return network(make(*chunk))

            while first < count:
                size = min(backend.chunk, -(-count // backend.calls))  # no thread stays idle if there are few images
                chunks = [(start, min(start + size, count)) for start in range(first, count, size)]
                try:
                    logits = each(functools.partial(compute, network=backend.network), chunks)
                    for (start, last), output in zip(chunks, logits, strict=True):
                        if start == 0:
                            outputs = output.new_empty(count, *output.shape[1:])
                        outputs[start:last] = output  # copied: a backend may write its next result to the same memory
                        bar.update(last - start)
                        first = last
                except torch.OutOfMemoryError:
                    if backend.chunk == 1:
                        raise
                    backend = self._shrink(backend)
        return outputs

    def scored(self, images: Sequence[Callable[[], Tensor]], groups: Mapping[str, Sequence[int]]) -> Tensor:
        """Return the logits (N, C) of N images (channels, H, W), each of which a function makes when it is needed.

        Args:
            images: the functions.
            groups: the positions of images whose logits are kept in the cache, if they take longer than WORTH_KEEPING.
                The key of a group names all that its images depend on.
        """
        backend = self.backend_for(images[0]()[None])
        least = WORTH_KEEPING * backend.rate if backend.key else torch.inf
        kept = {cache.key(backend.key, key): list(at) for key, at in groups.items() if len(at) >= least}
        others = sorted(set(range(len(images))).difference(*kept.values()))
        parts = [others, *kept.values()]

        def compute(missing: Sequence[int]) -> Sequence[Tensor]:
            wanted = [at for i in missing for at in parts[i]]
            stacked = self.stream(lambda i, j: torch.stack([images[at]() for at in wanted[i:j]]), len(wanted))
            return stacked.split([len(parts[i]) for i in missing])

        rows = torch.cat(self._kept(["", *kept], backend, images[0]()[None], compute))
        return rows[torch.tensor([at for part in parts for at in part]).argsort().to(rows.device)]

    def _kept(
        self, names: Sequence[str], backend: Backend, like: Tensor, compute: Callable[[Sequence[int]], Sequence[Tensor]]
    ) -> list[Tensor]:
        """Return logits (n, C) for each name, from the cache, or else from compute(positions). "" is never kept."""
        found: list[Tensor | None] = []
        for name in names:
            if kept := cache.load(name) if name else None:
                read = safetensors.torch.load(kept)
                self.saved += float(read["seconds"])
                found.append(read["logits"].to(like.device))
            else:
                found.append(None)
        if missing := [i for i, rows in enumerate(found) if rows is None]:
            start = time.perf_counter()
            computed = compute(missing)
            seconds = (time.perf_counter() - start) / max(1, sum(map(len, computed)))
            for i, rows in zip(missing, computed, strict=True):
                found[i] = rows
                if names[i] and self.backend_for(like) is backend:  # its memory did not run out
                    kept = {"logits": rows.contiguous(), "seconds": torch.tensor(seconds * len(rows))}
                    cache.save(names[i], safetensors.torch.save(kept))
        return [rows for rows in found if rows is not None]

    def region_pass(self, evidences: Sequence[Evidence]) -> list[Tensor | None]:
        """Return for each image the logits (live, C) of its masked images; None if no channel is live.

        All masked images form one stream. A chunk can hold masked images of several images, so that a GPU does not
        wait. Channels with the same mask are scored once. Logits that take longer than WORTH_KEEPING are kept in the
        cache, and read from it.
        """
        sizes = {tuple(evidence.image.shape) for evidence in evidences}
        if len(sizes) > 1:
            raise ValueError(f"The images are of the sizes {sorted(sizes)}; to be scored together they must have one.")
        images = [evidence for evidence in evidences if evidence.live.any()]
        if not images:
            return [None] * len(evidences)
        distinct, owners = zip(*map(distinct_masks, images), strict=True)
        backend = self.backend_for(images[0].image[None])
        names = [_name(backend, *pair) for pair in zip(images, distinct, strict=True)]
        logits = self._kept(
            names,
            backend,
            images[0].image[None],
            lambda missing: self._masked_passes([images[i] for i in missing], [distinct[i] for i in missing]),
        )
        outputs = iter([rows[own] for rows, own in zip(logits, owners, strict=True)])
        return [next(outputs) if evidence.live.any() else None for evidence in evidences]

    def _masked_passes(self, images: Sequence[Evidence], distinct: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return for each image the logits (n, C) of its masked images, one for each of its n distinct masks."""
        with evaluation(self.model):  # not while another thread has PyTorch use a single thread
            maskings = [self._masking(evidence) for evidence in images]
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

        return self.stream(make, sum(counts)).split(counts)

    def _masking(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Return the function channels -> masked images. OpenVINO computes it too if it is the backend.

        PyTorch has a single thread then, so that masking in PyTorch would leave cores without work.
        """
        if self.backend_for(evidence.image[None]).name != "openvino" or isinstance(evidence.background, Tensor):
            return lambda channels: evidence.masked(evidence.masks(channels))
        key = evidence.activations.shape[1:], evidence.image.shape, evidence.protocol.map_scale
        if key not in self._masks:
            example = evidence.activations[:2].contiguous(), evidence.image
            shapes, threads = [(-1, *key[0]), key[1]], self.threads or torch.get_num_threads()
            self._masks[key] = openvino_graph(
                _Masking(evidence), example, shapes, "fp32", threads, f"{_surroundings()} {key}"
            )
        graph = self._masks[key]
        return lambda channels: graph(evidence.activations[channels], evidence.image)

    def check(self, images: Tensor, logits: Tensor):
        """Build the backend again if it scores these images otherwise than the model did, whose logits are given.

        The weights' versions do not show every change: `model.temperature = 5`, or a tensor that is changed in place
        through `.data`. If a new backend differs too, eager takes its place.

        Raises:
            ValueError: the model's logits for an image change from call to call, or with the other images of a batch.
        """
        with evaluation(self.model):
            backend = self.backend_for(images)
            if _relative(self(images), logits) <= max(STALE * backend.difference, LEAST):
                return
            log.warning("The model has changed since the backend %s was built: it is built again.", backend.name)
            self._ready = {}
            backend = self.backend_for(images)
            difference = _relative(self(images), logits)
            if difference > TOLERANCE[self.precision] and backend.name != "eager":
                log.warning("The backend %s is not used: its logits are off by %.2g.", backend.name, difference)
                self._ready[_key(images)] = backend = self._checked("eager", self._reference(images))
                difference = _relative(self(images), logits)
            Network(Logits(self.model)).check(images, logits)  # no backend equals a model that does not equal itself
            self._ready[_key(images)] = replace(backend, difference=max(difference, backend.difference))

    def backend_for(self, images: Tensor) -> Backend:
        """Return the backend for images of this size. If it does not exist yet, build it and measure its chunk."""
        with evaluation(self.model):
            built_from = _fingerprint(self.model)
            if built_from != self._built_from:
                self._ready, self._built_from = {}, built_from
            key = _key(images)
            if key not in self._ready:
                with torch.inference_mode(False), torch.no_grad():
                    self._ready[key] = self._build(images)
            return self._ready[key]

    def use(self, images: Tensor, backend: Backend):
        """Use the given backend for images of this size until the model changes."""
        self.backend_for(images)
        self._ready[_key(images)] = backend

    def _build(self, images: Tensor) -> Backend:
        """Return the requested backend if it passes all checks of `_checked`, otherwise eager.

        Raises:
            ValueError: the model's logits for an image change from call to call, or with the other images of a batch.
        """
        plain, reference = images.device.type == "cpu" and images.dtype == torch.float32, self._reference(images)
        best = "openvino" if plain else "eager"
        requested = best if self.backend == "auto" else self.backend
        backend = self._tried(requested, reference, "eager") if requested != "eager" else None
        backend = backend or self._checked("eager", reference)
        if self.backend == "auto" and self.precision == "fp32" and plain:
            if (
                backend.rate < TRY_NCNN
                and backends.ncnn_is_installed()
                and winograd_share(self.model, images[:1]) > 0.5
            ):
                ncnn = self._tried("ncnn", reference, backend.name) or backend
                backend = max(backend, ncnn, key=lambda each: each.rate)
            if backend.rate < TRY_BF16 and not Engine._told_of_bf16 and backends.bf16_is_native():
                self._tell_of_bf16(reference, backend)
        return backend

    def _tried(self, name: str, reference: tuple[Function, Tensor, Tensor], otherwise: str) -> Backend | None:
        """Return the backend if it passes all checks of `_checked`. If not, warn in one line, and return None."""
        try:
            return self._checked(name, reference)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            level = (
                logging.INFO if isinstance(error, _Slower) else logging.WARNING
            )  # a choice by speed needs no attention
            log.log(level, "The backend %s is not used: %s. Going on with %s.", name, reason, otherwise)
            return None

    def _tell_of_bf16(self, reference: tuple[Function, Tensor, Tensor], backend: Backend):
        """Measure OpenVINO in bf16. If it is much faster than the given backend, say so, once in each process."""
        half = Engine(self.model, "openvino", "bf16", self.chunk, self.progress, self.threads)
        try:
            faster = half._checked("openvino", reference)
        except Exception:  # the user has not asked for it
            return
        if faster.rate > 1.2 * backend.rate:
            Engine._told_of_bf16 = True
            log.warning(
                "In bf16 this processor computes %.3g images per second, not %.3g, and the logits are off by %.1g: "
                'accelerate(model, precision="bf16") asks for it.',
                faster.rate,
                backend.rate,
                faster.difference,
            )

    def _reference(self, images: Tensor) -> tuple[Function, Tensor, Tensor]:
        """Return the model in eager mode and fp32; three images of this size, the second black; and their logits.

        Raises:
            ValueError: the model's logits for an image change from call to call, or with the other images of a batch.
        """
        noise = torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        tried = torch.cat([noise[:1], torch.zeros_like(noise[:1]), noise[1:]])  # a black image, as masks of 0 leave it
        model = Logits(self.model)
        network, _ = BACKENDS["eager"](model, noise, "fp32", (), torch.get_num_threads(), "")
        logits = network(tried)
        Network(model).check(tried[:1], logits[:1])
        return network, tried, logits

    def _checked(self, name: str, reference: tuple[Function, Tensor, Tensor]) -> Backend:
        """Build a backend, compare its logits with the reference's, and measure its chunk.

        Raises:
            ValueError: the logits differ by more than TOLERANCE allows; or the backend is the choice of "auto", and
                eager is faster.
            Exception: any error of the builder.
        """
        eager, tried, expected = reference
        noise, threads, model = tried[::2], self.threads or torch.get_num_threads(), Logits(self.model)
        supported = (self.chunk,) if self.chunk else CPU_CHUNKS if tried.device.type == "cpu" else GPU_CHUNKS
        key = cache.key(*_surroundings(), *_content(model), expected, name, self.precision, threads)
        network, logits, difference = eager, expected, 0.0
        if name != "eager" or self.precision != "fp32":
            network, supported = BACKENDS[name](model, noise, self.precision, supported, threads, key)
            if not expected.isfinite().all():
                raise ValueError("the model's logits for a black image are NaN or infinite")
            logits = network(batch_of(tried, supported[0]))
            difference = _relative(logits, batch_of(expected, supported[0]))
        if not difference <= TOLERANCE[self.precision]:
            raise ValueError(f"its logits are off by {difference:.2g}, but only {TOLERANCE[self.precision]} is allowed")
        calls, key = threads if name in CONCURRENT else 1, cache.key(key, logits[:1])
        if kept := cache.load(measured := cache.key(key, supported)):
            chunk, rate = json.loads(kept)
        else:
            chunk, rate = _fastest_chunk(network, noise, supported, calls)
            if name == "openvino" and self.backend == "auto" and rate < (other := images_per_second(eager, noise)):
                raise _Slower(f"it is slower: it computes {rate:.0f} images per second, and eager {other:.0f}")
            cache.save(measured, json.dumps([chunk, rate]).encode())
        return Backend(name, network, chunk, rate, threads, difference, calls, cache.key(key, chunk))

    def _shrink(self, backend: Backend) -> Backend:
        smaller = replace(backend, chunk=backend.chunk // 2, key="")
        log.warning("Out of memory with %d images at a time: going on with %d.", backend.chunk, smaller.chunk)
        self._ready = {key: smaller if kept is backend else kept for key, kept in self._ready.items()}
        torch.cuda.empty_cache()
        return smaller

    def __getstate__(self) -> dict:
        """Return the state for copies and pickles, without backends: a copy of the model builds its own."""
        return vars(self) | {"_ready": {}, "_masks": {}, "_built_from": (), "watch": None}


def distinct_masks(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Return one live channel per distinct mask (n,), and for each live channel the position of its mask (live,).

    Maps that differ only by a factor give the same mask after scaling. This is frequent, because many maps have a
    single position that is not 0.
    """
    live = evidence.live.nonzero().flatten()
    positions = torch.arange(len(live), device=live.device)
    if evidence.protocol.map_scale != "min-max":
        return live, positions
    scaled = min_max(evidence.activations[live]).flatten(1)
    masks, own = torch.unique(scaled, dim=0, return_inverse=True)
    first = torch.full_like(own[: len(masks)], len(live)).scatter_reduce(0, own, positions, "amin")
    return live[first], own


def _name(backend: Backend, evidence: Evidence, channels: Tensor) -> str:
    """Return the name in the cache of the logits of these channels; "" if they are not to be kept."""
    if not backend.key or type(evidence) is not Evidence or len(channels) < WORTH_KEEPING * backend.rate:
        return ""
    masks = evidence.activations, evidence.background, evidence.protocol.map_scale
    return cache.key(backend.key, evidence.image, *masks)


@functools.cache
def _surroundings() -> tuple:
    """Return what decides, beside the model and the images, which logits are computed: machine, packages and code."""
    code = [Path(module.__file__).read_bytes() for module in (unioncam_core, backends, cache)]
    code.append(Path(__file__).read_bytes())
    return (
        machine(),
        [installed_version(name) for name in ("torch", "openvino", "ncnn", "pnnx")],
        hashlib.sha256(b"\n".join(code)).hexdigest(),
    )


def _content(model: nn.Module) -> list:
    """Return the model's structure, as PyTorch prints it, and its weights and buffers with their names."""
    return [repr(model), *chain.from_iterable(chain(model.named_parameters(), model.named_buffers()))]


def winograd_share(model: nn.Module, image: Tensor) -> float:
    """Return the share of 3×3 convolutions with stride 1, which are Winograd's, in the multiplications of a pass.

    Only convolutions and linear layers are counted. The image is (1, channels, H, W).
    """
    counts = {True: 0, False: 0}

    def count(layer: nn.Conv2d | nn.Linear, _inputs: tuple, output: Tensor):
        plain = isinstance(layer, nn.Conv2d) and layer.stride == layer.dilation == (1, 1) and layer.groups == 1
        counts[plain and layer.kernel_size == (3, 3)] += output.numel() * layer.weight[0].numel()

    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                stack.callback(layer.register_forward_hook(count).remove)
        model(image)
    return counts[True] / max(1, sum(counts.values()))


class Logits(nn.Module):
    """A model that returns logits (N, C), whether it returns them so, as (N,) or (N, C, 1, 1), or in an object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(images)
        logits = getattr(output, "logits", output)
        return logits.reshape(-1, 1) if logits.ndim < 2 else logits.flatten(1)


class _Masking(nn.Module):
    """Module: feature maps (n, h, w) and an image (channels, H, W) -> masked images (n, channels, H, W)."""

    def __init__(self, evidence: Evidence):
        super().__init__()
        self.evidence = evidence

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        evidence = replace(self.evidence, activations=maps, image=image)
        return evidence.masked(evidence.masks(slice(None)))


@contextmanager
def _single_thread() -> Generator[None, None, None]:
    """Set PyTorch to one thread, because its idle threads wait actively and take cores away from OpenVINO."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def concurrently(calls: int) -> Generator[Callable, None, None]:
    """Yield a function like `map`, which makes as many calls at once, each in a thread of its own, without gradient."""
    if calls == 1:
        yield map
        return
    with ThreadPoolExecutor(calls, initializer=torch.set_grad_enabled, initargs=(False,)) as pool:
        yield pool.map


def images_per_second(network: Function, images: Tensor, seconds: float = 0.04, calls: int = 1) -> float:
    """Return images per second with `calls` calls at once: the best of several passes, without the first one."""
    times = []
    with concurrently(calls) as each:
        while len(times) < 3 or sum(times[1:]) < seconds:
            _wait(images.device)
            start = time.perf_counter()
            for _ in each(network, [images] * calls):
                pass
            _wait(images.device)
            times.append(time.perf_counter() - start)
    return calls * len(images) / min(times[1:])


def _relative(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected logit (at least 1)."""
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))


def _wait(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest_chunk(network: Function, noise: Tensor, sizes: Sequence[int], calls: int = 1) -> tuple[int, float]:
    """Return the batch size with the best rate, and this rate in images per second, with `calls` calls at once.

    Larger sizes are tried until a size is more than 10 % slower than the best one, or 2 seconds have passed. Of the
    sizes within 2 % of the best rate, a CPU takes the largest, because each batch has a fixed cost. A GPU takes the
    smallest, because its memory is small.
    """
    rates, start = {}, time.perf_counter()
    for size in sizes:
        try:
            rates[size] = images_per_second(network, batch_of(noise, size), calls=calls)
        except torch.OutOfMemoryError:
            if not rates:
                raise
            break
        if rates[size] < 0.9 * max(rates.values()) or time.perf_counter() - start > 2:
            break
    candidates = [size for size in rates if rates[size] > 0.9 * max(rates.values())]
    while len(candidates) > 1 and time.perf_counter() - start < 0.7:  # alternately, because a machine's speed drifts
        for size in candidates:
            rates[size] = max(rates[size], images_per_second(network, batch_of(noise, size), 0.02, calls))
    good = [size for size in rates if rates[size] >= 0.98 * max(rates.values())]
    chunk = max(good) if noise.device.type == "cpu" else min(good)
    return chunk, rates[chunk]


def _key(images: Tensor) -> tuple:
    """Return the size, device and type of images, for which a backend is built."""
    return tuple(images.shape[1:]), images.device, images.dtype


def _fingerprint(model: nn.Module) -> tuple:
    """Return a value that changes with the model: its modules, and the address and version of each of its tensors."""
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
    """Make a classifier's passes without gradient fast, and return the same model.

    Example:
        >>> model = accelerate(resnet50(weights=ResNet50_Weights.DEFAULT))
        >>> maps = UnionCAM(model, [model.layer4])(input_tensor)

    The model keeps its layers, its weights and its gradients. It gets the attribute `gradient_free`, by which
    unioncam_core computes scores. If the backend cannot be built here or its logits are wrong, eager is used instead,
    and a warning of one line says so. If eager is faster, it also replaces the backend that `auto` chooses.

    Args:
        model: classifier, images (N, channels, H, W) -> logits (N, C).
        backend: `auto`: for float32 on a CPU the fastest of OpenVINO, eager and, for a slow network of 3×3
            convolutions, ncnn if it is installed; otherwise eager. `openvino`. `ncnn`, for fp32 on a CPU: it needs the
            extra `ncnn`, and up to half a minute to build. `compile`: it takes half a minute to build and needs a C++
            compiler on a CPU. `eager`.
        precision: of the passes without gradient: `fp32`, `tf32` (on an NVIDIA GPU), `bf16` or `fp16`. If the backend
            would compute in another precision, eager is used. Eager is slow on a processor without instructions for it.
        chunk: batch size; measured if None.
        progress: whether to show a bar if scoring is expected to take more than 2 seconds.
        threads: number of OpenVINO's threads; as many as PyTorch has if None.

    Raises:
        ValueError: the backend or precision does not exist or is not supported on this device, or chunk is not a
            positive integer.
    """
    model.gradient_free = Engine(model, backend, precision, chunk, progress, threads)  # ty: ignore[invalid-assignment]
    return model
