"""Tests of the bench: counts, units, shares, and a record that can be read again."""

import json
import os
import time
from dataclasses import asdict

import pandas as pd
import psutil
import pytest
import torch

from unioncam_core import capture
from unioncam_lab import bench
from unioncam_lab.bench import ACCELERATED, CONTESTANTS, Cost, Setting
from unioncam_lab.engine import distinct_masks
from unioncam_lab.images import demo_photo
from unioncam_lab.store import RECORDS

SMALL = {"size": 64, "photo": "coffee"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def costs():
    """Costs with one row per method, each from its own process."""
    return bench.compare([Setting(method, **SMALL) for method in CONTESTANTS], seconds=1e-3)


def test_every_method_is_measured(costs, classifier):
    (evidence,) = capture(classifier, demo_photo("coffee", 64).image[None], target_layer=classifier.target_layer)
    images = {"UnionCAM": len(distinct_masks(evidence)[0]), "UnionCAM, core alone": int(evidence.live.sum())}
    images["Score-CAM"] = images["UnionCAM"]
    for row in costs.itertuples():
        assert row.images == images.get(row.method, 1280), (
            "the libraries send constant channels through the network too"
        )
        assert row.backend == ("openvino" if row.method in ACCELERATED else "eager")
        assert (row.ceiling > 0) == (row.method == "Score-CAM")
        assert (0 < row.again_seconds < row.first_seconds) == (row.method in ACCELERATED)
        assert row.memory_mib > 1
    assert list(costs.method) == list(CONTESTANTS)


@pytest.mark.parametrize(("method", "expected"), [("UnionCAM", (9, 2)), ("UnionCAM, core alone", (9, 4))])
def test_the_fastest_explanation_counts_and_builds_nothing(monkeypatch, method, expected):
    """By a clock of its own. An accelerated method builds its backend in the first explanation, which is left out."""
    clock, caches = iter([9.0, 4, 2, 3, 99]), []
    monkeypatch.setenv("UNIONCAM_CACHE", "a folder")
    monkeypatch.setattr(bench, "_seconds", lambda *_: (caches.append(os.environ["UNIONCAM_CACHE"]), next(clock))[1])
    monkeypatch.setattr(bench, "_matmul_tflops", lambda *_: 1.0)
    cost = bench.measure(Setting(method, **SMALL), seconds=9 if method in ACCELERATED else 13)
    assert (cost.first_seconds, cost.seconds) == expected
    assert cost.images_per_second == cost.images / cost.seconds
    assert caches == ["a folder", *["off"] * (len(caches) - 1)], "only the first explanation may use the cache"


def test_operations_are_counted(costs, classifier):
    """EfficientNet-Lite0 has 0.4 billion multiplications at 224 pixels; 64 pixels are 49/4 times fewer."""
    row = costs.iloc[0]
    assert row.tflops / row.images_per_second * 1e12 == pytest.approx(2 * 0.4e9 * (64 / 224) ** 2, rel=0.15)


def test_the_table_is_in_the_units_of_its_headings():
    rows = [
        asdict(Setting("UnionCAM")) | asdict(Cost("openvino", 3.0, 2.0, 600, 300.0, None, 250.4, 0.2, 0.4)),
        asdict(Setting("Score-CAM")) | asdict(Cost("openvino", 3.0, 1.5, 600, 450.0, 500.0, 250.4, 0.3, 0.4)),
        asdict(Setting("Score-CAM of pytorch-grad-cam"))
        | asdict(Cost("eager", 30.0, 30.0, 9, 42.0, None, 1, 0.1, 0.4)),
    ]
    table = bench.table(pd.DataFrame(rows))
    assert list(table["times faster"]) == ["15.0", "20.0", "1.0"]
    assert list(table["% of ceiling"]) == ["", "90", ""]
    assert list(table["% of matmul"]) == ["50", "75", "25"]
    assert list(table["memory, MiB"]) == ["250", "250", "1"]
    assert list(bench.table(pd.DataFrame(rows[:1]))["times faster"]) == [""], "nothing to compare with"


def test_an_explanation_is_timed_beside_busy_processes(monkeypatch):
    """Three times, while as many other processes as asked for are running; none of them outlives the measurement."""
    seen, clock = [], iter([2.0, 5, 7, 6])

    def seconds(*_):
        seen.append(len(psutil.Process().children()) - before)
        return next(clock)

    monkeypatch.setattr(bench, "_seconds", seconds)
    monkeypatch.setattr(bench, "_matmul_tflops", lambda *_: 1.0)
    before = len(psutil.Process().children())
    cost = bench.measure(Setting("UnionCAM, core alone", beside=2, **SMALL), seconds=1)
    assert (cost.seconds, cost.seconds_beside) == (2, 6)
    assert seen == [0, 2, 2, 2]
    assert len(psutil.Process().children()) == before
    table = bench.table(pd.DataFrame([asdict(Setting("UnionCAM", beside=2)) | asdict(cost)]))
    assert (*table["beside others, s"], *table["times idle"]) == ("6", "3.00")


def test_the_first_explanation_of_another_process_is_a_column_once_it_was_measured():
    cost = asdict(Setting("UnionCAM")) | asdict(Cost("openvino", 3.0, 2.0, 600, 300.0, None, 250.4, 0.2, 0.4))
    rows = pd.DataFrame([cost | {"again_seconds": 1.25}, cost])
    assert list(bench.table(rows)["again, s"]) == ["1.25", ""]
    assert list(bench.table(rows.drop(columns="again_seconds"))["again, s"]) == ["", ""], "an older record"


def test_the_busy_processes_are_busy():
    before = set(psutil.Process().children())  # other tests of this process may have left some
    with bench._busy_processes(1):
        (other,) = set(psutil.Process().children()) - before
        deadline = time.monotonic() + 60
        while other.cpu_times().user < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_memory_is_the_peak():
    with bench._peak_memory("cpu") as memory:
        for mib in (50, 200, 100):
            block = torch.ones(mib * 2**18)
            time.sleep(0.05)
            del block
    assert 190 < memory[0] < 260


def test_every_backend_and_precision_is_a_row():
    rows = bench.settings(["eager", "compile"], ["fp32", "bf16"], size=96)
    ours = [(row.method, row.backend, row.precision) for row in rows if row.method in ACCELERATED]
    assert len(ours) == len(set(ours)) == 8
    assert len(rows) == 8 + len(CONTESTANTS) - len(ACCELERATED)
    assert {row.size for row in rows} == {96}


@pytest.mark.parametrize("record", sorted(RECORDS.glob("cost_*.json")))
def test_committed_records_are_whole(record):
    costs, provenance = bench.read(record)
    assert {"date", "commit", "processor", "cores", "gpu", "torch"} <= set(provenance)
    assert set(CONTESTANTS) == set(costs.method)
    assert "/" not in json.dumps(provenance).replace("\\/", "")


@pytest.mark.parametrize("method", [name for name in CONTESTANTS if name != "Score-CAM of torchcam"])
def test_a_network_of_the_users_is_measured(method, tmp_path, monkeypatch):
    """A grey one whose layer's output has its channels last."""
    (tmp_path / "my_bench_file.py").write_text(
        "from unioncam_lab.classifiers import from_model\nfrom others import Single\ndef my_network():\n"
        "    grey = {'input_size': 12, 'channels': 1}\n    turned = lambda output: output.movedim(-1, 1)\n"
        "    return from_model(Single(channels=1, last=True), 'maps', reshape_transform=turned, **grey)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "_matmul_tflops", lambda *_: 1.0)
    setting = Setting(method, "my_bench_file:my_network", backend="eager", size=12)
    cost = bench.measure(setting, seconds=1e-3)
    assert cost.images == (5 if "pytorch-grad-cam" in method else 4), "one map is constant"
    assert cost.backend == "eager"
