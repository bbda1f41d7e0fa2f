"""Tests of runs: the records are right, a stopped run continues, and the arguments are not changed."""

import errno
import multiprocessing
import os
import pickle
import queue
import random
import re
import resource
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from others import Single, picture
from PIL import Image
from runs import TINY_METHODS, eager_tiny, same, starts, stopped_run, tiny_run, tiny_setup, write_list
from tiny import TinyClassifier, state

from unioncam_core import Protocol, capture, union_cam
from unioncam_lab import engine, experiment, methods
from unioncam_lab.classifiers import LabProtocol, as_classifier, from_model
from unioncam_lab.datasets import LISTS
from unioncam_lab.engine import accelerate
from unioncam_lab.experiment import ENGINE, Setup, explain_picture, read_ahead, run, serial, table_setup
from unioncam_lab.images import Picture, blur, load_photo
from unioncam_lab.methods import find_method, grad_cam
from unioncam_lab.metrics import SEEDS, adcc, evaluate, localize
from unioncam_lab.report import write_report
from unioncam_lab.shapes import draw_scene
from unioncam_lab.store import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(one_thread, folder, tmp_path_factory):
    return tiny_run(folder, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.slow
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


def test_a_named_classifier_is_loaded_once(folder, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        experiment, "load_classifier", lambda *_: loaded.append(as_classifier(eager_tiny())) or loaded[-1]
    )
    made = run(Setup(str(folder), "tiny", ["grad_cam"], ["drop"], limit=2))
    assert len(made.records) == 2
    assert len(loaded) == 1


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
        tiny_run(folder, classifier=tiny, methods=methods, metrics=["drop"], limit=1)
        return counts["images"], counts["capture"]

    alone, once = images_seen(["score_cam"])
    together, still_once = images_seen(["score_cam", "union_cam", "fusion_cam", "grad_cam"])
    assert once == still_once == 1
    assert together - alone <= 3 + 3 + 3  # contributions of two methods, and the masked image of each


def test_what_a_run_was_made_with_is_kept(whole, folder):
    options = whole.info["options"]
    assert options["methods"] == TINY_METHODS
    assert options["protocol"] == asdict(LabProtocol())
    assert whole.info["available"] == 60
    assert torch.__version__.startswith(whole.info["started"][0]["torch"])
    (started,) = whole.info["started"]
    assert [started[name] for name in ENGINE] == ["eager", "fp32", 8, 1]
    assert (whole.records["start"] == 0).all()
    assert "list" not in options
    assert tiny_run(folder, limit=1).info["options"]["weights"] == options["weights"]
    other = tiny_run(folder, classifier=TinyClassifier(1), methods=["grad_cam"], limit=1)
    assert other.info["options"]["weights"] != options["weights"]


def test_a_finished_run_is_read_and_not_computed_again(whole, folder, tmp_path, monkeypatch):
    first = tiny_run(folder, tmp_path, limit=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "records.parquet", "run.json"]
    monkeypatch.setattr(experiment, "capture", None)
    again = tiny_run(folder, tmp_path, limit=4)
    pd.testing.assert_frame_equal(again.records, first.records, check_dtype=False)


@pytest.mark.slow
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


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_records_of_a_run_that_never_stopped(
    folder, tmp_path, monkeypatch, two_threads
):
    """The records are equal to the last bit, although each process would measure its own chunk."""
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
    """Assert that two runs are equal except for rounding."""
    left, right = (records.drop(columns=["seconds", "start"]) for records in (left, right))
    pd.testing.assert_frame_equal(left, right, check_exact=False, rtol=0, atol=1e-2)


@pytest.mark.slow
def test_a_machine_that_cannot_offer_what_a_run_was_begun_with_is_refused(whole, folder, tmp_path, monkeypatch):
    """It is refused in one sentence, and nothing is lost. With `elsewhere` it continues; each row holds its start."""
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


@pytest.mark.slow
def test_memory_that_runs_out_is_a_new_start(whole, folder, tmp_path, monkeypatch):
    """The new start includes the picture at which memory ran out, because two chunks scored its masked images."""
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


@pytest.mark.slow
def test_changed_code_is_a_new_start(folder, tmp_path, monkeypatch):
    for code, after in (("a", 2), ("b", 4), ("b", 5), ("a", 6)):
        monkeypatch.setattr(experiment, "provenance", lambda code=code: {"date": str(time.time()), "code": code})
        stopped_run(folder, tmp_path, after, limit=8)
    made = tiny_run(folder, tmp_path, limit=8)
    assert [each["code"] for each in made.info["started"]] == ["a", "b"]
    assert starts(made) == [[0]] * 2 + [[1]] * 3 + [[0]] * 3


SETTINGS = ("backend", "precision", "chunk", "progress", "threads")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["finished", "error", "interrupted"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accelerated", [True, False])
def test_a_run_leaves_the_classifier_as_it_was(folder, tmp_path, accelerated, precision, ending, two_threads):
    tiny = TinyClassifier()
    if accelerated:
        accelerate(tiny, "eager", chunk=3, threads=1)
    before, attributes = state(tiny), dict(vars(tiny))
    settings = [getattr(tiny.gradient_free, name) for name in SETTINGS] if accelerated else None
    options = {"classifier": tiny, "precision": precision, "methods": ["score_cam"], "metrics": ["drop"], "limit": 2}
    if ending == "finished":
        tiny_run(folder, tmp_path, **options)
    elif ending == "error":
        with pytest.raises(ValueError, match="groups is 0"):
            tiny_run(folder, tmp_path, **options | {"methods": ["group_cam:groups=0"]})
    else:
        stopped_run(folder, tmp_path, 1, **options)
    assert state(tiny) == before
    assert vars(tiny) == attributes
    if accelerated:
        assert tiny.gradient_free is attributes["gradient_free"]
        assert [getattr(tiny.gradient_free, name) for name in SETTINGS] == settings
    if ending != "error":
        (started,) = load(tmp_path).info["started"]
        assert (started["precision"], started["threads"]) == (precision, 1 if accelerated else 2)


def test_what_was_asked_of_a_classifiers_own_engine_holds_for_a_run(folder, two_threads):
    """The run uses the backend, chunk and threads of an engine that the user made."""
    made = tiny_run(folder, classifier=accelerate(TinyClassifier(), "eager", chunk=3, threads=1), limit=2)
    assert [made.info["started"][0][name] for name in ENGINE] == ["eager", "fp32", 3, 1]
    assert made.records["image"].nunique() == 2
    asked = tiny_run(folder, classifier=accelerate(TinyClassifier(), "openvino"), backend="eager", chunk=5, limit=1)
    assert [asked.info["started"][0][name] for name in ENGINE] == ["eager", "fp32", 5, 2]


def test_a_laboratory_that_cannot_be_opened_leaves_the_classifier_as_it_was(two_threads):
    tiny = eager_tiny()
    before, attributes = state(tiny), dict(vars(tiny))
    with pytest.raises(ValueError, match="precision 'tf32' is a mode of NVIDIA GPUs; the model is on cpu"):
        Setup(classifier=tiny, precision="tf32", threads=1).open()
    assert state(tiny) == before
    assert vars(tiny) == attributes


def in_another_process(setup, chosen):
    """A runner that computes the last picture first, in another process."""
    names = [picture.id for picture in chosen]
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        yield from pool.submit(_entries, pickle.dumps(setup), names).result()[::-1]


def _entries(pickled, names):
    torch.set_num_threads(1)
    setup = pickle.loads(pickled)
    with setup.open() as laboratory:
        return [explain_picture(laboratory, picture) for picture in setup.chosen() if picture.id in names]


@pytest.mark.slow
def test_another_process_computes_the_same_entries(folder, tmp_path):
    (tmp_path / "names.txt").write_text("05.png\nmore/01.png\n40.png\n")
    setup = tiny_setup(folder, metrics=["drop", "insertion", "sanity"], list_file=tmp_path / "names.txt")
    made = run(setup, out=tmp_path / "run", runner=in_another_process)
    assert list(made.records["image"].unique()) == ["05.png", "more/01.png", "40.png"]
    assert [made.info["started"][0][name] for name in ENGINE] == ["eager", "fp32", 8, 1]
    same(made.records, run(setup).records)


def test_a_setup_of_names_is_the_same_after_a_pickle():
    setup = Setup(methods=["grad_cam"], protocol=LabProtocol(relu=False), limit=3)
    assert pickle.loads(pickle.dumps(setup)) == setup
    assert setup.methods == ("grad_cam",)


def test_the_pictures_can_be_given(folder, tmp_path):
    setup = tiny_setup(folder, methods=["grad_cam"], metrics=["drop"])
    given = [picture for picture in setup.available() if picture.id in ("40.png", "07.png")][::-1]
    made = run(setup, given, tmp_path)
    assert list(made.records["image"]) == ["40.png", "07.png"]
    assert made.info["available"] == 2
    with pytest.raises(ValueError, match="holds a run whose data is"):
        run(setup, given[:1], tmp_path)


@pytest.mark.slow
def test_a_runner_gets_the_pictures_that_are_missing_and_is_closed(folder, tmp_path):
    events = []

    def runner(setup, chosen):
        events.append([picture.id for picture in chosen])
        try:
            yield from serial(setup, chosen)
        finally:
            events.append("closed")

    stopped_run(folder, tmp_path, 2, limit=4)
    whole = tiny_run(folder, limit=4)
    assert run(tiny_setup(folder, limit=4), out=tmp_path, runner=runner).records["image"].nunique() == 4
    assert events == [list(whole.records["image"].unique()[2:]), "closed"]


def _readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("reads")]


def test_pictures_are_read_while_another_one_is_computed(folder):
    """Those that follow are read in their order, as many as AHEAD says; each is what it is without reading ahead."""
    setup = tiny_setup(folder, methods=["grad_cam"])
    plain, begun = setup.available()[:6], queue.Queue()

    def read(picture, size, fit):
        begun.put(picture.id)
        if picture is plain[4]:
            raise OSError("the disk is gone")
        return picture.read(size, fit)

    with setup.open() as laboratory:
        ahead = read_ahead(laboratory, [replace(picture, read=partial(read, picture)) for picture in plain])
        first = next(ahead)
        waited_for = {begun.get(timeout=60) for _ in range(1 + experiment.AHEAD)}
        assert waited_for == {picture.id for picture in plain[: 1 + experiment.AHEAD]}
        assert begun.empty()
        followed = [first, *ahead]
        assert [picture.id for picture in followed] == [picture.id for picture in plain]
        entries = [explain_picture(laboratory, picture) for picture in followed]
        for entry, picture in zip(entries, plain, strict=True):
            if picture is plain[4]:
                assert entry["skipped"] == "the disk is gone"
            else:
                assert entry["rows"][0]["drop"] == explain_picture(laboratory, picture)["rows"][0]["drop"]
    assert _readers() == []


def test_a_run_that_is_stopped_leaves_no_thread(folder):
    setup = tiny_setup(folder, methods=["grad_cam"])
    entries = serial(setup, setup.available())
    next(entries)
    assert _readers()
    entries.close()
    assert _readers() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "grad_cam"}, r"methods is 'grad_cam'; a sequence of names is needed, as in \['grad_cam'\]"),
        ({"methods": ()}, "methods are none; one or more are needed, each once"),
        ({"methods": ["union_cam:tetha=5"]}, "union_cam has no option 'tetha'"),
        ({"metrics": ["nss"]}, "There is no metric 'nss'"),
        ({"metrics": []}, "No metric is given"),
        ({"protocol": Protocol()}, "protocol is a Protocol; a LabProtocol is needed"),
        ({"precision": "fp64"}, "precision is 'fp64'; it can be 'fp32' or 'tf32' or"),
        ({"limit": 0}, "limit is 0; it is a number of pictures"),
        ({"classifier": torch.nn.ReLU()}, r"ReLU has no attribute `target_layer`, .*from_model\(model, target_layer\)"),
        ({"classifier": 3}, "The classifier is a int; a name or a torch"),
    ],
)
def test_a_wrong_setup_is_one_sentence(options, message):
    with pytest.raises((ValueError, TypeError), match=message) as refused:
        Setup(**options)
    assert "\n" not in str(refused.value)


