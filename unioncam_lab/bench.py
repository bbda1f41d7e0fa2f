"""The benchmark: what an explanation costs, compared with two libraries, and how many pictures a run explains a second.

    settings, compare      the settings of single explanations, and their measured costs
    table                  the costs as a table for display
    Load, pipeline         whole runs from JPEG files to records, each with its measured Rate
    rate_table             the rates as a table for display
    write, read            a file with costs or rates, and their provenance

The command is python -m unioncam_lab bench. Each row is measured in a new process, one after the other. `compare`
explains the same class of the same photo with the same network and layer; `pipeline` explains crops of the demo photos.

The paper's network on 2,000 synthetic pictures, on a machine with a GPU (no download, no data set):

    unioncam bench --pipeline 2000 --classifier vgg16 --random --device cuda --out rates_vgg16_gpu.json

It prints pictures a second, the share of the time in which the GPU computes, and its memory, beside the PAPER's.
"""

import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from statistics import median
from typing import Any, get_args
from unittest import mock

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image, ImageOps
from pytorch_grad_cam import ScoreCAM
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchcam.methods import ScoreCAM as TorchcamScoreCAM
from tqdm.auto import tqdm

from unioncam_core import Evidence, Protocol, UnionCAM, capture, region_cam, score_regions
from unioncam_lab import experiment, progress_disabled
from unioncam_lab.classifiers import Classifier, load_classifier
from unioncam_lab.engine import BackendName, Engine, accelerate, concurrently, distinct_masks, images_per_second
from unioncam_lab.engine.backends import HALF, Precision
from unioncam_lab.experiment import PAPER_METHODS, Runner, Setup
from unioncam_lab.images import DEMO_PHOTOS, Picture, demo_photo
from unioncam_lab.metrics import FAITHFULNESS, Metric


def _union_cam(classifier: Classifier, image: Tensor):
    UnionCAM(classifier, [classifier.target_layer], reshape_transform=classifier.reshape_transform)(image)


def _score_cam(classifier: Classifier, image: Tensor):
    # With these weights UnionCAM's region map is Score-CAM.
    region_cam(_captured(classifier, image, Protocol(region_weights="softmax")))


def _captured(classifier: Classifier, image: Tensor, protocol: Protocol = Protocol()) -> Evidence:
    layer, reshape = classifier.target_layer, classifier.reshape_transform
    return capture(classifier, image, target_layer=layer, protocol=protocol, reshape_transform=reshape)[0]


def _pytorch_grad_cam(classifier: Classifier, image: Tensor):
    with ScoreCAM(classifier, [classifier.target_layer], classifier.reshape_transform) as score_cam:
        score_cam(image, targets=None)


def _torchcam(classifier: Classifier, image: Tensor):
    with TorchcamScoreCAM(classifier, classifier.target_layer) as score_cam:
        scores = classifier(image)
        score_cam(int(scores.argmax()), scores)


CONTESTANTS: dict[str, Callable[[Classifier, Tensor], None]] = {
    "UnionCAM": _union_cam,
    "Score-CAM": _score_cam,
    "UnionCAM, core alone": _union_cam,
    "Score-CAM of pytorch-grad-cam": _pytorch_grad_cam,
    "Score-CAM of torchcam": _torchcam,
}
ACCELERATED = ("UnionCAM", "Score-CAM")


@dataclass(frozen=True)
class Setting:
    """The setting of one measurement.

    Attributes:
        method: one of CONTESTANTS.
        classifier, pretrained, device: as in `load_classifier`.
        backend, precision: as in `accelerate`; only the ACCELERATED methods use them.
        photo, size: a demo photo, and its side in pixels.
        beside: number of other busy processes beside which the explanation is timed once more; 0: none.

    Raises:
        ValueError: the method, backend, precision or photo does not exist, or `beside` is negative.
    """

    method: str
    classifier: str = "efficientnet_lite0"
    pretrained: bool = True
    device: str = "cpu"
    backend: BackendName = "auto"
    precision: Precision = "fp32"
    photo: str = "chelsea"
    size: int = 224
    beside: int = 0

    def __post_init__(self):
        _check_choices(
            self,
            method=tuple(CONTESTANTS),
            backend=get_args(BackendName),
            precision=get_args(Precision),
            photo=tuple(DEMO_PHOTOS),
        )
        if self.beside < 0:
            raise ValueError(f"beside is {self.beside}; it is a number of other processes, 0 or more.")


