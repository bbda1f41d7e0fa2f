"""Tests of the bench: counts, units, shares, and a record that can be read again."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace

import pandas as pd
import psutil
import pytest
import torch
from PIL import Image

from unioncam_core import capture
from unioncam_lab import bench, experiment
from unioncam_lab.__main__ import main
from unioncam_lab.bench import ACCELERATED, CONTESTANTS, Cost, Load, Rate, Setting
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.engine import distinct_masks
from unioncam_lab.images import demo_photo, load_photo
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


# The pipeline


def test_a_whole_run_is_measured(tmp_path):
    """The passes of a picture are counted by hand; what a clock measures has bounds that hold at any speed."""
    methods = ("grad_cam", "score_cam")
    rate = bench.pipeline(Load(3, classifier="shapes_vgg", methods=methods))
    bench.write_pictures(tmp_path / "pictures", 3)
    expected, classifier = [], load_classifier("shapes_vgg", "cpu")
    size = classifier.input_size
    for file in sorted((tmp_path / "pictures").iterdir())[1:]:  # the first one is not measured
        (evidence,) = capture(classifier, load_photo(file, size)[None], target_layer=classifier.target_layer)
        between = -(-size // 8) - 1  # images of a curve, without its ends
        metrics = 1 + 2 + len(methods) * (1 + 2 * between)  # the image, blurred and black; each map's own
        expected.append(1 + 1 + len(distinct_masks(evidence)[0]) + metrics)  # the check, the black image, the masks
    assert rate.passes == pytest.approx(sum(expected) / 2)
    assert 0 < rate.computing + rate.waiting < 1
    assert 0 < rate.first_seconds < rate.seconds
    assert rate.pictures_per_second > 2 / rate.seconds
    assert rate.memory_mib > 100
    assert rate.record_bytes > 1000
    assert (rate.gpu_mib, rate.gpu_reserved_mib, rate.growth_mib) == (None, None, None)


def test_runs_without_and_with_workers_are_rows_of_one_record(tmp_path, capsys):
    """What a process measures of itself is unknown of workers."""
    record = tmp_path / "rates.json"
    options = ["--classifier", "shapes_vgg", "--random", "--device", "cpu", "--methods", "grad_cam"]
    assert main(["bench", "--pipeline", "4", "--workers", "0", "2", *options, "--out", str(record)]) == 0
    printed = capsys.readouterr().out
    assert "shapes_vgg, random weights, 4 JPEG files of 500×375 pixels, on cpu" in printed
    assert "seconds a picture 1.16" in printed
    rates, provenance = bench.read(record)
    assert list(rates.workers) == [0, 2]
    assert list(rates.methods) == [["grad_cam"]] * 2
    assert list(rates.passes.notna()) == list(rates.computing.notna()) == [True, False]
    assert (rates[["pictures_per_second", "cores", "memory_mib"]] > 0).all(axis=None)
    assert "commit" in provenance


def test_what_waits_for_a_picture_is_counted(monkeypatch):
    """By a clock of its own: 10 when the run begins to wait for a picture, and 13 when the picture has been read."""
    clock, being_read = iter([10.0, 13.0]), experiment.being_read
    with (
        experiment.Setup("demo", "shapes_vgg", device="cpu").open() as laboratory,
        ThreadPoolExecutor() as pool,
        bench._Meter(cuda=False) as meter,
    ):
        picture = experiment.being_read(laboratory, laboratory.setup.available()[0], pool)
        monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
        size = laboratory.classifier.input_size
        assert picture.read(size, "square").shape == (3, size, size)
        assert meter.read(pictures=1, seconds=6)["waiting"] == 0.5
    assert experiment.being_read is being_read


def test_a_stopwatch_counts_a_call_once_and_only_in_its_own_thread(monkeypatch):
    clock = iter([1.0, 4.0, 10.0, 12.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    watch = bench._Stopwatch()
    inner = watch.timed(lambda value: value + 1)
    outer = watch.timed(lambda value: inner(value) * 2)
    assert outer(1) == 4
    other = threading.Thread(target=inner, args=[1])
    other.start()
    other.join()
    with pytest.raises(TypeError):
        inner("a call that fails counts too")
    watch.collect()
    watch.collect()
    assert watch.seconds == 3 + 2


def test_a_gpu_is_timed_by_its_own_clock(monkeypatch):
    """With events that stand in for those of a GPU, which count milliseconds."""

    class Event:
        now = 0.0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.now += 1500
            self.at = Event.now

        def elapsed_time(self, other):
            return other.at - self.at

    waited, peaks = [], []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4 * 2**20)
    with bench._Meter(cuda=True) as meter:
        meter.reset()
        meter._computing.timed(len)([])
        found = meter.read(pictures=1, seconds=3)
    assert found == {"passes": 0, "computing": 0.5, "waiting": 0, "gpu_mib": 3, "gpu_reserved_mib": 4}
    assert waited
    assert peaks


def test_the_work_of_gpus_is_sampled_by_nvidia_smi(tmp_path, monkeypatch):
    """By a stand-in that prints two lines, of which one is no number, and then waits until it is ended."""
    tool, given = tmp_path / "nvidia-smi", tmp_path / "given"
    tool.write_text(f'#!/bin/sh\necho "$@" > {given}\necho "[N/A]"\necho 75\nexec sleep 600\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    deadline = time.monotonic() + 60
    with bench._gpu_samples() as samples:
        while not samples:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert samples == [75]
    assert {"--query-gpu=utilization.gpu", "--id=1,2"} <= set(given.read_text().split())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with bench._gpu_samples() as samples:
        pass
    assert samples == []


def test_growth_is_that_after_the_first_pictures():
    flat = [100.0] * 40 + [900.0] * 60
    assert bench._growth(flat) is None
    assert bench._growth([*flat, *[900.0] * 20]) == 0, "the growth to 900 MiB came before"
    assert bench._growth([*flat, *range(901, 961)]) == 950.5 - 900


def test_the_pictures_are_as_many_different_photos(tmp_path):
    bench.write_pictures(tmp_path / "a", 9)
    bench.write_pictures(tmp_path / "b", 9)
    files = sorted((tmp_path / "a").iterdir())
    assert len({file.read_bytes() for file in files}) == 9
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        with Image.open(file) as photo:
            assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (500, 375))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pictures": 1}, "pictures is 1; 2 or more"),
        ({"pictures": 4, "workers": 4}, "pictures is 4; 5 or more"),
        ({"pictures": 4, "workers": -1}, "workers is -1"),
        ({"pictures": 4, "precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_a_load_that_cannot_be_measured_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Load(**options)


def test_the_rates_are_in_the_units_of_their_headings():
    rate = Rate("eager", 0.5, 3.25, 30.0, 820.4, 0.914, 0.026, None, 1.96, 800.4, None, None, None, 1500.0, 2.0)
    on_gpu = replace(rate, gpu=0.953, gpu_mib=2200.0, growth_mib=12.3)
    rows = [asdict(Load(9)) | asdict(rate), asdict(Load(9, workers=2)) | asdict(replace(rate, passes=None))]
    table = bench.rate_table(pd.DataFrame(rows))
    assert list(table["workers"]) == ["none", 2]
    assert list(table["backend"]) == ["eager fp32"] * 2
    assert list(table["s a picture"]) == ["2", "2"]
    assert list(table["passes"]) == ["820", ""]
    assert (table["computing, %"].iloc[0], table["waiting, %"].iloc[0]) == ("91", "3")
    assert not {"GPU, %", "GPU, MiB", "growth, MiB"} & set(table.columns)
    table = bench.rate_table(pd.DataFrame([asdict(Load(9)) | asdict(on_gpu)]))
    assert (*table["GPU, %"], *table["GPU, MiB"], *table["growth, MiB"]) == ("95", "2200", "12")


@pytest.mark.parametrize("record", sorted(RECORDS.glob("rates_*.json")))
def test_committed_rates_are_whole(record):
    rates, provenance = bench.read(record)
    assert {"date", "commit", "processor", "cores", "gpu", "torch"} <= set(provenance)
    assert (rates.pictures_per_second > 0).all()
    assert 0 in set(rates.workers)
    assert set(rates.columns) == {field.name for row in (Load, Rate) for field in fields(row)}
