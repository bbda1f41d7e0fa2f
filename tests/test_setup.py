"""Tests of the set-up of .venv: the Makefile's own recipe installs tiny wheels from an index on this machine."""

import hashlib
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("sh", "cat", "echo", "grep", "sed", "test", "timeout", "touch", "uname")
CPU = {"torch": "2.0+cpu", "torchvision": "0.2+cpu", "plain": "1.0", "unioncam": "0"}
CUDA = {"torch": "2.0", "torchvision": "0.2", "plain": "1.0", "unioncam": "0"}
CUDA |= {"nvidia-cudnn-cu13": "9.0", "triton": "3.0", "cuda-bindings": "3.0"}
UNREACHABLE = "http://127.0.0.1:9/cpu"

without_driver = pytest.mark.skipif(
    Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver"
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyPI has PyTorch with CUDA for Linux alone")


def wheel(folder, name, version):
    """Write a wheel without code into a folder, and return its path."""
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    described = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(
            f"{described}/RECORD", "".join(f"{described}/{each},,\n" for each in ("METADATA", "WHEEL", "RECORD"))
        )
    return path


@pytest.fixture
def index(tmp_path):
    """The address of two indexes for pip and uv: `pypi` has what the lock names, and `cpu` has PyTorch's own builds."""
    (tmp_path / "index").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "index")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def project(tmp_path, index):
    """A folder with the Makefile, a lock of tiny wheels, and a package; beside it the index that has the wheels."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    build = f"import zipfile\nfrom pathlib import Path\n\n\n{inspect.getsource(wheel)}\n\n"
    build += "def build_editable(folder, *_):\n    return wheel(Path(folder), 'unioncam', '0').name\n"
    (folder / "backend.py").write_text(build)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    for name in CPU.keys() & {"torch", "torchvision"}:
        published(tmp_path / "index/cpu", name, CPU[name])
    lock = ""
    for name, version in sorted(CUDA.items() - {("unioncam", "0")}):
        digest = hashlib.sha256(published(tmp_path / "index/pypi", name, version).read_bytes()).hexdigest()
        lock += f"{name}=={version} ; sys_platform == 'linux' \\\n    --hash=sha256:{digest} \\\n"
        lock += f"    --hash=sha256:{'0' * 64}\n    # via torch\n"
    (folder / "requirements.lock").write_text(lock)
    return folder


def published(index, name, version):
    (index / name).mkdir(parents=True)
    return wheel(index / name, name, version)


def set_up(project, index, *arguments, programs=("uv",), cpu_index=None):
    """Run `make .venv/ready` beside some programs alone; return its exit status, its output and the seconds.

    The new environment uses the pip of this one, since installing pip takes seconds.
    """
    found = project.parent / "bin"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    for tool in TOOLS:
        (found / tool).symlink_to(shutil.which(tool))
    for program in programs:
        own = Path(sys.executable).with_name(program)
        (found / program).symlink_to(own if own.exists() else shutil.which(program) or "/bin/true")
    python = found / "python"
    python.write_text(
        f'#!/bin/sh\ntest "$1 $2" != "-m venv" || set -- "$@" --without-pip\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    (found / "modules").mkdir()
    (found / "modules/pip").symlink_to(Path(pytest.importorskip("pip").__file__).parent)
    settings = {
        "PATH": str(found),
        "HOME": str(project.parent),
        "PYTHONPATH": str(found / "modules"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_INDEX_URL": f"{index}/pypi",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(project.parent / "cache"),
        "UV_INDEX_URL": f"{index}/pypi",
    }
    command = [
        shutil.which("make"),
        ".venv/ready",
        f"PYTHON={python}",
        f"TORCH_CPU_INDEX={cpu_index or f'{index}/cpu'}",
    ]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *arguments], cwd=project, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout, time.perf_counter() - start


def installed(project):
    (folder,) = (project / ".venv/lib").glob("python*/site-packages")
    return {each.name: each.version for each in distributions(path=[str(folder)])}


@pytest.mark.slow
@without_driver
def test_without_a_driver_torch_comes_without_cuda(project, index):
    status, printed, _ = set_up(project, index)
    assert (status, installed(project)) == (0, CPU), printed
    assert re.fullmatch(r"Setting up \.venv.* without CUDA, because no NVIDIA driver was found.*\n", printed)

    # The environment keeps its build, until the other one is asked for.
    time.sleep(0.1)  # the clock of the files is coarse
    (project / "pyproject.toml").touch()
    status, printed, _ = set_up(project, index, cpu_index=UNREACHABLE)
    assert (status, installed(project)) == (0, CPU), printed
    assert "without CUDA, because it was so before" in printed
    assert set_up(project, index, cpu_index=UNREACHABLE)[1] == "make: '.venv/ready' is up to date.\n"
    status, printed, _ = set_up(project, index, "TORCH=cuda")
    assert (status, installed(project)) == (0, CUDA), printed
    assert "with CUDA, because TORCH is cuda" in printed


@pytest.mark.slow
def test_with_a_driver_everything_comes_from_the_lock(project, index):
    status, printed, _ = set_up(project, index, programs=("uv", "nvidia-smi"))
    assert (status, installed(project)) == (0, CUDA), printed
    assert re.fullmatch(r"Setting up \.venv.* with CUDA, because an NVIDIA driver was found.*\n", printed)


@pytest.mark.slow
@without_driver
def test_an_index_that_does_not_answer_costs_seconds(project, index):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        status, printed, seconds = set_up(project, index, cpu_index=address)
    assert (status, installed(project)) == (0, CUDA), printed
    assert re.fullmatch(rf"Setting up \.venv.* with CUDA, because {address} does not answer.*\n", printed)
    assert 4 < seconds < 15


@pytest.mark.slow
@without_driver
def test_a_build_that_is_missing_from_the_index_is_replaced_unless_it_was_asked_for(project, index):
    shutil.rmtree(project.parent / "index/cpu/torchvision")
    status, printed, _ = set_up(project, index, "TORCH=cpu")
    assert status == 2
    assert "could not be installed: TORCH=cuda installs it with CUDA." in printed
    assert (project / ".venv/torch").read_text() == "cpu\n"  # what was asked for holds until something else is

    shutil.rmtree(project / ".venv")
    status, printed, _ = set_up(project, index)
    assert (status, installed(project)) == (0, CUDA), printed
    assert "could not be installed: it comes with CUDA instead." in printed


@pytest.mark.slow
def test_pip_installs_where_uv_is_missing(project, index):
    status, printed, _ = set_up(project, index, "TORCH=cpu", programs=())
    assert (status, installed(project)) == (0, CPU), printed
    assert "pip does" in printed


@pytest.mark.slow
def test_a_package_with_another_hash_is_refused(project, index):
    with zipfile.ZipFile(project.parent / "index/pypi/plain/plain-1.0-py3-none-any.whl", "a") as file:
        file.writestr("plain.py", "")
    status, printed, _ = set_up(project, index, "TORCH=cpu")
    assert status == 2
    assert "Hash mismatch for `plain==1.0`" in printed
    assert "Expected sha256" in printed  # by pip
    assert "plain" not in installed(project)


def test_another_build_is_refused(project, index):
    status, printed, _ = set_up(project, index, "TORCH=gpu")
    assert status == 2
    assert printed.startswith("TORCH is gpu, but can only be cpu or cuda.\n")
    assert not (project / ".venv").exists()


def test_only_what_pytorch_needs_for_cuda_is_left_out():
    """The packages of the lock that are for Linux and for PyTorch alone, or for those that are."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"^NOT_FOR_CPU = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    entries = re.split(r"\n(?=[\w-]+==)", lock)[1:]
    needed_by = {
        entry.partition("==")[0]: set(re.findall(r"^ +# +(?:via )?([\w-]+)", entry, re.M)) - {"via"}
        for entry in entries
    }
    left_out = {entry.partition("==")[0] for entry in entries if re.match(pattern, entry)}
    for_cuda = {"torch"}
    while (
        more := {
            entry.partition("==")[0]
            for entry in entries
            if "sys_platform == 'linux'" in entry.partition("\n")[0] and needed_by[entry.partition("==")[0]] <= for_cuda
        }
        - for_cuda
    ):
        for_cuda |= more
    assert left_out == for_cuda | {"torchvision"}
    assert len(left_out) > 15