def _check_choices(setting: object, **allowed: Sequence[str]):
    """Raise a ValueError if an attribute of the setting is none of its allowed values."""
    for name, values in allowed.items():
        if (value := getattr(setting, name)) not in values:
            raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, values))}.")


@dataclass(frozen=True)
class Cost:
    """The cost of one explanation.

    Attributes:
        backend: the backend that computed the masked passes.
        first_seconds: time of the first explanation, which includes building the backend and measuring its chunk.
        seconds: time of the fastest explanation.
        images: number of masked images that the network scores for one explanation.
        images_per_second: `images` / `seconds`; for "Score-CAM", the rate in the masked passes alone.
        ceiling: the best rate of the backend alone, on prepared batches, in images per second; only for "Score-CAM".
        memory_mib: peak of resident memory (on a GPU: of its allocated memory) during the first explanation, minus the
            memory with the model loaded.
        tflops: 10^12 floating-point operations per second of the network, at `images_per_second`.
        matmul_tflops: the same for a product of two large square matrices in the same precision.
        again_seconds: time of the first explanation in another process, which reads from the cache what this one kept;
            only for ACCELERATED methods.
        seconds_beside: time of an explanation beside `Setting.beside` other busy processes, the median of several.
    """

    backend: str
    first_seconds: float
    seconds: float
    images: int
    images_per_second: float
    ceiling: float | None
    memory_mib: float
    tflops: float
    matmul_tflops: float
    seconds_beside: float | None = None
    again_seconds: float | None = None


def measure(setting: Setting, seconds: float = 8) -> Cost:
    """Measure the cost of an explanation in this process.

    The process should be new, because a process does not give back all the memory that it once used.

    Args:
        setting: the setting to measure.
        seconds: the explanation is repeated for this time; an explanation that builds a backend does not count. The
            rates in the masked passes and of the backend alone are measured for at most a second at a time.
    """
    classifier, image = _loaded(setting)
    explain = CONTESTANTS[setting.method]
    with _peak_memory(setting.device) as memory:
        times = [_seconds(explain, classifier, image)]
    with _cache("off"):
        built = 1 if setting.method in ACCELERATED else 0  # number of explanations that build a backend: the first one
        while sum(times[built:]) < seconds:
            times.append(_seconds(explain, classifier, image))
        with _busy_processes(setting.beside):
            beside = median(_seconds(explain, classifier, image) for _ in range(3)) if setting.beside else None
        evidence = _captured(classifier, image)
        images = len(evidence.live)
        if explain in (_union_cam, _score_cam):
            images = len(distinct_masks(evidence)[0]) if setting.method in ACCELERATED else int(evidence.live.sum())
        images_per_second, ceiling, backend = images / min(times), None, "eager"
        if setting.method in ACCELERATED:
            backend = classifier.gradient_free.backend_for(image).name
        if setting.method == "Score-CAM":
            images_per_second, ceiling = _rates(classifier.gradient_free, evidence, min(1, seconds))
        with FlopCounterMode(display=False) as operations, torch.no_grad():
            classifier(image)
        tflops = operations.get_total_flops() * images_per_second / 1e12
        matmul = _matmul_tflops(setting.device, setting.precision)
        return Cost(
            backend, times[0], min(times), images, images_per_second, ceiling, memory[0], tflops, matmul, beside
        )


def _loaded(setting: Setting) -> tuple[Classifier, Tensor]:
    classifier = load_classifier(setting.classifier, setting.device, pretrained=setting.pretrained)
    if setting.method in ACCELERATED:
        accelerate(classifier, setting.backend, setting.precision, progress=False)
    else:
        del classifier.gradient_free
    return classifier, classifier.as_input(demo_photo(setting.photo, setting.size).image)[None]


