"""Tests of runs on several processes: their records are those of one, and no death loses or repeats a picture."""

import contextlib
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from runs import TINY_METHODS, eager_tiny, same, tiny_setup
from tiny import TinyClassifier

from unioncam_lab import cluster
from unioncam_lab.__main__ import main
from unioncam_lab.cluster import environments, runner
from unioncam_lab.datasets import pictures
from unioncam_lab.experiment import ENGINE, Setup, run
from unioncam_lab.images import Picture, load_photo
from unioncam_lab.store import load

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
WAIT = 300  # seconds after which something that is waited for does not come


def until(happened, what):
    """Wait until something has happened, which a function tells."""
    deadline = time.monotonic() + WAIT
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)  # looking at all processes takes time of its own


def workers_of(pid):
    """Return the processes of the workers that a process has started."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended in the meantime
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def of_run(mark):
    """Return the processes that a process with MARK in its environment has left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it has ended, or is of another user
            continue
    return found


def lines(out):
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


# What the workers share


def test_workers_share_threads_and_each_sees_one_gpu():
    one = dict.fromkeys(cluster.LIBRARIES, "1")
    assert environments(2, 8) == 2 * [dict.fromkeys(cluster.LIBRARIES, "4")]
    assert environments(4, 2) == 4 * [one]
    seen = environments(3, 3, ["0", "GPU-1a"])
    assert seen == [one | {"CUDA_VISIBLE_DEVICES": device} for device in ("0", "GPU-1a", "0")]


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [(None, None, ["0", "1"]), ("5,7", "cuda", ["5", "7"]), (None, "cpu", []), ("5,7", "cuda:1", [])],
)
def test_the_gpus_are_those_that_this_process_may_use(monkeypatch, visible, device, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    else:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cluster._devices(SimpleNamespace(device=device)) == found


# What is refused, in one sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "workers is 0; it is a number of processes, 1 or more."),
        (["--workers", "2", "--scheduler", "tcp://a:1"], "Both 2 workers and the scheduler tcp://a:1 are given"),
    ],
)
def test_a_wrong_number_of_workers_is_one_sentence_before_anything_is_made(tmp_path, capsys, options, message):
    assert main(["run", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_scheduler_that_does_not_answer_is_one_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 0.2)
    for address in ("tcp://127.0.0.1:1", "nothing://here"):
        with pytest.raises(RuntimeError, match=f"The scheduler {address} does not answer: start one") as refused:
            run(tiny_setup(folder, limit=1), out=tmp_path, runner=runner(scheduler=address))
        assert "\n" not in str(refused.value)


def test_a_network_that_cannot_be_sent_is_one_sentence(folder):
    tiny = eager_tiny()
    tiny.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"TinyClassifier cannot be sent to a worker \(.*my_file:"):
        run(tiny_setup(folder, classifier=tiny, limit=1), runner=runner(workers=1))


# A worker


def worker_of(setup, chosen=(), **expected):
    """A worker in this process, as a scheduler would send it to another one."""
    surroundings = replace(cluster._surroundings(setup, chosen, None), **expected)
    worker = cluster._Worker(cluster._packed(setup), surroundings)
    worker.setup(SimpleNamespace(address="tcp://far:1"))
    return worker


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"code": "other"}, "tcp://far:1 has another code of the project than this process"),
        ({"packages": {"torch": "1.0"}}, "tcp://far:1 has torch .*, but this process has 1.0: install both"),
        ({"weights": "other"}, "tcp://far:1 has other weights of tiny than this process"),
        (
            {"bytes": 7},
            r"tcp://far:1 does not see .*\.png as it is here: each machine needs the pictures under the same",
        ),
    ],
)
def test_a_worker_unlike_this_process_is_refused(folder, expected, message):
    setup = tiny_setup(folder)
    worker = worker_of(setup, setup.chosen(), **expected)
    with pytest.raises(RuntimeError, match=message) as refused:
        worker.opened({})
    assert "\n" not in str(refused.value)
    worker.teardown(None)


def test_a_worker_opens_its_laboratory_once_and_closes_it(folder):
    setup = tiny_setup(folder, limit=3)
    worker = worker_of(setup, setup.chosen())
    decided = {"backend": "eager", "chunk": 4, "threads": 1, "exactly": True}
    entries = [worker.explain(picture, decided) for picture in setup.chosen()]
    laboratory = worker.laboratory
    assert [entry["start"]["chunk"] for entry in entries] == [4, 4, 4]
    assert worker.opened({}) is laboratory
    worker.teardown(None)
    worker.computes.shutdown()
    assert worker.laboratory is None
    assert laboratory.classifier.gradient_free is not laboratory.engine


