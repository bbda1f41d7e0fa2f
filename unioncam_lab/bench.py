"""The benchmark: seconds, images per second and memory of an explanation, compared with pytorch-grad-cam and torchcam.

    settings, compare      the settings, and their measured costs; the command is python -m unioncam_lab bench
    table                  the costs as a table for display
    write, read            a file with costs and their provenance

Each row is measured in a new process, one after the other, on the same network, layer, photo and class.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from statistics import median
from typing import get_args
from unittest import mock

import pandas as pd
import psutil
import torch
from pytorch_grad_cam import ScoreCAM
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchcam.methods import ScoreCAM as TorchcamScoreCAM
from tqdm.auto import tqdm

from unioncam_core import Evidence, Protocol, UnionCAM, capture, region_cam, score_regions
from unioncam_lab import progress_disabled
from unioncam_lab.classifiers import Classifier, load_classifier
from unioncam_lab.engine import BackendName, Engine, accelerate, concurrently, distinct_masks, images_per_second
from unioncam_lab.engine.backends import HALF, Precision
from unioncam_lab.images import DEMO_PHOTOS, demo_photo


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
        for name, allowed in (
            ("method", tuple(CONTESTANTS)),
            ("backend", get_args(BackendName)),
            ("precision", get_args(Precision)),
            ("photo", tuple(DEMO_PHOTOS)),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, allowed))}.")
        if self.beside < 0:
            raise ValueError(f"beside is {self.beside}; it is a number of other processes, 0 or more.")


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
    peak, process, done = [0.0], psutil.Process(), threading.Event()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], (process.memory_info().rss - before) / 2**20)

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
    rows, context = [], multiprocessing.get_context("spawn")
    for setting in tqdm(settings, unit="row", leave=False, disable=progress_disabled()):
        with tempfile.TemporaryDirectory() as empty, _cache(empty):
            with ProcessPoolExecutor(1, context) as pool:
                cost = pool.submit(measure, setting, seconds).result()
            if setting.method in ACCELERATED:
                with ProcessPoolExecutor(1, context) as pool:
                    cost = replace(cost, again_seconds=pool.submit(first_explanation, setting).result())
        rows.append(asdict(setting) | asdict(cost))
    return pd.DataFrame(rows)


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


def write(record: Path, costs: pd.DataFrame, where: dict):
    """Write the costs, and the provenance of the machine that measured them (`where`), to a file for `read`."""
    content = {"provenance": where, "costs": json.loads(costs.to_json(orient="records"))}
    record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(record: Path) -> tuple[pd.DataFrame, dict]:
    """Return the costs and the provenance from a file that `write` wrote."""
    content = json.loads(record.read_text(encoding="utf-8"))
    return pd.DataFrame(content["costs"]), content["provenance"]