def first_explanation(setting: Setting) -> float:
    """Return the seconds of the first explanation in this process, which should be new."""
    classifier, image = _loaded(setting)
    return _seconds(CONTESTANTS[setting.method], classifier, image)


def _cache(where: str) -> AbstractContextManager:
    """Use the cache in this folder, or none (`off`), here and in the processes that are started here."""
    return mock.patch.dict(os.environ, UNIONCAM_CACHE=where)


def _seconds(function: Callable, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """Have `count` other processes compute without pause. They also end if this process is killed."""
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _rates(engine: Engine, evidence: Evidence, seconds: float = 1, repeats: int = 4) -> tuple[float, float]:
    """Return images per second of the masked passes, and of the backend alone on prepared batches with its best chunk.

    Both are measured alternately, about `seconds` at a time, because a machine's speed drifts; the best value of each
    counts.
    """
    backend, (channels, _) = engine.backend_for(evidence.image[None]), distinct_masks(evidence)
    channels = channels[: max(2 * backend.chunk, int(seconds * backend.rate))]
    # torch.compile supports one batch size only. Other backends are also tried with half and with twice the size.
    chunks = {backend.chunk}
    if backend.name != "compile":
        chunks |= {max(1, backend.chunk // 2), 2 * backend.chunk}
    prepared = torch.rand(max(64, *chunks), *evidence.image.shape).to(evidence.image)

    def masked():
        score_regions([replace(evidence, activations=evidence.activations[channels])])

    def bare(batches: Sequence[Tensor]):
        with concurrently(backend.calls) as each:
            for _ in each(backend.network, batches):
                pass

    masked_rates, bare_rates = [], []
    for _ in range(repeats):
        masked_rates.append(len(channels) / _seconds(masked))
        for chunk in chunks:
            whole = prepared[: len(prepared) // chunk * chunk].split(chunk)
            batches = list(islice(cycle(whole), len(channels) // chunk))
            bare_rates.append(len(batches) * chunk / _seconds(bare, batches))
    return max(masked_rates), max(bare_rates)


@contextmanager
def _peak_memory(device: str) -> Iterator[list[float]]:
    """Yield a list. After the context ends, it holds the peak of memory minus the memory at the start, in MiB."""
    if device == "cuda":
        peak = [0.0]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    process = psutil.Process()
    before = process.memory_info().rss
    with _peak(lambda: (process.memory_info().rss - before) / 2**20, seconds=0.005) as peak:
        yield peak


@contextmanager
def _peak(measured: Callable[[], float], seconds: float) -> Iterator[list[float]]:
    """Yield a list with the largest value so far of what a thread measures every so many seconds."""
    peak, done = [measured()], threading.Event()

    def watch():
        while not done.wait(seconds):
            peak[0] = max(peak[0], measured())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _matmul_tflops(device: str, precision: Precision) -> float:
    """Return 10^12 floating-point operations per second of a product of two square matrices."""
    side = 8192 if device == "cuda" else 2048
    matrix = torch.rand(side, side, device=device, dtype=HALF.get(precision, torch.float32))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        return 2 * side**2 * images_per_second(lambda rows: rows @ matrix, matrix, seconds=0.5) / 1e12
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def compare(settings: Sequence[Setting], seconds: float = 8) -> pd.DataFrame:
    """Measure the settings, each in a new process, one after the other: a row for each setting with its cost."""
    rows = []
    for setting in tqdm(settings, unit="row", leave=False, disable=progress_disabled()):
        with _empty_cache():
            cost = _in_a_new_process(measure, setting, seconds)
            if setting.method in ACCELERATED:
                cost = replace(cost, again_seconds=_in_a_new_process(first_explanation, setting))
        rows.append(asdict(setting) | asdict(cost))
    return pd.DataFrame(rows)


@contextmanager
def _empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as empty, _cache(empty):
        yield


def _in_a_new_process(function: Callable, *arguments) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def settings(
    backends: Sequence[BackendName] = ("auto",), precisions: Sequence[Precision] = ("fp32",), **common
) -> list[Setting]:
    """Return the settings of all methods; the ACCELERATED methods have one for each backend and precision.

    `common` holds the other fields of Setting.
    """
    ours = product(ACCELERATED, backends, precisions)
    others = [Setting(method, **common) for method in CONTESTANTS if method not in ACCELERATED]
    return [Setting(m, backend=backend, precision=precision, **common) for m, backend, precision in ours] + others


def table(costs: pd.DataFrame) -> pd.DataFrame:
    """Return the costs as text for display, in the units of the headings."""
    reference = costs.seconds.where(costs.method == "Score-CAM of pytorch-grad-cam").max()
    shown = pd.DataFrame(
        {
            "backend": costs.backend + " " + costs.precision,
            "first, s": costs.first_seconds.map("{:.2f}".format),
            "again, s": costs.reindex(columns=["again_seconds"]).again_seconds.astype(float).map("{:.2f}".format),
            "then, s": costs.seconds.map("{:.3g}".format),
            "times faster": (reference / costs.seconds).map("{:.1f}".format),
            "images": costs.images,
            "images/s": costs.images_per_second.map("{:.0f}".format),
            "% of ceiling": (100 * costs.images_per_second / costs.ceiling).map("{:.0f}".format),
            "memory, MiB": costs.memory_mib.map("{:.0f}".format),
            "TFLOP/s": costs.tflops.map("{:.2f}".format),
            "% of matmul": (100 * costs.tflops / costs.matmul_tflops).map("{:.0f}".format),
        }
    )
    if "beside" in costs and costs.beside.any():
        shown["beside others, s"] = costs.seconds_beside.map("{:.3g}".format)
        shown["times idle"] = (costs.seconds_beside / costs.seconds).map("{:.2f}".format)
    return shown.replace("nan", "").set_index(costs.method.rename(None))


# What the UnionCAM paper states for its method alone, § 4.2: doi.org/10.3389/fnbot.2024.1490198
PAPER = {"seconds a picture": 1.16, "memory, GB": 2.22, "device": "NVIDIA RTX A6000"}
PICTURE = (500, 375)  # width and height in pixels of most pictures of ILSVRC2012 and VOC2007
SETTLED = 100  # pictures after which the memory of a run should not grow


@dataclass(frozen=True)
class Load:
    """What a run is given to do, to measure its Rate.

    Attributes:
        pictures: number of pictures; more than `workers`, and 2 or more.
        workers: number of worker processes, as in `cluster.runner`; 0: one process reads, computes and writes.
        classifier, pretrained, device: as in `load_classifier`.
        backend, precision: as in `accelerate`.
        methods, metrics: as in `experiment.Setup`.

    Raises:
        ValueError: there are too few pictures, `workers` is negative, or the backend or the precision does not exist.
    """

    pictures: int
    workers: int = 0
    classifier: str = "efficientnet_lite0"
    pretrained: bool = True
    device: str = "cpu"
    backend: BackendName = "auto"
    precision: Precision = "fp32"
    methods: Sequence[str] = PAPER_METHODS
    metrics: Sequence[Metric] = FAITHFULNESS

    def __post_init__(self):
        _check_choices(self, backend=get_args(BackendName), precision=get_args(Precision))
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it is a number of processes, 0 or more.")
        if self.pictures < (least := max(2, self.workers + 1)):
            raise ValueError(f"pictures is {self.pictures}; {least} or more are needed to measure a rate.")


@dataclass(frozen=True)
class Rate:
    """How fast a run explained pictures, once each process had finished its first one.

    Attributes:
        backend: the backend that computed the passes without gradient.
        pictures_per_second: from reading the JPEG file to the line in the journal.
        first_seconds: time until each process had finished its first picture, in which the backend is built, and a
            worker also loads the classifier.
        seconds: time of the whole run, with the writing of the records.
        passes: number of images that the network scored for a picture, the mean; without the pass with gradient.
        computing: share of the time that is spent in the network's passes, with the masking of their images. On a GPU,
            by its own clock.
        waiting: share of the time in which nothing is computed because no picture has been read yet.
        gpu: share of the time in which the GPU computes, as `nvidia-smi` samples it; the mean over the machine's GPUs.
        cores: mean number of busy cores, of all processes of the run.
        memory_mib: peak of the resident memory of all processes of the run, with the classifier.
        gpu_mib, gpu_reserved_mib: peak of the GPU's memory that PyTorch allocated, and that it reserved.
        growth_mib: growth of the resident memory of all processes after SETTLED pictures: the median of the last 20
            pictures minus the median of the 20 up to there.
        record_bytes: size of records.parquet for each picture.
        processes_before: mean number of running processes on the machine in the minute before, as `uptime` shows it.

    `passes`, `computing`, `waiting`, `gpu_mib` and `gpu_reserved_mib` are measured in this process, so they are None
    for a run with workers. Those of a GPU are None without one, and `growth_mib` for fewer than SETTLED + 20 pictures.
    """

    backend: str
    pictures_per_second: float
    first_seconds: float
    seconds: float
    passes: float | None
    computing: float | None
    waiting: float | None
    gpu: float | None
    cores: float
    memory_mib: float
    gpu_mib: float | None
    gpu_reserved_mib: float | None
    growth_mib: float | None
    record_bytes: float
    processes_before: float


def pipeline(load: Load) -> Rate:
    """Measure a whole run in this process, which should be new: JPEG files, maps, metrics, journal and records.

    The run explains crops of the demo photos, which are written to a temporary folder first.

    Raises:
        ValueError, RuntimeError: as `load_classifier`, `Setup` and `experiment.run`; or a picture was skipped.
    """
    before = psutil.getloadavg()[0]
    classifier = load_classifier(load.classifier, load.device, pretrained=load.pretrained)
    given = load.classifier if load.workers and load.pretrained else classifier
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder, "pictures"), load.pictures)
        setup = Setup(
            dataset=str(Path(folder, "pictures")),
            classifier=given,
            methods=load.methods,
            metrics=load.metrics,
            precision=load.precision,
            device=load.device,
            backend=load.backend,
        )
        out, found, start = Path(folder, "run"), {}, time.perf_counter()
        made = experiment.run(setup, out=out, runner=_metered(_runner(load), load, found))
        for name, reason in made.info["skipped"].items():
            raise RuntimeError(f"{name} was skipped, so nothing was measured: {reason}")
        return Rate(
            backend=made.info["started"][-1]["backend"],
            seconds=time.perf_counter() - start,
            record_bytes=(out / "records.parquet").stat().st_size / load.pictures,
            processes_before=before,
            **found,
        )


def _runner(load: Load) -> Runner:
    if load.workers == 0:
        return experiment.serial
    from unioncam_lab import cluster  # dask takes a second to import

    return cluster.runner(workers=load.workers)


def _metered(runner: Runner, load: Load, found: dict) -> Runner:
    """Return a runner that yields the same entries, and puts most values of a Rate into `found` at the last one."""
    cuda, first = load.device.startswith("cuda"), max(1, load.workers)

    def metered(setup: Setup, chosen: Sequence[Picture]) -> Generator[dict, None, None]:
        with ExitStack() as stack:
            peak = stack.enter_context(_peak(_resident_mib, 0.1))
            gpu = stack.enter_context(_gpu_samples())
            meter = stack.enter_context(_Meter(cuda and not load.workers))
            entries = stack.enter_context(closing(runner(setup, chosen)))
            resident, begun, settled, busy = [], time.perf_counter(), 0.0, 0.0
            for i, entry in enumerate(entries, 1):
                resident.append(_resident_mib())
                if i == first:
                    meter.reset()
                    gpu.clear()
                    busy, settled = _cpu_seconds(), time.perf_counter()
                if i == load.pictures:
                    seconds = time.perf_counter() - settled
                    found.update(
                        pictures_per_second=(i - first) / seconds,
                        first_seconds=settled - begun,
                        cores=(_cpu_seconds() - busy) / seconds,
                        gpu=sum(gpu) / len(gpu) / 100 if gpu else None,
                        memory_mib=max(peak[0], *resident),
                        growth_mib=_growth(resident),
                        **(dict.fromkeys(_Meter.NAMES) if load.workers else meter.read(i - first, seconds)),
                    )
                yield entry

    return metered


class _Stopwatch:
    """Adds up the time of calls in the thread that made it; a call within another one counts once.

    On a GPU it reads the GPU's clock, because a call returns before the GPU has computed.

    Attributes:
        seconds: the time of all calls until `collect` was called.
    """

    def __init__(self, cuda: bool = False):
        self.seconds = 0.0
        self._cuda, self._thread, self._inside = cuda, threading.get_ident(), False
        self._calls: list[tuple[Any, Any]] = []  # begin and end

    def timed(self, function: Callable) -> Callable:
        """Return the same function, whose calls are timed."""

        @functools.wraps(function)
        def timed(*arguments, **options):
            if self._inside or threading.get_ident() != self._thread:
                return function(*arguments, **options)
            self._inside, begin = True, self._now()
            try:
                return function(*arguments, **options)
            finally:
                self._calls.append((begin, self._now()))
                self._inside = False

        return timed

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def collect(self):
        """Add the calls that have ended to `seconds`."""
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds += sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in self._calls)
        self._calls.clear()


class _Meter(ExitStack):
    """Measures, in a `with` block and in the thread that entered it, how a run in this process spends its time.

    Attributes:
        NAMES: the values of a Rate that `read` returns.
    """

    NAMES = ("passes", "computing", "waiting", "gpu_mib", "gpu_reserved_mib")

    def __init__(self, cuda: bool):
        super().__init__()
        self._cuda, self._passes = cuda, 0
        self._computing, self._waiting = _Stopwatch(cuda), _Stopwatch()

    def __enter__(self) -> "_Meter":
        stream, being_read, capture = Engine.stream, experiment.being_read, experiment.capture

        def counted(engine: Engine, make: Callable[[int, int], Tensor], count: int) -> Tensor:
            self._passes += count
            return stream(engine, make, count)

        def waited_for(*arguments) -> Picture:
            picture = being_read(*arguments)
            return replace(picture, read=self._waiting.timed(picture.read))

        self.enter_context(mock.patch.object(Engine, "stream", self._computing.timed(counted)))
        self.enter_context(mock.patch.object(experiment, "capture", self._computing.timed(capture)))
        self.enter_context(mock.patch.object(experiment, "being_read", waited_for))
        return self

    def reset(self):
        """Forget what was measured so far."""
        self._collect()
        self._computing.seconds, self._waiting.seconds, self._passes = 0.0, 0.0, 0
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def read(self, pictures: int, seconds: float) -> dict[str, float | None]:
        """Return the values of NAMES for so many pictures in so many seconds."""
        self._collect()
        memory = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if self._cuda else ()
        shares = self._computing.seconds / seconds, self._waiting.seconds / seconds
        peaks = [peak / 2**20 for peak in memory] or [None, None]
        return dict(zip(self.NAMES, (self._passes / pictures, *shares, *peaks), strict=True))

    def _collect(self):
        self._computing.collect()
        self._waiting.collect()


@contextmanager
def _gpu_samples() -> Iterator[list[float]]:
    """Yield a list that grows by the percentage of time in which each GPU computed, as `nvidia-smi` samples it.

    CUDA_VISIBLE_DEVICES chooses the GPUs. Without `nvidia-smi` the list remains empty.
    """
    samples: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield samples
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=500"]
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={chosen}")

    def read(lines: Iterable[str]):
        for line in lines:
            if line.strip().isdecimal():  # not "[N/A]", nor a message
                samples.append(float(line))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sampler:
        reader = threading.Thread(target=read, args=[sampler.stdout])
        reader.start()
        try:
            yield samples
        finally:
            sampler.kill()
            reader.join()


def _processes() -> list[psutil.Process]:
    """Return this process and all processes that it has started, directly or not."""
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def _summed(measured: Callable[[psutil.Process], float]) -> float:
    """Return the sum of what is measured of this process and all that it has started; one that has ended counts 0."""
    total = 0.0
    for process in _processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            total += measured(process)
    return total


def _resident_mib() -> float:
    return _summed(lambda process: process.memory_info().rss / 2**20)


def _cpu_seconds() -> float:
    return _summed(lambda process: sum(process.cpu_times()[:2]))  # user and system


def _growth(resident: Sequence[float], window: int = 20) -> float | None:
    """Return the growth of the memory after SETTLED pictures; None if they are too few."""
    if len(resident) < SETTLED + window:
        return None
    return median(resident[-window:]) - median(resident[SETTLED - window : SETTLED])


def rates(loads: Sequence[Load]) -> pd.DataFrame:
    """Measure the loads, each in a new process and with an empty cache, one after the other: a row for each."""
    rows = []
    for load in loads:
        with _empty_cache():
            rows.append(asdict(load) | asdict(_in_a_new_process(pipeline, load)))
    return pd.DataFrame(rows)


def rate_table(rates: pd.DataFrame) -> pd.DataFrame:
    """Return the rates as text for display, in the units of the headings. A column without a value is left out."""

    def percent(name: str) -> pd.Series:
        return (100 * rates[name].astype(float)).map("{:.0f}".format)

    shown = pd.DataFrame(
        {
            "workers": rates.workers.map(lambda workers: workers or "none"),
            "backend": rates.backend + " " + rates.precision,
            "pictures": rates.pictures,
            "pictures/s": rates.pictures_per_second.map("{:.3g}".format),
            "s a picture": (1 / rates.pictures_per_second).map("{:.3g}".format),
            "first, s": rates.first_seconds.map("{:.1f}".format),
            "passes": rates.passes.astype(float).map("{:.0f}".format),
            "computing, %": percent("computing"),
            "waiting, %": percent("waiting"),
            "GPU, %": percent("gpu"),
            "cores": rates.cores.map("{:.1f}".format),
            "memory, MiB": rates.memory_mib.map("{:.0f}".format),
            "GPU, MiB": rates.gpu_mib.astype(float).map("{:.0f}".format),
            "growth, MiB": rates.growth_mib.astype(float).map("{:.0f}".format),
        }
    )
    shown = shown.replace("nan", "").set_index(rates.classifier.rename(None))
    return shown.loc[:, (shown != "").any()]


def write_pictures(folder: Path, count: int, size: tuple[int, int] = PICTURE):
    """Write `count` JPEG files into a new folder: crops of the demo photos, some of them mirrored.

    Args:
        folder: is made.
        count: number of pictures; the same number gives the same pictures.
        size: width and height of a picture in pixels.
    """
    folder.mkdir(parents=True)
    photos = [Image.fromarray(read()).convert("RGB") for read, *_ in DEMO_PHOTOS.values()]
    random = np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % len(photos)]
        if random.random() < 0.5:
            photo = ImageOps.mirror(photo)
        width, height = (side * random.uniform(0.6, 1) for side in photo.size)
        left, top = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
        crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        crop.save(folder / f"{i:06}.jpg", quality=90)


def write(record: Path, costs: pd.DataFrame, where: dict):
    """Write the costs, and the provenance of the machine that measured them (`where`), to a file for `read`."""
    content = {"provenance": where, "costs": json.loads(costs.to_json(orient="records"))}
    record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(record: Path) -> tuple[pd.DataFrame, dict]:
    """Return the costs and the provenance from a file that `write` wrote."""
    content = json.loads(record.read_text(encoding="utf-8"))
    return pd.DataFrame(content["costs"]), content["provenance"]