def test_other_weights_and_other_pictures_are_refused(folder, tmp_path):
    tiny_run(folder, tmp_path / "run", limit=2)
    with pytest.raises(ValueError, match="whose weights is"):
        tiny_run(folder, tmp_path / "run", classifier=TinyClassifier(1), limit=2)
    (tmp_path / "others").mkdir()
    for i in range(2):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "others" / f"{i}.png")
    with pytest.raises(ValueError, match="whose data is"):
        tiny_run(tmp_path / "others", tmp_path / "run", limit=2)


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


@pytest.mark.slow
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


def test_labels_are_explained_where_the_protocol_says_so(tmp_path, monkeypatch):
    for name in ("bee.png", "fox.png"):
        Image.new("RGB", (16, 16), (90, 9, 200)).save(tmp_path / name)
    available = [Picture("any", p.name, lambda s, f, p=p: load_photo(p, s), p.stem) for p in sorted(tmp_path.glob("*"))]
    monkeypatch.setattr(experiment, "pictures", lambda name: available)
    made = tiny_run("any", methods=["grad_cam"], protocol=LabProtocol(explained_class="label"))
    assert list(made.records["class"]) == ["bee"]
    assert "has the label fox, which is none of" in made.info["skipped"]["fox.png"]


def test_labels_cannot_be_explained_where_there_are_none(folder, tmp_path):
    """Three of the pictures are in a folder, whose name is their label."""
    setup = tiny_setup(folder, protocol=LabProtocol(explained_class="label"))
    unlabelled = [picture for picture in setup.available() if not picture.label]
    with pytest.raises(ValueError, match="The protocol explains the label, but no picture of "):
        run(setup, unlabelled, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wordnet_ids_number_the_classes_even_of_those_that_were_not_drawn(tmp_path):
    for i in range(5):
        (tmp_path / f"n0000000{i}").mkdir()
        Image.new("RGB", (16, 16), (90, 9, 40 * i)).save(tmp_path / f"n0000000{i}" / f"ILSVRC2012_val_0000000{i}.JPEG")
    protocol = LabProtocol(explained_class="label")
    made = tiny_run(f"ilsvrc2012:{tmp_path}", methods=["grad_cam"], limit=2, protocol=protocol)
    assert len(made.records) == 2
    assert [f"n0000000{i}" for i in made.records["target"]] == list(made.records["label"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("papr", ""), "scale is 'papr'; it can be demo, folder or paper"), (("paper", ""), "'paper' needs a folder")],
)
def test_a_wrong_scale_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        table_setup(*arguments)