def test_the_class_of_a_network_that_no_module_has_comes_along(folder):
    """As the networks of a notebook, which belong to __main__."""

    class Own(TinyClassifier):
        __module__ = "__main__"

    packed = cluster._packed(Setup(str(folder), Own()))
    read = subprocess.run(
        [sys.executable, "-c", "import pickle, sys; print(type(pickle.load(sys.stdin.buffer)[0].classifier).__name__)"],
        input=packed,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        check=True,
    )
    assert read.stdout.strip() == b"Own"


# The process of the run, with workers in threads


@pytest.fixture
def client():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def test_without_workers_it_stops_after_a_while(client):
    crew = cluster._Crew(client, "nobody", patience=0.1)
    with pytest.raises(RuntimeError, match=r"No worker has been left for 0 seconds\. What was computed is kept, and"):
        next(crew.entries(Setup(), pictures("demo")))


# Workers in processes


def killing(after):
    """A runner of two workers, of which one is killed when so many pictures are computed."""

    def killed(setup, chosen):
        with closing(runner(workers=2)(setup, chosen)) as entries:
            for count, entry in enumerate(entries):
                if count == after:
                    workers_of(os.getpid())[0].kill()
                yield entry

    return killed


@pytest.mark.slow
def test_one_process_and_two_workers_and_two_of_which_one_is_killed_give_the_same_records(folder):
    """Which backend and chunk are the fastest is measured once, for all workers."""
    setup = Setup(str(folder), TinyClassifier(), TINY_METHODS, limit=16)
    environment = dict(os.environ)
    two = run(setup, runner=runner(workers=2))
    assert dict(os.environ) == environment
    (started,) = two.info["started"]
    assert started["threads"] == 1
    decided = replace(setup, **{name: started[name] for name in ENGINE})
    one, killed = run(decided), run(decided, runner=killing(5))
    for made in (one, killed):
        same(made.records, two.records)
        assert made.info["started"] == two.info["started"]
    assert two.records["image"].nunique() == 16
    assert workers_of(os.getpid()) == []


