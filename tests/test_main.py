"""Tests of the commands: what they print and write, and their error messages of one sentence."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from runs import eager_tiny, notebook, starts, write_list
from safetensors.torch import load_file

from unioncam_lab import __main__, bench, engine, experiment, findings, headless, train_shapes
from unioncam_lab.__main__ import main
from unioncam_lab.classifiers import shapes_network
from unioncam_lab.store import load

ROOT = Path(__file__).parent.parent
COMMANDS = ["run", "paper", "table", "report", "bench", "notebooks", "download", "train", "readme", "badges"]


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
        (["--protocol", "rely=True"], "The protocol has no option 'rely'; it has class_score, "),
        (["--precision", "fp8"], "precision is 'fp8'; it can be 'fp32' or 'tf32' or 'bf16' or 'fp16'."),
        (["--list", "nowhere.txt"], "There is no list nowhere.txt."),
    ],
)
def test_a_wrong_option_is_one_sentence_before_anything_is_made(tmp_path, capsys, options, message):
    assert main(["run", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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


def test_where_there_is_no_run_one_sentence(tmp_path, capsys):
    assert main(["table", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.fixture
def commanded(monkeypatch):
    """The command line with a network that needs no time to load."""
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


def test_names_may_have_spaces_between_them(monkeypatch, folder, tmp_path):
    monkeypatch.setattr(experiment, "load_classifier", lambda *_: eager_tiny())
    chosen = ["--methods", "grad_cam, union_cam:theta=60", "--metrics", " drop , increase", "--limit", "1"]
    assert main(["run", "--images", str(folder), *chosen, "--out", str(tmp_path / "run")]) == 0
    made = load(tmp_path / "run")
    assert made.info["options"]["methods"] == ["grad_cam", "union_cam:theta=60"]
    assert made.info["options"]["metrics"] == ["drop", "increase"]


def test_a_run_that_skips_every_picture_says_so_and_has_status_1(commanded, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "pictures" / name).write_text("no picture")
    for _ in range(2):  # also where that was found out before
        assert commanded(tmp_path / "pictures", tmp_path / "run") == 1
        printed = capsys.readouterr()
        assert "skipped b.jpg: The photo" in printed.out
        assert printed.err.startswith(
            "unioncam run: Every picture was skipped, 2 in all; the first is a.png: The photo"
        )
        assert printed.err.count("\n") == 1
    Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / "c.png")
    assert commanded(tmp_path / "pictures", tmp_path / "another") == 0
    printed = capsys.readouterr()
    assert "skipped a.png" in printed.out
    assert printed.err == ""


def test_a_run_takes_a_folder_from_where_it_is_called(commanded, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "2007").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert commanded("2007", "mine", "--limit", 2) == 0
    assert len(load(tmp_path / "mine").records) == 2


def asked(*arguments):
    """Run a command in its own process."""
    command = [sys.executable, "-m", "unioncam_lab", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_lists_every_command_at_once():
    shown = asked("--help")
    assert shown.returncode == 0
    assert re.findall(r"^    (\w+)\s+\w+ \w+", shown.stdout, re.M) == COMMANDS
    loaded = "import sys, unioncam_lab.__main__ as m; m.parser(); assert not {'torch', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=ROOT).returncode == 0, "it waits for no heavy import"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: unioncam {command}" in shown
    examples = re.findall(rf"^  unioncam {command} ?(.*)$", shown, re.M)
    assert examples
    for example in examples:
        assert __main__.parser().parse_args([command, *example.split()]).command == command


def test_a_wrong_command_is_one_sentence():
    refused = asked("rum")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "invalid choice: 'rum' (choose from 'run', 'paper'" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_wrong_value_is_one_sentence():
    for arguments, message in (
        (["run", "--limit", "many", "--out", "x"], "argument --limit: invalid int value: 'many'"),
        (["run"], "the following arguments are required: --out"),
        (["table", "nowhere"], "The folder nowhere holds no run"),
    ):
        refused = asked(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_an_interrupted_run_says_how_to_continue(monkeypatch, capsys, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", stop)
    assert main(["run", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "Stopped. The same command goes on from here.\n"


def test_a_file_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(findings, "README", Path("nowhere.md"))
    assert main(["readme"]) == 2
    assert capsys.readouterr().err == "unioncam readme: No such file or directory: nowhere.md\n"


def test_readme_writes_the_blocks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(findings, "README", tmp_path / "README.md")
    monkeypatch.setattr(findings, "render", str.upper)
    monkeypatch.setattr(findings, "write_start", lambda: (tmp_path / "start").write_text("index"))
    (tmp_path / "README.md").write_text("numbers")
    assert main(["readme"]) == 0
    assert (tmp_path / "README.md").read_text() == "NUMBERS"
    assert (tmp_path / "start").read_text() == "index"


@pytest.mark.slow
def test_train_writes_the_network_and_what_it_learned(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_shapes, "examine", lambda network: {"right": 12.5})
    assert main(["train", "--count", "64", "--epochs", "1", "--out", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == " 12.5 %  right\n"
    record = json.loads((tmp_path / "made" / "training.json").read_text())
    assert record["settings"] == {"network": "shapes_vgg", "count": 64, "epochs": 1, "seed": 0}
    assert len(record["losses"]) == 1
    assert set(load_file(tmp_path / "made" / "weights.safetensors")) == set(shapes_network().state_dict())


@pytest.mark.slow
def test_notebooks_runs_them_and_says_where_to_look(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(headless, "NOTEBOOKS", tmp_path)
    notebook(tmp_path, "00_works", "word = 'x'", "assert word == 'it is'")
    notebook(tmp_path, "01_fails", "1 / 0")
    folders = ["--out", str(tmp_path / "out"), "--figures", str(tmp_path / "figures")]
    assert main(["notebooks", "00", *folders, "-p", "word", "it is"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1 of 1 notebooks ran in \d+ s\.", printed)
    assert str(tmp_path / "out" / "index.html") in printed
    assert main(["notebooks", *folders]) == 1
    printed = capsys.readouterr()
    assert re.search(r"0 of 2 notebooks ran in \d+ s; their times add up to \d+ s\.", printed.out)
    assert "01_fails stopped in cell 1: ZeroDivisionError" in printed.err
    (tmp_path / "caller").mkdir()
    monkeypatch.chdir(tmp_path / "caller")
    declared = "folder = ''  # type: path\nsize = 3"
    notebook(tmp_path, "02_path", declared, f"assert (folder, size) == ({str(tmp_path / 'caller' / '2007')!r}, 9)")
    assert main(["notebooks", "02", *folders, "-p", "folder", "2007", "-p", "size", "9"]) == 0
    for wrong, sentence in (
        (["09"], "No notebook starts with '09'"),
        (["--jobs", "0"], "jobs is 0; it is the number of notebooks that run at a time, 1 or more."),
        (["-p", "colour", "3"], "has the parameter 'colour'"),
        (["-p", "size", "big"], "The parameter size is 'big'; in 02_path it has the type int, and is 3 by default."),
    ):
        assert main(["notebooks", *wrong, *folders]) == 2
        assert sentence in capsys.readouterr().err


ROW = {"method": "UnionCAM", "classifier": "efficientnet_lite0", "pretrained": True, "device": "cpu"}
ROW |= {"backend": "openvino", "precision": "fp32", "photo": "chelsea", "size": 64, "first_seconds": 3.0}
ROW |= {"seconds": 1.5, "images": 600, "images_per_second": 400.0, "ceiling": None, "memory_mib": 250.0}
ROW |= {"tflops": 0.2, "matmul_tflops": 0.4}


def test_bench_prints_the_table_and_writes_a_record(tmp_path, monkeypatch, capsys):
    asked_for = []
    monkeypatch.setattr(bench, "compare", lambda settings: asked_for.extend(settings) or pd.DataFrame([ROW]))
    record = tmp_path / "record.json"
    assert main(["bench", "--size", "64", "--device", "cpu", "--precision", "fp32", "bf16", "--out", str(record)]) == 0
    assert {(each.size, each.device) for each in asked_for} == {(64, "cpu")}
    assert {each.precision for each in asked_for} == {"fp32", "bf16"}
    printed = capsys.readouterr().out
    assert "efficientnet_lite0, 64×64 pixels, chelsea, on cpu" in printed
    assert re.search(r"UnionCAM +openvino fp32", printed)
    again, provenance = bench.read(record)
    pd.testing.assert_frame_equal(again, pd.DataFrame([ROW]), check_dtype=False)
    assert provenance["torch"] == version("torch")
    assert re.fullmatch("[0-9a-f]{40}|unknown", provenance["commit"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "fast"], "backend is 'fast'; it can be 'auto' or 'openvino' or"),
        (["--precision", "fp8"], "precision is 'fp8'; it can be 'fp32' or"),
        (["--photo", "dog"], "photo is 'dog'; it can be "),
        (["--beside", "-1"], "beside is -1; it is a number of other processes, 0 or more."),
        (["--out", "nowhere/record.json"], "There is no folder nowhere for the record record.json."),
    ],
)
def test_bench_refuses_what_it_cannot_measure_before_it_measures(monkeypatch, capsys, options, message):
    monkeypatch.setattr(bench, "compare", None)
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err