def test_the_papers_scale_is_its_network_and_number_of_images():
    assert table_setup("paper", "F", "voc2007") == Setup("voc2007:F", "vgg16", limit=2000, seed=0)
    paper = table_setup("paper", "F", metrics=["drop"])
    assert paper == Setup("ilsvrc2012:F", "vgg16", metrics=["drop"], list_file=LISTS / "ilsvrc2012_val_2000.txt")
    assert len(paper.list_file.read_text().split()) == 2000
    assert table_setup("demo") == Setup()
    assert table_setup("demo", paper_set="voc2007") == Setup("scenes", limit=8)
    assert table_setup("folder", "F", limit=3) == Setup("F", limit=3)


def test_metrics_can_be_fewer(folder):
    made = tiny_run(folder, limit=2, metrics=["drop"], methods=["grad_cam"])
    assert "insertion" not in made.records
    assert "increase" not in made.records


@pytest.mark.slow
def test_nothing_is_left_behind(folder, classifier):
    own = classifier.gradient_free
    run(Setup("demo", classifier, ["grad_cam", "LayerCAM"], ["drop"], limit=1))
    assert classifier.gradient_free is own
    assert own.progress
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not classifier.target_layer._forward_hooks


class ShapesStub(TinyClassifier):
    """A network with arbitrary answers and the classes of the shapes."""

    classes = ("disc", "star", "ring", "cross", "heart")


