"""Tests of the paper's experiment in one command, on small data sets and on a slim network in VGG16's format."""

import contextlib
import io
import json
import re
import shutil
import time
import urllib.error
from dataclasses import asdict, fields
from functools import partial
from typing import get_args
from unittest import mock

import archives
import numpy as np
import pandas as pd
import pytest
import torch
from runs import tiny_setup, write_list
from torchvision import models
from torchvision.models import vgg
from torchvision.transforms._presets import ImageClassification

from unioncam_lab import cache, cluster, experiment, findings, headless, paper, store, tables
from unioncam_lab.__main__ import main
from unioncam_lab.classifiers import LabProtocol
from unioncam_lab.datasets import LISTS
from unioncam_lab.experiment import Setup, serial
from unioncam_lab.store import Journal

LIMIT = 4
PHOTOS, VOC = ["ilsvrc2012", "ablation"], ["voc2007", "voc2007_boxes"]
# The layers of VGG16, with the same names, and few channels.
SLIM = [4, 4, "M", 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M", 16, 16, 16, "M"]


class SlimVGG(vgg.VGG):
    def __init__(self, features, num_classes=1000, **_options):
        torch.nn.Module.__init__(self)  # VGG's own would make 25,088 × 4,096 weights
        self.features, self.avgpool = features, torch.nn.AdaptiveAvgPool2d(7)
        self.classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 7 * 7, num_classes))


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """torchvision makes a slim VGG16 for images of 64 pixels, and its weights file is in the download folder."""
    hub = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vgg.cfgs, "D", SLIM)
        patch.setattr(vgg, "VGG", SlimVGG)
        small = partial(ImageClassification, crop_size=64)
        patch.setattr(models.VGG16_Weights.DEFAULT.value, "transforms", small)
        patch.setenv("TORCH_HOME", str(hub))
        torch.manual_seed(0)
        network = models.vgg16(weights=None)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        torch.nn.init.normal_(network.classifier[1].weight, std=0.05)
        network.classifier[1].bias.data[281] = 8.0  # it names each photo "tabby", a cat of VOC2007
        folder = hub / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(network.state_dict(), folder / models.VGG16_Weights.DEFAULT.url.split("/")[-1])
        # Backends need not be measured on so small a network.
        patch.setattr(paper, "table_setup", partial(experiment.table_setup, backend="eager", chunk=16, threads=1))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ILSVRC2012_img_val.tar with the listed photos and its devkit, and VOCtest_06-Nov-2007.tar."""
    folder = tmp_path_factory.mktemp("data")
    names = (LISTS / "ilsvrc2012_val_2000.txt").read_text().split()
    photos = [archives.photo(i) for i in range(9)]
    archives.write_tar(
        folder / archives.VALIDATION_TAR, {name: photos[i % len(photos)] for i, name in enumerate(names)}
    )
    archives.devkit(folder, 50_000)
    archives.voc_tar(folder, 6)
    return folder


def command(data, out, *options, imagenet=True, voc=True):
    """Run `unioncam paper` on the data sets."""
    given = ["--imagenet", str(data / archives.VALIDATION_TAR)] if imagenet else []
    given += ["--voc", str(data / archives.VOC_TAR)] if voc else []
    return main(["paper", *given, "--out", str(out), "--device", "cpu", *map(str, options)])


@pytest.fixture
def nothing_rendered(monkeypatch):
    """Notebooks are not executed; what would be is recorded."""
    asked = {}

    def execute(notebooks, out, figures, parameters):
        asked.update({path.name[:2]: parameters(path) for path in notebooks})
        return [headless.Executed(path.stem, "", "", 1.0, None) for path in notebooks]

    monkeypatch.setattr(headless, "execute", execute)
    return asked


@pytest.fixture(scope="module")
def finished(vgg16, data, tmp_path_factory):
    """The folder of a finished experiment of 4 pictures a run, with what it printed and the pictures it computed."""
    out, computed, explain = tmp_path_factory.mktemp("finished"), [], experiment.explain_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "render", lambda *_: [])
        patch.setattr(experiment, "explain_picture", lambda *given: computed.append(given[1].id) or explain(*given))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert command(data, out, "--limit", LIMIT) == 0
    return out, computed, printed.getvalue()


@pytest.mark.slow
def test_each_table_has_its_run_and_each_picture_is_computed_once(finished):
    out, computed, _ = finished
    for name in [*PHOTOS, *VOC]:
        made = store.load(out / name)
        assert "finished" in made.info
        assert made.info["options"]["classifier"] == "vgg16"
        assert made.info["options"]["limit"] == LIMIT
        assert made.records["image"].nunique() + len(made.info["skipped"]) == LIMIT
    assert len(computed) == 4 * LIMIT, "the pictures that are measured first are kept"
    first, second = (store.load(out / name).records for name in PHOTOS)
    assert list(first["image"].unique()) == list(second["image"].unique())
    drops = [tables.values(records, "drop")["union_cam"] for records in (first, second)]
    pd.testing.assert_series_equal(*drops)
    assert set(tables.published("table 4")["drop"]) <= set(second["method"])
    assert len(tables.by_theta(second, ["drop"])) == 30
    assert set(tables.region_maps(first, "table 1")) == set(tables.REGION_MAPS)
    assert "energy" in store.load(out / "voc2007_boxes").records


@pytest.mark.slow
def test_it_says_how_long_it_takes_before_the_rest_is_computed(finished):
    _, _, printed = finished
    for name in [*PHOTOS, *VOC]:
        (row,) = re.findall(rf"^{name} +{LIMIT} +(\d) +(\d+) +\S+ +(.+?)  ", printed, re.MULTILINE)
        methods = {"ilsvrc2012": 13, "ablation": len(paper.SWEPT)}.get(name, 11)
        assert row[:2] == ("3" if name not in VOC[1:] else row[0], str(methods))
    assert re.search(r"The runs take about .+ more, and then the notebooks \d+ (s|min)\.", printed)
    assert re.search(r"They need at most \d+ MB in .+, where .+ are free\.", printed)
    assert printed.index("They need at most") < printed.index("1 of 4: Tables 1 and 3, Fusion-CAM's table, about")


@pytest.mark.slow
def test_a_report_holds_the_tables_beside_the_papers(finished):
    text = (finished[0] / "report.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Table 1", "Table 2", "Table 3", "Table 4", "Claims"]
    for number in ("43.15", "28.57", "57.2", "14.2"):
        assert number in text
    assert text.count(f"probability in both, N = {LIMIT}") == 2 + 2 + 3
    assert "VGG16, VOC2007; both by softmax" in text


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16", "nothing_rendered")
def test_it_goes_on_after_it_was_stopped_and_computes_nothing_twice(finished, data, tmp_path, capsys, monkeypatch):
    computed, explain, append = [], experiment.explain_picture, Journal.append
    monkeypatch.setattr(experiment, "explain_picture", lambda *given: computed.append(given[1].id) or explain(*given))
    for stopped_after in (2, 4):  # while it measures the first run, and the second one

        def stop(journal, entry, last=stopped_after):
            append(journal, entry)
            if len(computed) == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", stop)
            assert command(data, tmp_path, "--limit", 3, voc=False) == 130
        assert capsys.readouterr().err == "Stopped. The same command goes on from here.\n"
        assert not (tmp_path / "report.md").exists()
    assert command(data, tmp_path, "--limit", 3, voc=False) == 0
    assert len(computed) == 6
    capsys.readouterr()
    assert command(data, tmp_path, "--limit", 3, voc=False) == 0
    assert len(computed) == 6, "a finished experiment is only rendered again"
    assert "The runs take about 0 s more" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16")
def test_a_data_set_that_is_not_given_leaves_its_tables_out(data, tmp_path, capsys, nothing_rendered):
    assert command(data, tmp_path, "--limit", 1, imagenet=False) == 0
    printed = capsys.readouterr().out
    assert "Tables 1, 3 and 4, Figure 8 and Fusion-CAM's table are left out: ILSVRC2012 is not given." in printed
    assert sorted(path.name for path in tmp_path.glob("*/run.json") for path in [path.parent]) == VOC
    assert set(nothing_rendered) == {"08", "17"}
    found = findings.verdicts(tmp_path).drop_duplicates("no.").set_index("no.")["on the paper's setup"]
    assert found[1] == findings.ILSVRC
    assert found[3].startswith("not distinguishable (VGG16, VOC2007; both by probability, N = 1) · ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "No data set is given: name the path of ILSVRC2012's validation set, of VOC2007's test set, or of both"),
        (["--imagenet", "nowhere.tar"], "nowhere.tar"),
        (["--voc", "nowhere"], "nowhere"),
        (["--voc", "{empty}"], "holds no VOC2007/ImageSets/Main/test.txt"),
        (["--imagenet", "{empty}"], "holds no ILSVRC2012_val_*.JPEG"),
        (["--imagenet", "{one}"], "which the list"),
        (["--voc", "{voc}", "--limit", "0"], "limit is 0; it is a number of pictures, 1 or more."),
        (["--voc", "{voc}", "--precision", "fp8"], "precision is 'fp8'"),
        (["--voc", "{voc}", "--device", "tpu"], "tpu"),
        (["--voc", "{voc}", "--workers", "0"], "workers is 0"),
    ],
)
def test_a_wrong_option_is_one_sentence_before_anything_is_made(data, tmp_path, capsys, options, message):
    (tmp_path / "empty").mkdir()
    paths = {"empty": tmp_path / "empty", "voc": data / archives.VOC_TAR}
    paths["one"] = archives.validation_tar(tmp_path / "one", 1)
    out = tmp_path / "out"
    assert main(["paper", "--out", str(out), *(option.format(**paths) for option in options)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_weights_that_cannot_be_loaded_are_one_sentence(data, tmp_path, capsys, monkeypatch):
    def no_network(*_arguments, **_options):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(vgg.cfgs, "D", SLIM)
    monkeypatch.setattr(vgg, "VGG", SlimVGG)
    assert command(data, tmp_path / "out", imagenet=False) == 2
    assert "The weights of vgg16 could not be downloaded (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16", "nothing_rendered")
def test_too_little_space_is_said_before_the_rest_is_computed(data, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert command(data, tmp_path, "--limit", LIMIT, imagenet=False) == 2
    error = capsys.readouterr().err
    assert re.search(r"needs at most \d+ MB, but in .+ 1 MB are free: make room, or take another folder", error)
    assert len(list(store.Journal(tmp_path / "voc2007" / "journal.jsonl").entries())) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16", "nothing_rendered")
def test_workers_are_those_of_the_cluster(data, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "runner", lambda *given: asked.append(given) or serial)
    assert command(data, tmp_path, "--limit", 1, "--workers", 2, imagenet=False) == 0
    assert asked == [(2, None)]


# The pace ------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only when something takes them."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def paced(folder, out, methods=("grad_cam",), workers=1, skipped=(), loading=30.0):
    """The pace of a run whose every picture takes 2 s for each method and worker, after some seconds of loading."""
    clock, start = Clock(), {"backend": "eager", "chunk": 8, "threads": 1}

    def runner(_setup, missing):
        clock.now += loading
        for i, picture in enumerate(missing):
            if picture.id in skipped:
                yield {"image": picture.id, "skipped": "broken", "start": start}
                continue
            clock.now += 2.0 * len(methods) * (i % workers == 0)  # the workers end at the same moment
            yield {"image": picture.id, "rows": [{"image": picture.id, "method": "grad_cam"}], "start": start}

    part = paper.Part("a_run", "Table 0", tiny_setup(folder, methods=methods, metrics=["drop"]))
    with mock.patch.object(time, "perf_counter", clock):
        return part, paper.measure(part, out, runner, workers)


@pytest.mark.parametrize("methods", [["grad_cam"], ["grad_cam", "union_cam", "fake_cam"]])
def test_the_pace_grows_with_the_methods_and_loading_is_no_part_of_it(folder, tmp_path, methods):
    _, pace = paced(folder, tmp_path, methods)
    assert pace.picture == 2 * len(methods)
    assert pace.start == 30
    assert len(list(Journal(tmp_path / "a_run" / "journal.jsonl").entries())) == 3


def test_nothing_is_read_from_the_cache_while_a_pace_is_measured(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path / "kept"))
    folders = []

    def runner(_setup, missing):
        folders.append(cache.folder())
        yield from ()

    part = paper.Part("a_run", "", tiny_setup(folder, methods=["grad_cam"], metrics=["drop"], limit=1))
    assert paper.measure(part, tmp_path, runner) == paper.Pace(0, 0, 0)
    assert folders == [None]
    assert cache.folder() == tmp_path / "kept"


def test_workers_that_end_together_are_no_faster_than_they_are(folder, tmp_path):
    _, pace = paced(folder, tmp_path, workers=4)
    assert pace.picture == pytest.approx(2 / 4)
    assert pace.start == pytest.approx(30)
    assert len(list(Journal(tmp_path / "a_run" / "journal.jsonl").entries())) == 12


def test_skipped_pictures_take_part_in_the_pace_but_are_none_of_the_three(folder, tmp_path):
    _, pace = paced(folder, tmp_path, skipped=("01.png", "03.png", "04.png"))
    kept = list(Journal(tmp_path / "a_run" / "journal.jsonl").entries())
    assert sum("rows" in entry for entry in kept) == 3
    assert 0 < pace.picture < 2


def test_what_is_left_grows_with_the_pictures_and_what_is_done_is_not_counted(folder, tmp_path):
    part, pace = paced(folder, tmp_path)
    (few,), (many,) = (paper.outlook([part], {"a_run": n}, {part.kind: pace}, tmp_path) for n in (100, 2000))
    assert few.done == many.done == 3
    assert few.seconds == 30 + 97 * 2
    assert many.seconds == 30 + 1997 * 2
    assert many.bytes / few.bytes == pytest.approx(20, rel=0.02)
    (ended,) = paper.outlook([part], {"a_run": 3}, {}, tmp_path)
    assert ended.seconds == ended.bytes == 0
    text = paper.describe([few, ended], tmp_path)
    assert re.search(r"a_run +100 +3 +1 +2 +4 min  Table 0", text)
    assert re.search(r"a_run +3 +3 +1 +– +done  Table 0", text)
    assert "The runs take about 4 min more" in text


def test_a_run_that_ends_while_it_is_measured_is_finished(folder, tmp_path):
    chosen = write_list(tmp_path / "list.txt", "40.png", "07.png")
    part = paper.Part("a_run", "", tiny_setup(folder, methods=["grad_cam"], metrics=["drop"], list_file=chosen))
    pace = paper.measure(part, tmp_path)
    assert "finished" in store.load(tmp_path / "a_run").info
    assert pace.bytes > 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5300, "88 min"), (7260, "2 h 1 min"), (400000, "4 days 15 h")],
)
def test_durations_are_in_words(seconds, words):
    assert paper.duration(seconds) == words


# What reads the runs -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_table_is_read_from_a_finished_run_without_its_pictures(finished, monkeypatch):
    out = finished[0] / "ilsvrc2012"
    monkeypatch.setattr(experiment, "load_classifier", None)
    monkeypatch.setattr(Setup, "available", None)
    setup = experiment.table_setup("paper", "elsewhere", limit=LIMIT, methods=["fake_cam", "union_cam"])
    made = paper.table_run(setup, out)
    every = store.load(out).records
    expected = every[every["method"].isin(["fake_cam", "union_cam"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.records, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16")
@pytest.mark.parametrize("change", [{"limit": 2}, {"methods": ["LayerCAM"]}, {"protocol": LabProtocol(relu=False)}])
def test_a_run_with_other_options_serves_no_table(finished, data, change):
    options = {"limit": LIMIT, "device": "cpu"} | change
    setup = experiment.table_setup("paper", str(data / archives.VALIDATION_TAR), **options)
    with pytest.raises(ValueError, match="holds a run whose"):
        paper.table_run(setup, finished[0] / "ilsvrc2012")


def test_a_table_without_a_folder_is_a_run_of_its_own(folder):
    made = paper.table_run(tiny_setup(folder, methods=["grad_cam"], metrics=["drop"], limit=2))
    assert made.records["image"].nunique() == 2


def written(folder, name, **drops):
    """A finished run of 40 pictures with these mean drops, and an increase, insertion and deletion that follow them."""
    random, rows = np.random.default_rng(0), []
    for i in range(40):
        hard = random.uniform(0, 10)
        for method, mean in drops.items():
            drop = mean + hard + random.normal(0, 1)
            row = {"image": f"{i}", "label": None, "target": 0, "class": "ant", "method": method, "selected": "united"}
            row |= {"probability": 1.0, "masked_probability": 1 - drop / 100, "drop": drop, "increase": mean < 30}
            row |= {"insertion": 90 - drop, "deletion": drop, "beta_united": 1 - drop / 100}
            rows.append(row | {"beta_denoising": 1 - 2 * drop / 100, "beta_region": 1 - drop / 200})
    (folder / name).mkdir()
    pd.DataFrame(rows).to_parquet(folder / name / "records.parquet")
    (folder / name / "run.json").write_text(json.dumps({"finished": "2026-01-01", "skipped": {}, "options": {}}))


@pytest.mark.slow
def test_a_verdict_on_the_papers_setup_follows_from_its_runs(tmp_path):
    others = {"grad_cam": 50, "grad_cam_plus_plus": 50, "group_cam": 50}
    maps = {"score_cam:weights=score": 40, "union_cam:region_weights=softmax": 45}
    maps["fusion_cam:region_weights=score"] = 10
    written(tmp_path, "ilsvrc2012", **others, score_cam=15, union_cam=20, fusion_cam=10, **maps)
    swept = {f"fusion_cam:theta={theta}": 20 + abs(theta - 15) for theta in range(0, 100, 10)}
    for theta in range(0, 100, 10):  # θ = 10 is best by one reading, beaten by another, and no θ differs by the last
        swept[f"union_cam:theta={theta}:percentile_over=channel"] = 20 + abs(theta - 10)
        swept[f"union_cam:theta={theta}:percentile_over=positive"] = 60 - theta / 2
        swept[f"union_cam:theta={theta}:percentile_over=map"] = 20
    parts = {"union_cam:theta=0": 20, "union_cam:weighted=False": 40, "union_cam:theta=0:weighted=False": 40}
    written(tmp_path, "ablation", union_cam=20, **parts, **swept)
    found = findings.on_paper(tmp_path)
    first = found[found["no."] == 1].set_index("network and pictures")["verdict"]
    assert first.to_dict() == {
        "VGG16, ILSVRC2012; both by probability": findings.HOLDS,
        "VGG16, ILSVRC2012; both by softmax": findings.CONTRADICTED,
        "VGG16, ILSVRC2012; Score-CAM by softmax, UnionCAM by probability": findings.CONTRADICTED,
    }
    assert (found["N"] == 40).all()
    by_claim = found.groupby("claim")["verdict"].agg(list)
    assert by_claim["denoising lowers the drop"] == [findings.OPEN]
    assert by_claim["weighting lowers the drop"] == [findings.HOLDS]
    assert by_claim["weighting raises the increase"] == [findings.HOLDS]
    assert by_claim["the union is better than the region map"] == [findings.CONTRADICTED]
    assert by_claim["the union is better than the denoised map"] == [findings.HOLDS]
    assert by_claim["θ = 10 is best, sharply worse above"] == [findings.HOLDS, findings.CONTRADICTED, findings.OPEN]
    assert by_claim["Fusion-CAM outperforms existing methods"] == [findings.HOLDS]
    assert by_claim["Fusion-CAM is best at θ = 10 to 20"] == [findings.HOLDS]


@pytest.mark.slow
def test_a_claim_without_its_run_says_what_it_needs(finished, tmp_path):
    usual = findings.verdicts()
    column = "on the paper's setup"
    empty = findings.verdicts(tmp_path)
    pd.testing.assert_frame_equal(usual.drop(columns=column), empty.drop(columns=column))
    assert empty[column].str.startswith(("not run: ", "proved")).all()
    assert empty.set_index("claim")[column]["locates objects more accurately"].iloc[0] == findings.VOC
    here = findings.verdicts(finished[0]).drop_duplicates("no.").set_index("no.")[column]
    decided = here[~here.str.startswith(("not run: ", "proved"))]
    assert list(decided.index) == [*range(1, 15), 18, 19, *range(25, 30)]
    assert not decided.str.contains("nan").any()
    assert here[15] == here[21] == findings.PROVED
    with pytest.raises(NotADirectoryError, match="There is no folder nowhere"):
        findings.verdicts("nowhere")


@pytest.mark.slow
def test_each_notebook_reads_the_run_that_serves_it(finished, data):
    values = paper.notebook_values("photos", "boxes", finished[0], LIMIT)
    assert list(values) == list(paper.NOTEBOOKS)
    out = finished[0].resolve()
    assert values["07"] == {"scale": "paper", "limit": LIMIT, "folder": "photos", "out": out / "ilsvrc2012"}
    assert values["08"] == values["07"] | {"folder": "boxes", "out": out / "voc2007"}
    assert values["11"] == {"images": "ilsvrc2012:photos", "model": "vgg16", "count": LIMIT, "scenes": LIMIT}
    assert values["17"] == {"out": out}
    for number, given in values.items():  # each notebook has these parameters
        (path,) = headless.find([number])
        assert set(headless.values_for(path, {name: str(value) for name, value in given.items()})) == set(given)


def printed(path):
    """Return what the cells of a notebook have printed and shown as text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", "")) for o in outputs)