def _deadly(size, fit):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_picture_that_ends_its_workers_is_set_aside_and_no_neighbour_is(folder, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no picture")
    setup = tiny_setup(folder, methods=["grad_cam"], metrics=["drop"])
    given = setup.available()[:8]
    given.insert(3, Picture("any", "deadly", _deadly))
    given.insert(5, Picture("any", "torn", partial(load_photo, tmp_path / "torn.png")))
    made = run(setup, given, runner=runner(workers=2))
    assert made.info["skipped"]["deadly"] == "it ended the worker that computed it, 3 times"
    assert "torn.png cannot be used" in made.info["skipped"]["torn"]
    assert list(made.records["image"]) == [picture.id for picture in given if picture.id not in made.info["skipped"]]


# Each attempt is a process of its own, forked from one that has imported everything.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["unioncam_lab.cluster"])


def _attempt(folder, out, mark):
    os.environ["MARK"] = mark
    torch.set_num_threads(1)
    run(tiny_setup(folder), out=out, runner=runner(workers=2))


def kill_at(moments, more, folder, out):
    """Begin a run, or go on with it, and kill it when it has so many more pictures or soon after."""
    mark, enough = uuid.uuid4().hex, lines(out) + more
    process = CONTEXT.Process(target=_attempt, args=(folder, out, mark))
    process.start()
    until(lambda: workers_of(process.pid) and lines(out) >= enough, "no picture was computed")
    time.sleep(moments.uniform(0, 0.02))
    process.kill()
    process.join()
    until(lambda: not of_run(mark), f"{mark} has left processes")


MOMENTS = 3


@pytest.mark.slow
def test_killed_at_random_moments_it_leaves_no_worker_and_ends_with_the_same_records(folder, tmp_path):
    moments = random.Random(0)
    for attempt in range(MOMENTS):
        kill_at(moments, 0 if attempt == 0 else moments.randint(1, 2), folder, tmp_path)  # first as the workers start
    assert 0 < lines(tmp_path) < 60
    setup = tiny_setup(folder)
    ended = run(setup, out=tmp_path, runner=runner(workers=2))
    assert len(ended.info["started"]) == 1
    same(ended.records, run(setup).records)


def _command(*options):
    return [sys.executable, "-m", "unioncam_lab", "run", "--images", "shapes", "--classifier", "shapes_vgg", *options]


def _heeds_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets the commands that it starts with & ignore it


def _started(command, mark, **options):
    """Start a command in a session of its own, as a terminal does."""
    environment = os.environ | {"MARK": mark, "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options |= {"start_new_session": True, "preexec_fn": _heeds_ctrl_c}
    return subprocess.Popen(command, env=environment, text=True, **options)


@pytest.mark.slow
def test_ctrl_c_stops_workers_with_one_sentence(tmp_path):
    mark = uuid.uuid4().hex
    command = _command("--workers", "2", "--methods", "union_cam", "--out", str(tmp_path))
    stopped = _started(command, mark, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: lines(tmp_path) or stopped.poll() is not None, "no picture was computed")
    os.killpg(stopped.pid, signal.SIGINT)
    printed, errors = stopped.communicate(timeout=WAIT)
    assert (stopped.returncode, printed, errors) == (130, "", "Stopped. The same command goes on from here.\n")
    until(lambda: not of_run(mark), f"{mark} has left processes")
    assert 0 < load(tmp_path).records["image"].nunique() < 300


# The workers of a scheduler, which are threads of this process here


@pytest.fixture
def scheduler():
    options = {"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=2, **options) as local:
        yield local


def test_the_workers_of_a_scheduler_give_the_same_records_and_forget_the_run(folder, scheduler):
    setup = tiny_setup(folder, limit=5)
    far = run(setup, runner=runner(scheduler=scheduler.scheduler_address))
    same(far.records, run(setup).records)
    (worker,) = scheduler.workers.values()
    assert [name for name in worker.plugins if name.startswith("unioncam")] == []


def test_what_a_worker_cannot_do_is_the_sentence_of_one_process(folder, scheduler):
    setup = tiny_setup(folder, precision="tf32", limit=2)
    told = []
    for computes in (None, runner(scheduler=scheduler.scheduler_address)):
        with pytest.raises(ValueError, match="is a mode of NVIDIA GPUs") as refused:
            run(setup, runner=computes)
        told.append(str(refused.value))
    assert told[0] == told[1]


def test_a_scheduler_that_goes_away_is_one_sentence_and_the_run_goes_on_without_it(folder, tmp_path, scheduler):
    setup = tiny_setup(folder, limit=8)

    def deserted(setup, chosen):
        with closing(runner(scheduler=scheduler.scheduler_address)(setup, chosen)) as entries:
            for entry in entries:
                yield entry
                scheduler.close()

    with pytest.raises(RuntimeError, match=r"The scheduler tcp://\S+ went away\. What was computed is kept") as refused:
        run(setup, out=tmp_path, runner=deserted)
    assert "\n" not in str(refused.value)
    assert 0 < lines(tmp_path) < 8
    same(run(setup, out=tmp_path).records, run(setup).records)


# The recipes


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/at_scale.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
def test_the_recipes_for_one_machine_run_as_they_are(tmp_path):
    """Each makes the same records, except for rounding."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (two, script, far) = (
        next(block for block in blocks(language) if words in block)
        for language, words in (("bash", "--workers 2"), ("python", "in_python"), ("bash", "--host 127.0.0.1"))
    )
    (tmp_path / "script.py").write_text(script)
    far = far.replace("8786", port)
    commands = f"export PATH={Path(sys.executable).parent}:$PATH\nset -e\n{two}\npython script.py\n{far}"
    mark, printed = uuid.uuid4().hex, tmp_path / "printed.txt"
    with printed.open("w") as out:  # no pipe, which would stay open as long as a process that is left
        made = _started(["bash", "-c", commands], mark, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
        assert made.wait(WAIT) == 0, printed.read_text()
    assert "grad_cam" in printed.read_text()
    runs = [load(tmp_path / "runs" / name).records for name in ("two_workers", "in_python", "scheduler")]
    assert runs[0]["image"].nunique() == 4
    for records in runs[1:]:  # each run measures its own batch size, on which the last digits depend
        assert list(records["method"]) == list(runs[0]["method"])
        assert records["drop"].to_numpy() == pytest.approx(runs[0]["drop"].to_numpy(), abs=1e-2)
    until(lambda: not of_run(mark), f"{mark} has left processes")