@pytest.mark.slow
def test_only_scenes_that_the_network_names_are_localized(tmp_path):
    tiny = ShapesStub()
    made = run(Setup("shapes", tiny, ["grad_cam", "union_cam"], ["energy", "pointing"], limit=30), out=tmp_path)
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
    with pytest.raises(ValueError, match="'energy' needs pictures with a known ground truth"):
        tiny_run(folder, tmp_path / "run", metrics=["drop", "energy"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fit", ["square", "center-crop"])
def test_vocs_boxes_are_the_ground_truth_under_the_protocols_fit(tmp_path, fit):
    """The photo has an object of each class, so the network's answer is always one of them."""
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
        f"voc2007:{tmp_path}", methods=["grad_cam"], metrics=["energy"], protocol=LabProtocol(image_fit=fit)
    ).records.itertuples()
    image = load_photo(tmp_path / "JPEGImages" / "000001.jpg", 12, fit)
    tiny = eager_tiny()
    (evidence,) = capture(tiny, image[None], target_layer=tiny.relu2)
    i, truth = evidence.target, torch.zeros(12, 24, dtype=torch.bool)
    truth[: 12 - i, 5 + i : 8 + 2 * i] = True
    truth = truth[:, 1::2] if fit == "square" else truth[:, 6:18]  # the columns in which the centres of pixels lie
    assert row.energy == pytest.approx(localize(grad_cam(evidence), truth)["energy"], abs=1e-3)


@pytest.mark.slow
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


def any_setup(classifier, dataset="any", **options):
    """A setup whose engine measures nothing."""
    options = {"methods": ["grad_cam", "union_cam"], "metrics": ["drop", "insertion"]} | options
    return Setup(str(dataset), classifier, backend="eager", chunk=8, threads=1, **options)


def read(channels, seed, size, fit):
    return picture(channels, seed, size, torch.float32)


def own_pictures(channels, count=2):
    """A user's own pictures, of any number of channels."""
    return [Picture("any", f"picture {i}", partial(read, channels, i)) for i in range(count)]


def by_hand(network, image, probability, target=None, **options):
    """Compute a record's numbers by a plain loop: the probability, drop and insertion of Grad-CAM."""
    targets = None if target is None else [target]
    (evidence,) = capture(network, image[None], target_layer="maps", targets=targets, **options)
    cam, order = grad_cam(evidence), grad_cam(evidence).flatten().argsort(descending=True, stable=True)
    with torch.no_grad():
        before, after = (float(probability(network(x[None]), evidence.target)) for x in (image, cam * image))
        curve = []
        for count in (0, 96, 144):  # eight rows a step
            mixed = blur(image).flatten(1)
            mixed[:, order[:count]] = image.flatten(1)[:, order[:count]]
            curve.append(float(probability(network(mixed.view_as(image)[None]), evidence.target)))
    return evidence, before, 100 * max(0, before - after) / before, 50 * (curve[0] / 2 + curve[1] + curve[2] / 2)


KINDS = {
    "one output": ({"outputs": 1}, {}, lambda y, c: (y if c else -y).sigmoid()),
    "several labels": ({}, {"class_score": "sigmoid"}, lambda y, c: y[:, c].sigmoid()),
    "one channel": ({"channels": 1}, {}, lambda y, c: y.softmax(1)[:, c]),
    "two channels": ({"channels": 2}, {}, lambda y, c: y.softmax(1)[:, c]),
    "another layout": ({"last": True}, {}, lambda y, c: y.softmax(1)[:, c]),
    "outputs in an object": ({"names": True}, {}, lambda y, c: y.logits.softmax(1)[:, c]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_network_runs_and_its_records_equal_a_plain_loop(kind, tmp_path):
    form, protocol, probability = KINDS[kind]
    network = Single(**form)
    if kind == "another layout":
        network.reshape_transform = lambda output: output.movedim(-1, 1)
    chosen = own_pictures(form.get("channels", 3), 3)
    if kind == "one output":  # so that it answers with both classes
        with torch.no_grad():
            network.fc.bias -= network(torch.stack([one.read(12, "square") for one in chosen])).mean()
    before = state(network)
    setup = any_setup(network, protocol=LabProtocol(**protocol), methods=["grad_cam", "union_cam", "LayerCAM"])
    made = run(setup, chosen, tmp_path)
    assert state(network) == before
    assert made.info["skipped"] == {}
    assert made.info["options"]["classifier"] == "Single"
    options = {"reshape_transform": getattr(network, "reshape_transform", None), "protocol": Protocol(**protocol)}
    for one in chosen:
        rows = made.records[made.records["image"] == one.id].set_index("method")
        evidence, p, drop, insertion = by_hand(network, one.read(12, "square"), probability, **options)
        assert rows.loc["grad_cam", "probability"] == pytest.approx(p, abs=1e-6)
        assert rows.loc["grad_cam", "drop"] == pytest.approx(drop, abs=1e-3)
        assert rows.loc["grad_cam", "insertion"] == pytest.approx(insertion, abs=1e-3)
        assert (rows["class"] == f"class {evidence.target}").all()
        assert rows.loc["union_cam", "beta_united"] == pytest.approx(union_cam(evidence).beta_united, abs=1e-6)
        layer_cam = find_method("LayerCAM", as_classifier(network)).explain(evidence)
        (expected,) = evaluate(evidence, [layer_cam.cam], ["drop"])
        assert rows.loc["LayerCAM", "drop"] == pytest.approx(expected["drop"], abs=1e-3)
    if kind == "one output":
        assert {"class 0", "class 1"} == set(made.records["class"]), "both classes are explained"
        assert (made.records["probability"] > 0.5).all()


def test_the_metrics_that_explain_again_take_any_network(tmp_path):
    grey = {"input_size": 12, "channels": 1, "mean": 0.5, "std": 0.5}
    last = Single(channels=1, outputs=1, last=True)
    network = from_model(last, "maps", classes="tumour", reshape_transform=lambda y: y.movedim(-1, 1), **grey)
    setup = any_setup(network, metrics=["adcc", "stability", "sanity"], methods=["grad_cam", "LayerCAM"])
    made = run(setup, own_pictures(1), tmp_path)
    assert made.info["skipped"] == {}
    assert set(made.records["class"]) <= {"tumour", "not tumour"}
    plain = from_model(Single(channels=1, outputs=1), "maps", **grey)
    expected = run(replace(setup, classifier=plain), own_pictures(1))
    for metric in ("adcc", "stability", "sanity"):
        assert made.records[metric].tolist() == pytest.approx(expected.records[metric].tolist(), abs=1e-2)


def test_photos_are_grey_for_a_network_with_one_channel(folder):
    network = Single(channels=1)
    made = run(any_setup(network, folder, limit=2, metrics=["drop"]))
    for name, rows in made.records.groupby("image"):
        grey = Image.open(folder / name).resize((12, 12), Image.Resampling.BILINEAR).convert("L")
        image = torch.from_numpy(np.array(grey)).float()[None] / 255
        with torch.no_grad():
            probability = network(image[None]).softmax(1)[0, rows["target"].iloc[0]].item()
        assert rows["probability"].iloc[0] == pytest.approx(probability, abs=2e-3)  # Pillow rounds to 8 bits


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dataset", ["folder", "shapes"])
def test_photos_are_refused_for_a_network_that_takes_neither_rgb_nor_grey(folder, tmp_path, channels, dataset):
    setup = any_setup(Single(channels=channels), folder if dataset == "folder" else dataset, limit=2)
    message = rf"The picture has 3 channels, but Single takes {channels}: .* whose `read` returns \({channels}, H, W\)"
    with pytest.raises(ValueError, match=message):
        run(setup, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_picture_of_other_channels_is_skipped(tmp_path):
    chosen = [*own_pictures(2), Picture("any", "rgb", partial(read, 3, 0))]
    made = run(any_setup(Single(channels=2)), chosen, tmp_path)
    assert list(made.info["skipped"]) == ["rgb"]
    assert "The picture has 3 channels, but Single takes 2" in made.info["skipped"]["rgb"]
    assert made.records["image"].nunique() == 2


class Divided(Single):
    """Divides an image by its maximum, as networks for measurements do: NaN for a black image."""

    def forward(self, images):
        return super().forward(images / images.amax((1, 2, 3), keepdim=True))


class Fragile(Single):
    """Answers infinity to dark images, but not to the black one."""

    def forward(self, images):
        dark = (images.mean((1, 2, 3)) < 0.45) & (images != 0).flatten(1).any(1)
        return super().forward(images) / (~dark)[:, None]


def test_a_picture_with_a_score_that_is_not_finite_is_skipped_with_its_reason(tmp_path):
    made = run(any_setup(Divided()), own_pictures(3), tmp_path)
    assert made.records.empty
    assert set(made.info["skipped"]) == {"picture 0", "picture 1"}
    assert all("NaN or infinite values for the black image" in reason for reason in made.info["skipped"].values())


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (["drop"], "NaN or infinite values for the image masked by the map"),
        (["deletion"], "NaN or infinite values for the image with 96 pixels deleted"),
        (["adcc"], "NaN or infinite values for the image masked by the map"),
    ],
)
def test_a_metrics_image_whose_score_is_not_finite_skips_the_picture(metrics, reason):
    bright = [Picture("any", f"bright {i}", partial(read_bright, i)) for i in range(2)]
    made = run(any_setup(Fragile(), methods=["grad_cam"], metrics=metrics), bright)
    assert list(made.info["skipped"]) == ["bright 0", "bright 1"]
    assert all(re.search(reason, found) for found in made.info["skipped"].values())
    assert run(any_setup(Fragile(), methods=["fake_cam"], metrics=["drop"]), bright).info["skipped"] == {}


def read_bright(seed, size, fit):
    return 0.5 + 0.5 * read(3, seed, size, fit)


def test_a_map_that_is_not_finite_skips_the_picture(monkeypatch, tmp_path):
    for registry in ("METHODS", "TITLES", "NEED_REGIONS"):
        monkeypatch.setattr(methods, registry, getattr(methods, registry).copy())

    @methods.method("Broken")
    def broken(evidence):
        cam = grad_cam(evidence)
        cam[0, 0] = torch.nan if evidence.image.mean() < 0.5 else 0
        return cam

    chosen = own_pictures(3, 6)
    dark = [one.id for one in chosen if one.read(12, "square").mean() < 0.5]
    assert 0 < len(dark) < 6
    made = run(any_setup(Single(), methods=["grad_cam", "broken"]), chosen, tmp_path)
    assert list(made.info["skipped"]) == dark
    assert made.info["skipped"][dark[0]] == "broken: A map is NaN or infinite at 1 pixels; it must be finite."
    assert not set(dark) & set(made.records["image"])


def test_a_picture_with_pixels_that_are_not_finite_is_skipped():
    holes = Picture("any", "holes", lambda size, fit: read(3, 0, size, fit).where(torch.eye(size) == 0, torch.nan))
    made = run(any_setup(Single()), [holes, *own_pictures(3, 1)])
    assert made.info["skipped"] == {"holes": "36 values of holes are NaN or infinite."}
    assert made.records["image"].unique().tolist() == ["picture 0"]


def test_a_users_function_makes_the_classifier_of_a_run_and_of_its_report(folder, tmp_path, monkeypatch):
    (tmp_path / "my_run_file.py").write_text(
        "from others import Single\ndef my_network():\n    return Single(channels=1, outputs=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    made = run(any_setup("my_run_file:my_network", folder, limit=2, device="cpu"), out=tmp_path / "run")
    assert made.info["options"]["classifier"] == "my_run_file:my_network"
    assert made.records["image"].nunique() == 2
    page = write_report(tmp_path / "run", count=1).read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2, "the best and the worst"
    assert "my_run_file:my_network" in page