@pytest.mark.slow
@pytest.mark.notebook
def test_notebooks_are_rendered_from_the_runs(finished, tmp_path, monkeypatch):
    """The pictures are not there any more."""
    monkeypatch.setattr(paper, "NOTEBOOKS", ("08", "17"))
    runs = paper.render("nowhere", "nowhere", finished[0], LIMIT)
    assert [(run.name[:2], run.error) for run in runs] == [("08", None), ("17", None)]
    pages = finished[0] / "notebooks"
    assert (pages / "index.html").exists()
    texts = {path.stem[:2]: printed(path) for path in pages.glob("*.ipynb")}
    assert "UnionCAM is best" in texts["08"]
    assert "`make paper` makes the runs" not in texts["17"]
    assert "VGG16, VOC2007; both by softmax, N = 4" in texts["17"]
    assert (finished[0] / "figures" / "08_demo.png").exists()


# The protocol study --------------------------------------------------------------------------------------------------


def test_the_study_has_each_open_option_once():
    names = [f"{name}={value}" for name, value in paper.open_options()]
    assert names == [
        "class_score=logit",
        "gradient_of=probability",
        "mask_space=normalized",
        "map_scale=none",
        "relu=False",
        "explained_class=label",
        "image_fit=center-crop",
        "normalization=none",
        "target_layer=pool",
    ]
    # The others are methods of the part `ablation`.
    known = {
        f"{field.name}={value}" for field in fields(LabProtocol) for value in get_args(field.type) or (True, False)
    }
    anew = {option for method in paper.SWEPT for option in method.split(":")[1:]}
    usual = {f"{name}={value}" for name, value in asdict(LabProtocol()).items()}
    assert known - usual - set(names) - {"class_score=sigmoid"} <= anew


@pytest.mark.slow
@pytest.mark.usefixtures("vgg16", "nothing_rendered")
def test_the_protocol_study_is_read_option_by_option(data, tmp_path, capsys):
    assert command(data, tmp_path, "--limit", 2, "--protocol-study", voc=False) == 0
    assert "Table 2 is left out: VOC2007 is not given." in capsys.readouterr().out
    study = paper.studied(tmp_path)
    assert next(iter(study)) == "default"
    assert set(study) - {"default"} == {f"{name}={value}" for name, value in paper.open_options()}
    records = {name: made.records for name, made in study.items()}
    orders = tables.option_orders(records, "drop")
    assert (orders["n"] == 2).all()
    effects = tables.option_effects(
        store.load(tmp_path / "ilsvrc2012"), store.load(tmp_path / "ablation"), list(study.values())[1:]
    )
    assert {"relu=False", "clamp_beta=True", "target_layer=pool", "explained_class=label"} <= set(effects["other"])


def test_without_a_study_there_is_nothing_to_read(tmp_path):
    assert paper.studied(tmp_path) == {}
