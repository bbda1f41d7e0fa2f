"""Runs on many processes and machines, by dask.distributed: `experiment.run` with the runner of this module.

    runner          computes the pictures of a run on worker processes of this machine, or on those of a scheduler
    environments    what the workers of this machine share: its cores and its GPUs

The journal stays with the one process that calls `run`, so a run is stopped and continues as it does without workers.
A worker opens the Laboratory of the Setup once. It reads its next picture while it computes one.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, cast

import dask.config
import torch
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster, WorkerPlugin, get_worker, wait
from distributed.comm import CommClosedError
from distributed.protocol import pickle
from distributed.utils import silence_logging_cmgr
from tqdm.auto import tqdm

from unioncam_lab import methods, progress_disabled
from unioncam_lab.archives import Member
from unioncam_lab.experiment import Laboratory, Runner, Setup, being_read, explain_picture, hash_weights
from unioncam_lab.images import Picture
from unioncam_lab.methods import METHODS, NEED_REGIONS
from unioncam_lab.provenance import PACKAGES, code_hash, installed_version

log = logging.getLogger(__name__)  # each warning is one line on stderr

TRIES = 3  # workers that a picture may end, before it is set aside
IN_HAND = 2  # pictures of a worker: it computes one and reads the other
ANSWER = 5  # seconds in which a scheduler must answer
LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read when torch and numpy are imported
GOES_ON = "What was computed is kept, and the same command goes on from there."
NOT_STARTED = (
    "The workers did not start: a script must call `run` below `if __name__ == '__main__':`, because each worker "
    "imports the script."
)
CODE = code_hash()  # of the code that this process has imported; the files may change later


def runner(workers: int | None = None, scheduler: str | None = None, patience: float = 120) -> Runner:
    """Return a runner that computes the pictures of a run on several processes.

    Example:
        >>> run(Setup("my photos"), out="runs/mine", runner=runner(workers=2))

    Args:
        workers: number of processes to start on this machine; by default one for each GPU, or for each core if there is
            none. They share the threads that PyTorch has in this process, and the GPUs.
        scheduler: address of a scheduler of dask whose workers compute, as in tcp://192.168.0.10:8786.
        patience: seconds to wait for a worker when there is none.

    Returns:
        The runner, for `experiment.run`. It raises, in one sentence, what a run without workers raises, and a
        RuntimeError if the workers do not start or have other code or weights, if the scheduler goes away, or if no
        worker is left. What was computed is kept.

    Raises:
        ValueError: the number of workers is not 1 or more, or a scheduler is given too.
    """
    if workers is not None and scheduler is not None:
        raise ValueError(
            f"Both {workers} workers and the scheduler {scheduler} are given: workers are started here, and a "
            "scheduler has its own; give one of the two."
        )
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers is {workers!r}; it is a number of processes, 1 or more.")
    return partial(_entries, workers=workers, scheduler=scheduler, patience=patience)


def environments(workers: int, threads: int, devices: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the environment variables of each worker of a machine.

    Args:
        workers: number of workers.
        threads: number of threads that they share; each has at least one.
        devices: the GPUs, as in CUDA_VISIBLE_DEVICES. Each worker sees one of them. With more workers than GPUs, a GPU
            has several workers.
    """
    own = dict.fromkeys(LIBRARIES, str(max(1, threads // workers)))
    seen = [{"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {} for i in range(workers)]
    return [own | device for device in seen]


def _devices(setup: Setup) -> list[str]:
    """Return the GPUs that this process may use, if the Setup leaves open which one it takes."""
    if setup.device not in (None, "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def _entries(
    setup: Setup, chosen: Sequence[Picture], workers: int | None, scheduler: str | None, patience: float
) -> Generator[dict, None, None]:
    if not chosen:
        return
    where = f"The scheduler {scheduler}" if scheduler else "The scheduler of the workers"
    with silence_logging_cmgr(logging.CRITICAL), ExitStack() as stack:
        worker = _Worker(_packed(setup), _surroundings(setup, chosen, scheduler))
        client = stack.enter_context(_remote(scheduler) if scheduler else _local(setup, workers))
        try:
            with _registered(client, worker) as name:
                yield from _Crew(client, name, patience).entries(setup, chosen)
        except (CancelledError, CommClosedError) as error:
            raise RuntimeError(f"{where} went away. {GOES_ON}") from error


def _packed(setup: Setup) -> bytes:
    """Return the Setup and the user's own methods as bytes. A class or a method that a notebook defines comes along."""
    own = {name: function for name, function in METHODS.items() if function.__module__ != methods.__name__}
    try:
        return pickle.dumps((setup, own, NEED_REGIONS & own.keys()))
    except Exception as error:
        raise ValueError(
            f"The classifier {type(setup.classifier).__name__} cannot be sent to a worker ({_line(error)}): name "
            "a function that makes it, as in classifier='my_file:my_network', or run without workers."
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class _Surroundings:
    """What must be the same in each worker as here, beside what `Setup.exactly` says."""

    code: str
    packages: dict[str, str]
    weights: str | None  # None: they are those of this machine
    file: Path | None  # of the first picture, or the archive that holds it
    bytes: int


def _surroundings(setup: Setup, chosen: Sequence[Picture], scheduler: str | None) -> _Surroundings:
    places = (p.file.archive if isinstance(p.file, Member) else p.file for p in chosen)
    file = next((place for place in places if place and os.path.isfile(place)), None)
    weights = hash_weights(setup.load_classifier()) if scheduler else None
    packages = {name: _version(name) for name in PACKAGES}
    return _Surroundings(CODE, packages, weights, file, os.path.getsize(file) if file else 0)


def _version(package: str) -> str:
    """Return a package's version. That of a GPU's build of PyTorch is the same as a CPU's."""
    return installed_version(package).partition("+")[0]


# The workers


class _Worker(WorkerPlugin):
    """What a worker process keeps between pictures: the Laboratory, and a thread each to compute and to read.

    The Laboratory is opened by the thread that computes, because PyTorch keeps a number of threads for each thread.
    """

    def __init__(self, packed: bytes, expected: _Surroundings):
        self.packed, self.expected = packed, expected

    def setup(self, worker):
        self.address = worker.address
        self.laboratory: Laboratory | None = None
        self.computes, self.reads = ThreadPoolExecutor(1, "computes"), ThreadPoolExecutor(1, "reads")

    def teardown(self, worker):
        self.computes.submit(self._close)
        for pool in (self.computes, self.reads):
            pool.shutdown(wait=False)

    def _close(self):
        if self.laboratory:
            self.laboratory.close()
        self.laboratory = None

    def opened(self, decided: dict[str, Any]) -> Laboratory:
        """Return the Laboratory. `decided` are options of the Setup with which it is opened."""
        return self.laboratory or self.computes.submit(self._open, decided).result()

    def _open(self, decided: dict[str, Any]) -> Laboratory:
        if self.laboratory is None:
            self._check_code()
            setup, own, need_regions = pickle.loads(self.packed)
            METHODS.update(own)
            NEED_REGIONS.update(need_regions)
            setup = replace(setup, **decided)
            classifier = setup.load_classifier()
            self._check_weights(classifier)
            self.laboratory = setup.open(classifier)
        return self.laboratory

    def _check_code(self):
        if code_hash() != self.expected.code or self.expected.code != CODE:
            raise RuntimeError(
                f"The worker at {self.address} has another code of the project than this process: bring it to the same "
                "commit there, and start it again."
            )
        for name, version in self.expected.packages.items():
            if (here := _version(name)) != version:
                raise RuntimeError(
                    f"The worker at {self.address} has {name} {here}, but this process has {version}: install both "
                    "from the same requirements.lock."
                )
        file = self.expected.file
        if file and not (os.path.isfile(file) and os.path.getsize(file) == self.expected.bytes):
            raise RuntimeError(
                f"The worker at {self.address} does not see {file} as it is here: each machine needs the pictures "
                "under the same path."
            )

    def _check_weights(self, classifier):
        if self.expected.weights not in (None, hash_weights(classifier)):
            raise RuntimeError(
                f"The worker at {self.address} has other weights of {classifier.name} than this process: copy the same "
                "file to each machine."
            )

    def explain(self, picture: Picture, decided: dict[str, Any]) -> dict:
        """Return the entry of a picture."""
        laboratory = self.opened(decided)
        picture = being_read(laboratory, picture, self.reads)
        return self.computes.submit(explain_picture, laboratory, picture).result()


def _here(name: str) -> _Worker:
    return cast(_Worker, get_worker().plugins[name])


def _begin(name: str) -> dict:
    """Open the Laboratory in the worker that this runs in, and return its entry of `started`."""
    return _here(name).opened({}).start()


def _explain(name: str, picture: Picture, decided: dict[str, Any]) -> dict:
    """Return the entry of a picture, computed by the worker that this runs in."""
    return _here(name).explain(picture, decided)


# The process of the run


@contextmanager
def _local(setup: Setup, workers: int | None) -> Generator[Client, None, None]:
    """Start workers on this machine; they end with this process, however it ends."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # this is a worker that imports the script
        raise RuntimeError(NOT_STARTED)
    devices = _devices(setup)
    count = workers or len(devices) or CPU_COUNT
    own = environments(count, torch.get_num_threads(), devices)
    threads = setup.threads or int(own[0][LIBRARIES[0]])
    if threads * count > CPU_COUNT and not devices:
        log.warning("%d workers with %d threads each share %d cores: fewer are faster.", count, threads, CPU_COUNT)
    nanny: dict[str, Any] = {"nthreads": IN_HAND, "host": "127.0.0.1", "memory_limit": 0, "dashboard": False}
    nanny |= {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    dashboard = "127.0.0.1:0" if find_spec("bokeh") else None
    options = {"host": "127.0.0.1", "dashboard": dashboard is not None, "dashboard_address": dashboard}
    config = {"distributed.scheduler.allowed-failures": 0}  # the first death of a worker is told
    with _environment_kept(), dask.config.set(config), ExitStack() as stack:
        os.environ.update({name: own[0][name] for name in LIBRARIES})  # read when the workers import torch
        try:
            with _interrupts_blocked():
                cluster = stack.enter_context(
                    SpecCluster(
                        {i: {"cls": Nanny, "options": nanny | {"env": own[i]}} for i in range(count)},
                        {"cls": Scheduler, "options": options},
                        silence_logs=logging.CRITICAL,
                    )
                )
        except RuntimeError as error:
            raise RuntimeError(NOT_STARTED) from error
        told = f"{count} workers compute, with {threads} threads each"
        _tell(f"{told}; watch them at {cluster.dashboard_link}" if dashboard else told)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _remote(scheduler: str) -> Generator[Client, None, None]:
    try:
        client = Client(scheduler, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"The scheduler {scheduler} does not answer: start one with `dask scheduler`, and give the address that it "
            "prints, as tcp://192.168.0.10:8786."
        ) from error
    with client:
        _tell(f"The workers of {scheduler} compute; watch them at {client.dashboard_link}")
        yield client


def _tell(sentence: str):
    if not progress_disabled():
        tqdm.write(f"{sentence}.", file=sys.stderr)


@contextmanager
def _environment_kept() -> Generator[None, None, None]:
    """Restore the environment variables, which the workers inherit from this process."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _interrupts_blocked() -> Generator[None, None, None]:
    """Let the processes and threads that are started here never see Ctrl-C; this process stops them in order.

    They inherit the mask of signals. Where there is none, as on Windows, the workers see Ctrl-C too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would end the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _registered(client: Client, worker: _Worker) -> Generator[str, None, None]:
    """Give each worker what it keeps between pictures, and take it back at the end."""
    name = f"unioncam-{uuid.uuid4().hex}"
    try:
        client.register_plugin(worker, name)
    except (CancelledError, CommClosedError):
        raise
    except Exception as error:
        raise RuntimeError(
            f"A worker cannot use the project ({_line(error)}): the same commit and packages are needed there."
        ) from error
    try:
        yield name
    finally:
        with suppress(CancelledError, OSError, TimeoutError, RuntimeError):  # the scheduler has gone
            client.unregister_worker_plugin(name)


class _Crew:
    """The workers of a client. Each has few pictures at a time, so that few are lost when one dies."""

    def __init__(self, client: Client, name: str, patience: float):
        self.client, self.name, self.patience = client, name, patience
        self.flying: dict[Future, Picture] = {}

    def entries(self, setup: Setup, chosen: Sequence[Picture]) -> Generator[dict, None, None]:
        start = self._begin()
        decided = {name: start[name] for name in ("backend", "chunk", "threads")}
        # A run that need not go on where it was begun has all three already.
        decided["exactly"] = setup.exactly or None in (setup.backend, setup.chunk, setup.threads)
        waiting, suspects, tries = deque(chosen), deque[Picture](), Counter[str]()
        while waiting or suspects or self.flying:
            alone = self._submit(waiting, suspects, decided)
            for future in self._done():
                picture = self.flying.pop(future)
                try:
                    yield future.result(self.patience)
                except TimeoutError:
                    if future.status == "error":
                        raise
                    self.flying[future] = picture  # its worker died with the result: it is computed again
                except KilledWorker as killed:
                    tries[picture.id] += killed.allowed_failures + 1
                    if alone and tries[picture.id] >= TRIES:
                        reason = f"it ended the worker that computed it, {tries[picture.id]} times"
                        yield {"image": picture.id, "skipped": reason, "start": start}
                    else:
                        suspects.append(picture)

    def _begin(self) -> dict:
        """Return the entry of `started` by the first worker, which measures its backend while the others are idle."""
        for _ in range(TRIES):
            future = self.client.submit(_begin, self.name, pure=False)
            self._done([future])
            with suppress(KilledWorker):
                return future.result()
        raise RuntimeError(f"A worker ended {TRIES} times while it loaded the classifier. {GOES_ON}")

    def _submit(self, waiting: deque[Picture], suspects: deque[Picture], decided: dict) -> bool:
        """Submit as many pictures as there is room for. Return whether one alone is being computed.

        So is one that may have ended a worker, so that no picture is blamed for its neighbour.
        """
        if suspects:
            batch = [] if self.flying else [suspects.popleft()]
        else:
            room = sum(min(IN_HAND, threads) for threads in self._threads()) or 1
            batch = [waiting.popleft() for _ in range(min(len(waiting), room - len(self.flying)))]
        alone = len(batch) == 1 and not self.flying
        for picture in batch:
            self.flying[self.client.submit(_explain, self.name, picture, decided, pure=False)] = picture
        return alone

    def _done(self, futures: Sequence[Future] = ()) -> list[Future]:
        """Wait until a future is done, of the given ones or of all pictures, and return those that are.

        Those that failed are the last ones, so that an error loses no picture that is computed.
        """
        last = time.monotonic()
        while True:
            with suppress(TimeoutError), self.client.as_current():
                done = wait(futures or list(self.flying), timeout=1, return_when="FIRST_COMPLETED").done
                return sorted(done, key=lambda future: future.status == "error")
            if self._threads():
                last = time.monotonic()
            elif time.monotonic() - last > self.patience:
                raise RuntimeError(f"No worker has been left for {self.patience:.0f} seconds. {GOES_ON}")

    def _threads(self) -> list[int]:
        """Return the number of threads of each worker that there is."""
        try:
            return list(self.client.nthreads().values())
        except (OSError, AttributeError) as error:  # the client has no scheduler any more
            raise CommClosedError from error
