"""That a run computes what it says, goes on after any stop, and says in one sentence what is wrong."""

import errno
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from tiny import TinyCNN

from unioncam_core import Protocol, capture, union_cam
from unioncam_lab import engine, experiment
from unioncam_lab.datasets import LISTS
from unioncam_lab.engine import accelerate
from unioncam_lab.experiment import ENGINE, Journal, at_scale, load, main, run
from unioncam_lab.images import Picture, load_photo
from unioncam_lab.methods import grad_cam
from unioncam_lab.metrics import SEEDS, adcc, evaluate, localize
from unioncam_lab.report import write_report
from unioncam_lab.shapes import draw_scene

TINY_METHODS = ["grad_cam", "score_cam", "union_cam", "union_cam:theta=60", "group_cam:groups=3"]


class TinyClassifier(TinyCNN):
    """TinyCNN with what `load_classifier` gives."""

    name, input_size = "tiny", 12
    classes = ("ant", "bee", "cat", "dog", "eel")

    def __init__(self, seed=0):
        super().__init__(seed)
        self.float()

    @property
    def target_layer(self):
        return self.relu2


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """60 pictures of noise, 3 of them in a folder within."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    noise = np.random.default_rng(0)
    for i in range(60):
        pixels = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("more" if i < 3 else ".") / f"{i:02}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For networks so small that a second thread would only be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def eager_tiny():
    """With an engine that has nothing to measure, so that most tests need not wait for it."""
    return accelerate(TinyClassifier(), "eager", chunk=8)


def tiny_run(folder, out=None, **options):
    classifier = options.pop("classifier", None) or eager_tiny()
    return run(str(folder), classifier, options.pop("methods", TINY_METHODS), out=out, **options)


def stopped_run(folder, out, after, **options):
    """A run that is interrupted when the journal has `after` pictures."""
    append = Journal.append

    def stop(journal, entry):
        append(journal, entry)
        if sum(1 for _ in journal.entries()) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_run(folder, out, **options)


def starts(made):
    """Which start each picture was computed by, in the order of the pictures."""
    return made.records.groupby("image", sort=False)["start"].unique().map(list).tolist()


def same(left: pd.DataFrame, right: pd.DataFrame):
    """Equal to the last bit, but for the seconds."""
    pd.testing.assert_frame_equal(left.drop(columns="seconds"), right.drop(columns="seconds"), check_exact=True)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    return tiny_run(folder, tmp_path_factory.mktemp("whole") / "run")


def test_a_record_is_what_its_parts_compute(whole, folder):
    tiny = TinyClassifier()
    assert len(whole.records) == 60 * len(TINY_METHODS)
    for name in ("05.png", "more/01.png"):
        (evidence,) = capture(tiny, load_photo(folder / name, 12)[None], target_layer=tiny.relu2)
        steps = union_cam(evidence)
        rows = whole.records[whole.records["image"] == name].set_index("method")
        expected, plain = evaluate(evidence, [steps.cam, grad_cam(evidence)])
        row = rows.loc["union_cam"]
        assert (row["target"], row["class"]) == (evidence.target, tiny.classes[evidence.target])
        assert row["selected"] == steps.selected
        assert row["beta_united"] == pytest.approx(steps.beta_united, abs=1e-6)
        for metric in ("probability", "masked_probability", "drop", "increase", "insertion", "deletion"):
            assert row[metric] == pytest.approx(expected[metric], abs=1e-4)
        assert rows.loc["grad_cam", "insertion"] == pytest.approx(plain["insertion"], abs=1e-4)
        assert pd.isna(rows.loc["grad_cam", "beta_united"])
        np.testing.assert_allclose(row["deletion_curve"], expected["deletion_curve"], atol=1e-6)
        assert (rows["seconds"] > 0).all()


def test_an_image_takes_one_capture_and_one_pass_whatever_the_methods(folder, monkeypatch):
    counts = {"capture": 0, "images": 0}

    def counted_capture(*arguments, **options):
        counts.update(capture=counts["capture"] + 1, images=0)  # what the engine was measured with does not count
        return capture(*arguments, **options)

    monkeypatch.setattr(experiment, "capture", counted_capture)

    def images_seen(methods):
        tiny = eager_tiny()
        tiny.register_forward_pre_hook(lambda _, inputs: counts.update(images=counts["images"] + len(inputs[0])))
        counts.update(capture=0)
        run(str(folder), tiny, methods, ["drop"], limit=1)
        return counts["images"], counts["capture"]

    alone, once = images_seen(["score_cam"])
    together, still_once = images_seen(["score_cam", "union_cam", "fusion_cam", "grad_cam"])
    assert once == still_once == 1
    assert together - alone <= 3 + 3 + 3  # contributions of two methods, and the masked image of each


def test_what_a_run_was_made_with_is_kept(whole, folder):
    options = whole.info["options"]
    assert options["methods"] == TINY_METHODS
    assert options["protocol"] == asdict(Protocol())
    assert whole.info["available"] == 60
    assert torch.__version__.startswith(whole.info["started"][0]["torch"])
    (started,) = whole.info["started"]
    assert [started[name] for name in ENGINE] == ["eager", "fp32", 8, 1]
    assert (whole.records["start"] == 0).all()
    assert "list" not in options
    assert tiny_run(folder, limit=1).info["options"]["weights"] == options["weights"]
    assert run(str(folder), TinyClassifier(1), ["grad_cam"], limit=1).info["options"]["weights"] != options["weights"]


def test_a_finished_run_is_read_and_not_computed_again(whole, folder, tmp_path, monkeypatch):
    first = tiny_run(folder, tmp_path, limit=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "records.parquet", "run.json"]
    monkeypatch.setattr(experiment, "capture", None)
    again = tiny_run(folder, tmp_path, limit=4)
    pd.testing.assert_frame_equal(again.records, first.records, check_dtype=False)


def test_the_seed_draws_the_pictures(folder):
    one, same_seed, other = (tiny_run(folder, limit=8, seed=seed, methods=["grad_cam"]).records for seed in (3, 3, 4))
    same(one, same_seed)
    assert set(one["image"]) != set(other["image"])
    assert list(one["image"]) == sorted(one["image"])


# Each attempt is a process of its own, forked from one that has imported everything.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["unioncam_lab.report"])


def _attempt(folder, out):
    torch.set_num_threads(1)
    experiment.provenance = lambda: {"date": "today"}
    tiny_run(folder, out, classifier=TinyClassifier())


def test_killed_at_ten_random_moments_it_ends_with_the_records_of_a_run_that_never_stopped(
    folder, tmp_path, monkeypatch, two_threads
):
    """To the last bit, and although every process would measure its own backend, chunk and threads."""
    moments, done, first = random.Random(0), [], None
    out, journal = tmp_path / "killed", tmp_path / "killed" / "journal.jsonl"
    for _ in range(10):
        runner = CONTEXT.Process(target=_attempt, args=(folder, out))
        runner.start()
        enough, deadline = len(done) + moments.randint(0, 5), time.monotonic() + 300
        while runner.is_alive() and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") >= enough:
                break
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(runner.pid, signal.SIGKILL)
        runner.join()
        done = journal.read_bytes().splitlines()
        first = first or (out / "run.json").read_bytes()
        assert not (out / "records.parquet").exists()
        assert load(out).records["image"].nunique() in (len(done), len(done) - 1)
    assert 0 < len(done) < 60
    torn = journal.read_bytes()
    journal.write_bytes(torn + b'{"image": "99.png", "rows": [{"ima')  # as if killed in the middle of a line
    monkeypatch.setattr(experiment, "provenance", lambda: {"date": "another day"})
    ended = tiny_run(folder, out, classifier=TinyClassifier())
    (begun,) = ended.info["started"]
    assert (begun["date"], begun["threads"]) == ("today", 1)
    assert torch.get_num_threads() == 2
    assert starts(ended) == [[0]] * 60
    assert not journal.exists()

    (tmp_path / "never stopped").mkdir()
    (tmp_path / "never stopped" / "run.json").write_bytes(first)
    same(ended.records, tiny_run(folder, tmp_path / "never stopped", classifier=TinyClassifier()).records)


def close(left: pd.DataFrame, right: pd.DataFrame):
    """The same but for rounding, as by two ways of computing."""
    left, right = (records.drop(columns=["seconds", "start"]) for records in (left, right))
    pd.testing.assert_frame_equal(left, right, check_exact=False, rtol=0, atol=1e-2)


def test_a_machine_that_cannot_offer_what_a_run_was_begun_with_is_refused(whole, folder, tmp_path, monkeypatch):
    """In one sentence, and nothing is lost; told to, it goes on, and the rows say where they were made."""
    tiny = accelerate(TinyClassifier(), "openvino", chunk=4)
    monkeypatch.setattr(experiment, "provenance", lambda: {"date": "today"})
    stopped_run(folder, tmp_path, 3, classifier=tiny)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def unknown(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setitem(engine.BACKENDS, "openvino", unknown)
    with pytest.raises(
        RuntimeError,
        match="was begun with openvino in fp32, 4 images at a time, 1 threads; "
        r"this machine offers eager in fp32, 4 images at a time, 1 threads\. .* --elsewhere",
    ) as refused:
        tiny_run(folder, tmp_path)
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    made = tiny_run(folder, tmp_path, elsewhere=True)
    assert starts(made) == [[0]] * 3 + [[1]] * 57
    assert [[each[name] for name in ENGINE] for each in made.info["started"]] == [
        ["openvino", "fp32", 4, 1],
        ["eager", "fp32", 4, 1],
    ]
    close(made.records, whole.records)


def test_a_run_that_may_go_on_elsewhere_need_not(folder, tmp_path):
    stopped_run(folder, tmp_path, 2, limit=4)
    made = tiny_run(folder, tmp_path, limit=4, elsewhere=True)
    assert starts(made) == [[0]] * 4
    assert len(made.info["started"]) == 1


def test_what_was_asked_of_another_engine_does_not_count_when_a_run_goes_on(folder, tmp_path):
    stopped_run(folder, tmp_path, 2, limit=4)
    made = tiny_run(folder, tmp_path, limit=4, classifier=accelerate(TinyClassifier(), "openvino", chunk=2))
    assert starts(made) == [[0]] * 4
    assert [made.info["started"][0][name] for name in ENGINE[:3]] == ["eager", "fp32", 8]


def test_memory_that_runs_out_is_a_new_start(whole, folder, tmp_path, monkeypatch):
    """From the picture on at which it does, since its own masked images were scored in parts of two sizes."""
    eager, journal = engine.BACKENDS["eager"], tmp_path / "journal.jsonl"

    def small(*arguments):
        network, sizes = eager(*arguments)

        def limited(images):
            if len(images) > 2 and journal.exists() and journal.read_bytes().count(b"\n") >= 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return network(images)

        return limited, sizes

    with monkeypatch.context() as patch:
        patch.setitem(engine.BACKENDS, "eager", small)
        stopped_run(folder, tmp_path, 6)
    assert [each["chunk"] for each in load(tmp_path).info["started"]] == [8, 2]
    made = tiny_run(folder, tmp_path)
    assert [each["chunk"] for each in made.info["started"]] == [8, 2], "it goes on with what was enough"
    assert starts(made) == [[0]] * 3 + [[1]] * 57
    close(made.records, whole.records)


def test_changed_code_is_a_new_start(folder, tmp_path, monkeypatch):
    for code, after in (("a", 2), ("b", 4), ("b", 5), ("a", 6)):
        monkeypatch.setattr(experiment, "provenance", lambda code=code: {"date": str(time.time()), "code": code})
        stopped_run(folder, tmp_path, after, limit=8)
    made = tiny_run(folder, tmp_path, limit=8)
    assert [each["code"] for each in made.info["started"]] == ["a", "b"]
    assert starts(made) == [[0]] * 2 + [[1]] * 3 + [[0]] * 3


@pytest.mark.parametrize("accelerated", [True, False])
def test_a_run_leaves_the_classifier_as_it_was(folder, accelerated, two_threads):
    tiny = TinyClassifier()
    if accelerated:
        accelerate(tiny, "eager", chunk=3)
    before, threads = dict(vars(tiny)), torch.get_num_threads()
    settings = dict(vars(tiny.gradient_free)) if accelerated else None
    made = tiny_run(folder, classifier=tiny, limit=1, methods=["grad_cam"])
    with pytest.raises(ValueError, match="groups is 0"):
        tiny_run(folder, classifier=tiny, limit=1, methods=["group_cam:groups=0"])
    assert vars(tiny).keys() == before.keys()
    assert torch.get_num_threads() == threads
    if accelerated:
        assert tiny.gradient_free is before["gradient_free"]
        assert vars(tiny.gradient_free) == settings
        assert made.info["started"][0]["chunk"] == 3


@pytest.mark.parametrize("stage", ["before records.parquet", "before run.json", "before the journal goes"])
def test_killed_at_the_end_it_ends_with_the_same_records(folder, tmp_path, monkeypatch, stage):
    expected = tiny_run(folder, limit=5)
    write, written = experiment._write, []

    def killed(path, content):
        written.append(path.name)
        if stage == "before records.parquet" and path.name == "records.parquet":
            raise KeyboardInterrupt
        if stage == "before run.json" and written.count("run.json") == 2:
            raise KeyboardInterrupt
        write(path, content)
        if stage == "before the journal goes" and written.count("run.json") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_run(folder, tmp_path, limit=5)
    same(tiny_run(folder, tmp_path, limit=5).records, expected.records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 5}, "whose limit is 4, not 5"),
        ({"seed": 1}, "whose seed is 0, not 1"),
        ({"methods": ["grad_cam"]}, "whose methods is "),
        ({"metrics": ["drop"]}, "whose metrics is "),
        ({"protocol": Protocol(relu=False)}, "whose relu is True, not False"),
    ],
)
def test_a_changed_option_is_refused_and_named(folder, tmp_path, change, message):
    tiny_run(folder, tmp_path, limit=4)
    before = (tmp_path / "records.parquet").read_bytes()
    with pytest.raises(ValueError, match=message):
        tiny_run(folder, tmp_path, **{"limit": 4} | change)
    assert (tmp_path / "records.parquet").read_bytes() == before


def test_other_weights_and_other_pictures_are_refused(folder, tmp_path):
    tiny_run(folder, tmp_path / "run", limit=2)
    with pytest.raises(ValueError, match="whose weights is"):
        run(str(folder), TinyClassifier(1), TINY_METHODS, limit=2, out=tmp_path / "run")
    (tmp_path / "others").mkdir()
    for i in range(2):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "others" / f"{i}.png")
    with pytest.raises(ValueError, match="whose data is"):
        tiny_run(tmp_path / "others", tmp_path / "run", limit=2)


def test_a_second_runner_is_refused(folder, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="Another runner is at work in"):
        tiny_run(folder, tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert len(tiny_run(folder, tmp_path, limit=1).records) == len(TINY_METHODS)


def test_an_unreadable_picture_is_skipped_with_its_reason(folder, tmp_path):
    for i in range(3):
        Image.new("RGB", (16, 16), (50 * i, 9, 200)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    made = tiny_run(tmp_path, tmp_path / "run", methods=["grad_cam"])
    assert list(made.records["image"]) == ["0.png", "2.png"]
    assert "1.png cannot be used" in made.info["skipped"]["1.png"]
    assert load(tmp_path / "run").info["skipped"].keys() == {"1.png"}


def _with_little_room(folder, out, queue):
    torch.set_num_threads(1)  # as `whole` was made
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        tiny_run(folder, out)
    except OSError as error:
        queue.put((error.errno, error.strerror))


def test_a_full_disk_stops_with_one_sentence_and_what_was_computed(whole, folder, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the middle of a line."""
    queue = CONTEXT.Queue()
    runner = CONTEXT.Process(target=_with_little_room, args=(folder, tmp_path, queue))
    runner.start()
    number, sentence = queue.get(timeout=300)
    runner.join()
    assert number == errno.EFBIG
    assert sentence.startswith("The disk is full. What was computed is kept in")
    content = (tmp_path / "journal.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert 0 < load(tmp_path).records["image"].nunique() == content.count(b"\n") < 60
    same(tiny_run(folder, tmp_path).records, whole.records)


def test_another_error_of_the_disk_is_not_called_full(tmp_path):
    with pytest.raises(OSError, match=r"(?i)is a directory|directory"):
        experiment._write(tmp_path, b"")


def test_a_journal_forgets_a_line_that_was_cut(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"image": "a"}\n{"image": "b", "ro')
    assert list(Journal(path, repair=False).entries()) == [{"image": "a"}]
    assert path.stat().st_size > 15
    journal = Journal(path)
    journal.append({"image": "c"})
    assert path.read_bytes() == b'{"image": "a"}\n{"image": "c"}\n'
    assert [entry["image"] for entry in journal.entries()] == ["a", "c"]


def test_labels_are_explained_where_the_protocol_says_so(tmp_path, monkeypatch):
    for name in ("bee.png", "fox.png"):
        Image.new("RGB", (16, 16), (90, 9, 200)).save(tmp_path / name)
    available = [Picture("any", p.name, lambda s, f, p=p: load_photo(p, s), p.stem) for p in sorted(tmp_path.glob("*"))]
    monkeypatch.setattr(experiment, "pictures", lambda name: available)
    made = tiny_run("any", methods=["grad_cam"], protocol=Protocol(explained_class="label"))
    assert list(made.records["class"]) == ["bee"]
    assert "has the label fox, which is none of" in made.info["skipped"]["fox.png"]


def test_wordnet_ids_number_the_classes_even_of_those_that_were_not_drawn(tmp_path):
    for i in range(5):
        (tmp_path / f"n0000000{i}").mkdir()
        Image.new("RGB", (16, 16), (90, 9, 40 * i)).save(tmp_path / f"n0000000{i}" / f"ILSVRC2012_val_0000000{i}.JPEG")
    protocol = Protocol(explained_class="label")
    made = tiny_run(f"ilsvrc2012:{tmp_path}", methods=["grad_cam"], limit=2, protocol=protocol)
    assert len(made.records) == 2
    assert [f"n0000000{i}" for i in made.records["target"]] == list(made.records["label"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("papr", ""), "scale is 'papr'; it can be demo, folder or paper"), (("paper", ""), "'paper' needs a folder")],
)
def test_a_wrong_scale_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        at_scale(*arguments)


def test_the_papers_scale_is_its_network_and_number_of_images():
    assert at_scale("paper", "F", "voc2007") == {
        "images": "voc2007:F", "classifier": "vgg16", "limit": 2000, "seed": 0
    }  # fmt: skip
    assert at_scale("paper", "F") == {
        "images": "ilsvrc2012:F", "classifier": "vgg16", "list_file": LISTS / "ilsvrc2012_val_2000.txt"
    }  # fmt: skip
    assert len(at_scale("paper", "F")["list_file"].read_text().split()) == 2000
    assert at_scale("demo") == {"images": "demo"}
    assert at_scale("folder", "F") == {"images": "F"}


def test_metrics_can_be_fewer(folder):
    made = tiny_run(folder, limit=2, metrics=["drop"], methods=["grad_cam"])
    assert "insertion" not in made.records
    assert "increase" not in made.records


def test_nothing_is_left_behind(folder, classifier):
    own = classifier.gradient_free
    run("demo", classifier, ["grad_cam", "LayerCAM"], ["drop"], limit=1)
    assert classifier.gradient_free is own
    assert own.progress
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not classifier.target_layer._forward_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "gradcam"], "There is no method 'gradcam'; there are grad_cam, "),
        (["--metrics", "nss"], "There is no metric 'nss'; there are drop, "),
        (["--images", "nowhere"], "There is no folder nowhere; images are demo, scenes, shapes, mosaics or a folder."),
        (["--limit", "0"], "limit is 0; it is a number of pictures, 1 or more."),
        (["--classifier", "resnet5"], "There is no convolutional classifier 'resnet5'"),
        (["--methods", "grad_cam,grad_cam"], "methods are grad_cam, grad_cam; one or more are needed, each once."),
        (["--protocol", "relu=maybe"], "Protocol.relu is 'maybe'; it can be True or False."),
        (["--protocol", "rely=True"], "rely"),
    ],
)
def test_a_wrong_option_is_one_sentence_before_anything_is_made(tmp_path, capsys, options, message):
    assert main(["run", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_command_line_runs_prints_and_reports(tmp_path, capsys):
    out = str(tmp_path / "run")
    methods = ",".join(experiment.PAPER_METHODS)
    assert main(["run", "--images", "shapes", "--classifier", "shapes_vgg", "--limit", "2", "--out", out]) == 0
    assert f"2 images are in {tmp_path / 'run' / 'records.parquet'}." in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["methods"] == methods.split(",")
    assert main(["table", out]) == 0
    printed = capsys.readouterr().out
    assert "| UnionCAM " in printed
    assert "43.15" in printed
    assert main(["report", out]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 + ("kept worst" in page)
    assert "Average drop, % ↓" in page
    assert "UnionCAM minus the others" in page


def test_a_run_can_be_looked_at_before_it_is_finished(folder, tmp_path, whole):
    made = tiny_run(folder, tmp_path, limit=6)
    info = json.loads((tmp_path / "run.json").read_text())
    del info["finished"], info["skipped"]
    (tmp_path / "run.json").write_text(json.dumps(info))
    entries = [
        {"image": image, "rows": json.loads(rows.to_json(orient="records"))}
        for image, rows in made.records.groupby("image", sort=False)
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries[:4]))
    (tmp_path / "records.parquet").unlink()
    assert load(tmp_path).records["image"].nunique() == 4
    page = write_report(tmp_path, TinyClassifier(), count=2).read_text(encoding="utf-8")
    assert "not finished yet" in page


def test_where_there_is_no_run_one_sentence(tmp_path, capsys):
    assert main(["table", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


# Metrics beyond faithfulness --------------------------------------------------


class ShapesStub(TinyClassifier):
    """It answers what it likes, but in the names of shapes."""

    classes = ("disc", "star", "ring", "cross", "heart")


def test_only_scenes_that_the_network_names_are_localized(tmp_path):
    tiny = ShapesStub()
    made = run("shapes", tiny, ["grad_cam", "union_cam"], ["energy", "pointing"], limit=30, out=tmp_path)
    kept, skipped = made.records["image"].nunique(), made.info["skipped"]
    assert 0 < kept < 30
    assert kept + len(skipped) == 30
    assert all("which is not in it" in reason for reason in skipped.values())
    for name, rows in made.records.groupby("image"):
        kind, _, seed = name.rpartition(" ")
        scene = draw_scene(kind, int(seed), 12)
        (evidence,) = capture(tiny, scene.image[None], target_layer=tiny.relu2)
        (row,) = rows[rows["method"] == "grad_cam"].itertuples()
        expected = localize(grad_cam(evidence), scene.truth(tiny.classes[evidence.target]))
        assert (row.energy, row.pointing) == pytest.approx((expected["energy"], expected["pointing"]), abs=1e-3)
    assert "iou" not in made.records
    assert load(tmp_path).info["skipped"] == skipped


def test_localization_needs_known_truth(folder, tmp_path):
    with pytest.raises(ValueError, match="'energy' needs scenes, shapes or mosaics, of which the truth is known, not"):
        tiny_run(folder, tmp_path / "run", metrics=["drop", "energy"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fit", ["square", "center-crop"])
def test_vocs_boxes_are_the_ground_truth_under_the_protocols_fit(tmp_path, fit):
    """One photo with an object of each class, so that the network always names one of them."""
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "JPEGImages" / "000001.jpg", format="PNG")
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{6 + i}</xmin><ymin>1</ymin><xmax>{8 + 2 * i}</xmax><ymax>{12 - i}"
        "</ymax></bndbox></object>"
        for i, name in enumerate(TinyClassifier.classes)
    )
    size = "<size><width>24</width><height>12</height></size>"
    (tmp_path / "Annotations" / "000001.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (row,) = tiny_run(
        f"voc2007:{tmp_path}", methods=["grad_cam"], metrics=["energy"], protocol=Protocol(image_fit=fit)
    ).records.itertuples()
    image = load_photo(tmp_path / "JPEGImages" / "000001.jpg", 12, fit)
    tiny = eager_tiny()
    (evidence,) = capture(tiny, image[None], target_layer=tiny.relu2)
    i, truth = evidence.target, torch.zeros(12, 24, dtype=torch.bool)
    truth[: 12 - i, 5 + i : 8 + 2 * i] = True
    truth = truth[:, 1::2] if fit == "square" else truth[:, 6:18]  # the columns in which the centres of pixels lie
    assert row.energy == pytest.approx(localize(grad_cam(evidence), truth)["energy"], abs=1e-3)


def test_adcc_stability_and_sanity_are_recorded(folder, tmp_path):
    methods = ["grad_cam", "union_cam", "fake_cam"]
    made = tiny_run(folder, tmp_path, methods=methods, metrics=["adcc", "stability", "sanity"], limit=3)
    for row in made.records.itertuples():
        expected = adcc(row.drop / 100, row.coherency / 100, row.complexity / 100)
        assert row.adcc == pytest.approx(100 * expected)
        assert row.stability == pytest.approx((row.stability_shift + row.stability_flip + row.stability_noise) / 3)
        assert row.sanity == pytest.approx(row.sanity_curve.mean(), abs=1e-4)
        of_seeds = row.sanity_rho.reshape(SEEDS, 3)  # the network has three layers to forget
        np.testing.assert_allclose(row.sanity_curve, np.abs(of_seeds).mean(0), atol=1e-4)
        assert row.method == "fake_cam" or len(np.unique(of_seeds[:, 0])) == SEEDS, "each seed forgets its own way"
    fake = made.records[made.records["method"] == "fake_cam"]
    assert (fake["sanity"] == 100).all()  # it never looked at the network
    assert (fake["adcc"] < 5).all()
    real = made.records[made.records["method"] == "grad_cam"]
    assert (real["sanity"] < 90).all()
    assert "insertion" not in made.records
    same(load(tmp_path).records, made.records)
    again = tiny_run(folder, methods=methods, metrics=["adcc", "stability", "sanity"], limit=3)
    same(again.records, made.records)


def test_half_precision_is_another_run(folder, tmp_path):
    def go(**options):
        return tiny_run(folder, tmp_path, methods=["score_cam"], metrics=["drop"], limit=2, **options)

    half = go(precision="bf16")
    assert half.info["options"]["precision"] == "bf16"
    with pytest.raises(ValueError, match="holds a run whose precision is bf16, not None"):
        go()
    same(go(precision="bf16").records, half.records)
    whole = tiny_run(folder, methods=["score_cam"], metrics=["drop"], limit=2)
    assert "precision" not in whole.info["options"]
    np.testing.assert_allclose(half.records["drop"], whole.records["drop"], atol=5)


# Which pictures: a list ---------------------------------------------------------


def write_list(path, *names):
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def test_a_list_says_which_pictures_and_in_which_order(folder, tmp_path):
    chosen = write_list(tmp_path / "chosen.txt", "40.png", "more/01.png", "07.png")
    made = tiny_run(folder, tmp_path / "run", methods=["grad_cam"], list_file=chosen)
    assert list(made.records["image"]) == ["40.png", "more/01.png", "07.png"]
    assert made.info["available"] == 60
    drawn = tiny_run(folder, methods=["grad_cam"], list_file=chosen, limit=2).records["image"]
    assert len(drawn) == 2
    assert set(drawn) < set(made.records["image"])


def test_a_missing_picture_of_a_list_is_named_before_anything_is_made(folder, tmp_path):
    chosen = write_list(tmp_path / "chosen.txt", "40.png", "99.png")
    with pytest.raises(ValueError, match=r"99\.png, which the list .*chosen\.txt names, is not among the 60 pictures"):
        tiny_run(folder, tmp_path / "run", list_file=chosen)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def commanded(monkeypatch):
    """The command line, with a network that is loaded at once."""
    monkeypatch.setattr(experiment, "load_classifier", lambda *_: eager_tiny())

    def command(folder, out, *options):
        fixed = ["--images", str(folder), "--methods", "grad_cam", "--metrics", "drop", "--out", str(out)]
        return main(["run", *fixed, *map(str, options)])

    return command


def test_the_command_line_takes_a_list_and_keeps_to_it(commanded, folder, tmp_path, capsys):
    chosen = write_list(tmp_path / "chosen.txt", "40.png", "07.png")
    assert commanded(folder, tmp_path / "run", "--list", chosen) == 0
    assert "2 images are in" in capsys.readouterr().out
    assert list(load(tmp_path / "run").records["image"]) == ["40.png", "07.png"]
    for options in (["--list", write_list(tmp_path / "other.txt", "07.png", "40.png")], []):
        assert commanded(folder, tmp_path / "run", *options) == 2
        assert re.search(r"holds a run whose (data|list) is \w+, not \w+: take another", capsys.readouterr().err)
    assert commanded(folder, tmp_path / "run", "--list", tmp_path / "nowhere.txt") == 2
    assert f"There is no list {tmp_path / 'nowhere.txt'}." in capsys.readouterr().err


def test_the_command_line_goes_on_elsewhere_where_it_is_told_to(commanded, folder, tmp_path, capsys):
    assert commanded(folder, tmp_path, "--limit", 2) == 0
    info = json.loads((tmp_path / "run.json").read_text())
    del info["finished"], info["skipped"]
    info["started"][0]["chunk"] = 16
    info["started"][0]["backend"] = "openvino"
    (tmp_path / "run.json").write_text(json.dumps(info))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine.BACKENDS, "openvino", None)
        assert commanded(folder, tmp_path, "--limit", 2) == 2
        error = capsys.readouterr().err
        assert "was begun with openvino in fp32, 16 images at a time" in error
        assert "with --elsewhere" in error
        assert commanded(folder, tmp_path, "--limit", 2, "--elsewhere") == 0
    assert starts(load(tmp_path)) == [[1]] * 2
