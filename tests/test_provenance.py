"""Tests of the provenance: the code and the machine of a record."""

import json
import subprocess
from importlib.metadata import version

import pytest

from unioncam_lab import provenance

CPUINFO = {
    "x86": "processor\t: 0\nmodel name\t: A Processor @ 2.0GHz\nflags\t\t: fpu avx avx2 fma avx512f amx_bf16\n\n"
    "processor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n",
    "ARM": "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16 sve\n",
    "nothing": "",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with three committed files."""
    (tmp_path / "unioncam_lab").mkdir()
    (tmp_path / "unioncam_core.py").write_bytes(b"a = 1\nb = 2\n")
    (tmp_path / "fusioncam.py").write_bytes(b"d = 4\n")
    (tmp_path / "unioncam_lab" / "engine.py").write_bytes(b"c = 3\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_code_is_known_by_what_is_in_its_files(project):
    core, before = project / "unioncam_core.py", provenance.code_hash()
    assert len(before) == 64
    core.write_bytes(b"a = 1\r\nb = 2\r\n")
    assert provenance.code_hash() == before, "as a checkout on Windows has it"
    (project / "unioncam_lab" / "notes.txt").write_text("no code")
    assert provenance.code_hash() == before
    core.write_bytes(b"a = 1\nb = 3\n")
    changed = provenance.code_hash()
    assert changed != before
    core.write_bytes(b"a = 1\nb = 2\n")
    assert provenance.code_hash() == before
    (project / "fusioncam.py").write_bytes(b"d = 5\n")
    assert provenance.code_hash() not in (before, changed)
    (project / "fusioncam.py").write_bytes(b"d = 4\n")
    (project / "unioncam_lab" / "engine.py").rename(project / "unioncam_lab" / "motor.py")
    assert provenance.code_hash() not in (before, changed)


def test_a_change_since_the_commit_is_told(project):
    found = provenance.provenance()
    assert found["commit"] == subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project, text=True).strip()
    assert found["changed"] is False
    (project / "results.csv").touch()
    assert provenance.provenance()["changed"] is False, "what is not under version control is not the code"
    (project / "unioncam_core.py").write_text("a = 2\n")
    assert provenance.provenance()["changed"] is True


def test_without_git_or_a_repository_the_code_is_still_known(project, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    found = provenance.provenance()
    assert (found["commit"], found["changed"]) == ("unknown", False)
    assert len(found["code"]) == 64


@pytest.mark.parametrize(
    ("machine", "sets", "processor"),
    [
        ("x86", ["avx2", "fma", "avx512f", "amx_bf16"], "A Processor @ 2.0GHz"),
        ("ARM", ["asimd", "bf16"], "a processor"),
        ("nothing", [], "a processor"),
    ],
)
def test_instruction_sets_are_those_that_change_how_a_network_is_computed(
    tmp_path, monkeypatch, machine, sets, processor
):
    (tmp_path / "cpuinfo").write_text(CPUINFO[machine])
    monkeypatch.setattr(provenance, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(provenance.platform, "processor", lambda: "a processor")
    found = provenance.provenance()
    assert (found["instruction sets"], found["processor"]) == (sets, processor)


def test_every_package_that_can_change_a_number_has_its_version(monkeypatch):
    found = provenance.provenance()
    assert {name: found[name] for name in ("torch", "openvino", "numpy", "pillow")} == {
        name: version(name) for name in ("torch", "openvino", "numpy", "pillow")
    }
    assert set(provenance.PACKAGES) < set(found)
    assert found["kernels"]
    assert json.loads(json.dumps(found)) == found
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package-of-anybody"))
    assert provenance.provenance()["no-such-package-of-anybody"] == "not installed"
