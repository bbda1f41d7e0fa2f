"""That a run computes what it says, goes on after any stop, and says in one sentence what is wrong."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyCNN
from filelock import FileLock
from PIL import Image

from unioncam_core import Protocol, capture, union_cam
from unioncam_lab import experiment
from unioncam_lab.baselines import grad_cam
from unioncam_lab.experiment import Journal, at_scale, load, main, run
from unioncam_lab.images import load_photo
from unioncam_lab.metrics import adcc, evaluate, localize
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


def tiny_run(folder, out=None, **options):
    return run(str(folder), TinyClassifier(), options.pop("methods", TINY_METHODS), out=out, **options)


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
    monkeypatch.setattr(
        experiment, "capture", lambda *a, **k: counts.update(capture=counts["capture"] + 1) or capture(*a, **k)
    )

    def images_seen(methods):
        tiny = TinyClassifier()
        tiny.register_forward_pre_hook(lambda _, inputs: counts.update(images=counts["images"] + len(inputs[0])))
        counts.update(capture=0, images=0)
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
    assert len(whole.info["started"]) == 1
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
    tiny_run(folder, out)


def test_killed_at_ten_random_moments_it_ends_with_the_same_records(whole, folder, tmp_path):
    moments, done = random.Random(0), []
    journal = tmp_path / "journal.jsonl"
    for _ in range(10):
        runner = CONTEXT.Process(target=_attempt, args=(folder, tmp_path))
        runner.start()
        enough, deadline = len(done) + moments.randint(0, 5), time.monotonic() + 60
        while runner.is_alive() and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") >= enough:
                break
        time.sleep(moments.uniform(0, 0.02))
        os.kill(runner.pid, signal.SIGKILL)
        runner.join()
        done = journal.read_bytes().splitlines()
        assert not (tmp_path / "records.parquet").exists()
        assert load(tmp_path).records["image"].nunique() in (len(done), len(done) - 1)
    assert 0 < len(done) < 60
    torn = journal.read_bytes()
    journal.write_bytes(torn + b'{"image": "99.png", "rows": [{"ima')  # as if killed in the middle of a line
    ended = tiny_run(folder, tmp_path)
    same(ended.records, whole.records)
    assert 2 <= len(ended.info["started"]) <= 11  # a kill may come before anything is written
    assert not journal.exists()


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
    number, sentence = queue.get(timeout=100)
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
    available = [
        experiment.Picture(p.name, lambda s, f, p=p: load_photo(p, s), p.stem) for p in sorted(tmp_path.glob("*"))
    ]
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
    assert at_scale("demo") == {"images": "demo"}
    assert at_scale("folder", "F") == {"images": "F"}


def test_metrics_can_be_fewer(folder):
    made = tiny_run(folder, limit=2, metrics=["drop"], methods=["grad_cam"])
    assert "insertion" not in made.records
    assert "increase" not in made.records


def test_nothing_is_left_behind(folder, classifier):
    engine = classifier.gradient_free
    run("demo", classifier, ["grad_cam", "LayerCAM"], ["drop"], limit=1)
    assert engine.progress
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
    assert main(["run", "--limit", "2", "--out", out]) == 0
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


def test_adcc_stability_and_sanity_are_recorded(folder, tmp_path):
    methods = ["grad_cam", "union_cam", "fake_cam"]
    made = tiny_run(folder, tmp_path, methods=methods, metrics=["adcc", "stability", "sanity"], limit=3)
    for row in made.records.itertuples():
        expected = adcc(row.drop / 100, row.coherency / 100, row.complexity / 100)
        assert row.adcc == pytest.approx(100 * expected)
        assert row.stability == pytest.approx((row.stability_shift + row.stability_flip + row.stability_noise) / 3)
        assert row.sanity == pytest.approx(row.sanity_curve.mean(), abs=1e-4)
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
