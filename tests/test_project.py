"""What the project promises about itself: pins, the thin core, the README, the size."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision import models

from unioncam_lab import bench, experiment, tables
from unioncam_lab.shapes import WEIGHTS

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def pins():
    return [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["test"]]


def test_every_dependency_has_an_exact_version():
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins())


def test_conda_gets_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (from_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(from_pip) == sorted(["-e .", *pins()])


def modules_after(statement):
    listing = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    printed = subprocess.run(
        [sys.executable, "-c", f"{statement}; {listing}"], capture_output=True, text=True, cwd=ROOT
    )
    return set(printed.stdout.split())


def test_the_core_imports_torch_and_numpy_alone():
    own = {"unioncam_core", "contextlib", "dataclasses", "functools", "typing", "collections", "numpy", "torch"}
    assert modules_after("import unioncam_core") - modules_after("import torch, numpy") <= own
    assert len((ROOT / "unioncam_core.py").read_text().splitlines()) <= 570


def test_the_lab_depends_on_the_core_and_never_the_other_way():
    assert "unioncam_lab" not in re.findall(r"^(?:from|import) (\w+)", (ROOT / "unioncam_core.py").read_text(), re.M)


def test_the_readmes_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"\bmake (\w+)", README))
    assert {"demo", "test", "lab"} <= commands
    assert all(re.search(rf"^{command}:", makefile, re.M) for command in commands)


def test_the_readmes_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README) + re.findall(r'(?:src|href)="(?!https?:)([^"]+)"', README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    """Its ResNet-50 replaced by a ResNet-18 without training, whose weights a stand-in for the download returns."""
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "my_photo" in block]
    Image.new("RGB", (300, 200), (90, 120, 30)).save(tmp_path / "my_photo.jpg")
    monkeypatch.chdir(tmp_path)
    state = models.resnet18(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    names = {}
    exec(example.replace("resnet50", "resnet18").replace("ResNet50", "ResNet18"), names)
    assert names["maps"].shape == (1, 224, 224)


def test_the_readmes_costs_are_the_records():
    costs, _ = bench.read(bench.RECORDS / "cost_cpu.json")
    for method, row in bench.table(costs).iterrows():
        assert f"| {method} | {row['then, s']} | {row['times faster']} | {row['memory, MiB']} |" in README


def test_the_readmes_findings_are_the_records():
    records = experiment.load(experiment.RECORDS / "imagenet_500").records
    shown = records[records["method"].isin([*experiment.PAPER_METHODS, "fusion_cam", "fake_cam"])]
    found = tables.wide(tables.summary(shown, ["drop", "increase", "insertion", "deletion"]))
    for method, row in found.iterrows():
        assert f"| {method} | {' | '.join(row)} |" in README
    best = {q: tables.values(shown.query("method != 'fake_cam'"), q).mean() for q in tables.measured(shown)}
    assert best["drop"].idxmin() == "fusion_cam"
    winners = best["drop"].idxmin(), best["increase"].idxmax(), best["insertion"].idxmax(), best["deletion"].idxmin()
    assert "union_cam" not in winners


def test_the_readmes_truth_is_the_records():
    training = json.loads((WEIGHTS.parent / "training.json").read_text())["percent of 1000 fresh scenes"]
    assert f"names {training['right']:.1f} % of\nfresh ones" in README
    assert f"{training['object painted over']:.1f} %, one in eight" in README
    records = experiment.load(experiment.RECORDS / "truth" / "shapes").records
    assert f"On {records['image'].nunique()} of them" in README
    for method, row in tables.wide(tables.summary(records, ["drop", "energy", "best_iou"])).iterrows():
        assert f"| {method} | {' | '.join(row)} |" in README
    drop = tables.paired(records, "drop", others=experiment.PAPER_METHODS)
    assert (drop["better"] & (drop["p_holm"] < 0.01)).all()
    mass = tables.paired(records, "energy", others=["grad_cam", "grad_cam_plus_plus", "score_cam"])
    assert (~mass["better"] & (mass["p_holm"] < 0.01)).all()
    union = records[records["method"] == "union_cam"]
    turned = (union["beta_denoising"] + union["beta_region"] < 0) & (union["selected"] == "united")
    assert f"in {turned.sum()} of the scenes **its map is inside out**" in README


def test_every_record_is_a_finished_run_that_says_how_it_was_made():
    runs = sorted(path.parent for path in experiment.RECORDS.rglob("run.json"))
    assert len(runs) >= 8
    for path in runs:
        run = experiment.load(path)
        assert run.info["finished"]
        assert re.fullmatch("[0-9a-f]{40}", run.info["started"][0]["commit"])
        assert run.info["images"] in {
            "imagenet-samples", "mosaics:imagenet-samples", "scenes", "shapes", "brain-mri-test",
        }  # fmt: skip
        named = all(reason.endswith("which is not in it") for reason in run.info["skipped"].values())
        assert named
        assert run.records["image"].nunique() + len(run.info["skipped"]) >= 24
        assert set(run.records["method"]) == set(run.info["options"]["methods"])


def test_the_citation_file_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PYPROJECT["version"]
    assert citation["license"] == PYPROJECT["license"]
    assert [len(reference["authors"]) for reference in citation["references"]] == [4, 4]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_repository_stays_small():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sizes = {name: (ROOT / name).stat().st_size for name in files if (ROOT / name).exists()}
    assert sum(sizes.values()) < 60e6
    assert sum(size for name, size in sizes.items() if name.startswith("data/cutouts/")) < 2.5e6


def test_this_is_the_pinned_torch():
    assert f"torch=={torch.__version__.partition('+')[0]}" in pins()
