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
DRIVER = Path("/proc/driver/nvidia/version")
TOOLS = ("sh", "cat", "echo", "grep", "sed", "test", "timeout", "touch", "uname")
CPU = {"torch": "2.0+cpu", "torchvision": "0.2+cpu", "plain": "1.0", "unioncam": "0"}
CUDA = {"torch": "2.0", "torchvision": "0.2", "plain": "1.0", "unioncam": "0", "nvidia-cudnn-cu13": "9.0"} | {
    name: "3.0" for name in ("triton", "cuda-bindings")
}
UNREACHABLE = "http://127.0.0.1:9/cpu"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyPI has PyTorch with CUDA for Linux alone")


def wheel(folder, name, version):
    """Write a wheel without code into a folder, and return its path."""
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    described = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{described}/RECORD", "".join(f"{described}/{each},,\n" for each in ("METADATA", "WHEEL", "RECORD")))
    return path


@pytest.fixture
def index(tmp_path):
    """The address of an index for pip and uv: its folder `pypi` has what the lock names, `cpu` has PyTorch's own builds."""
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


def set_up(project, index, *arguments, programs=("uv",), cpu_index=None, pip=False):
    """Run `make .venv/ready` where only some programs are installed; return its exit status, its output and the seconds.

    Without `pip`, the new environment does not get pip, which takes seconds and which uv does not need.
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
    python.write_text(f'#!/bin/sh\ntest "$1 $2" != "-m venv" || set -- "$@" {"" if pip else "--without-pip"}\n')
    python.write_text(python.read_text() + f'exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    settings = {
        "PATH": str(found),
        "HOME": str(project.parent),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_INDEX_URL": f"{index}/pypi",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(project.parent / "cache"),
        "UV_INDEX_URL": f"{index}/pypi",
    }
    command = [shutil.which("make"), ".venv/ready", f"PYTHON={python}", f"TORCH_CPU_INDEX={cpu_index or f'{index}/cpu'}"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *arguments], cwd=project, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout, time.perf_counter() - start


def installed(project):
    (folder,) = (project / ".venv/lib").glob("python*/site-packages")
    return {each.name: each.version for each in distributions(path=[str(folder)]) if each.name not in ("pip", "setuptools")}


@pytest.mark.skipif(DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_torch_comes_without_cuda(project, index):
    status, printed, _ = set_up(project, index)
    assert (status, installed(project)) == (0, CPU), printed
    assert re.fullmatch(r"Setting up \.venv.* without CUDA, because no NVIDIA driver was found.*\n", printed)

    # The environment keeps its build, until the other one is asked for.
    (project / "pyproject.toml").touch()
    status, printed, _ = set_up(project, index, cpu_index=UNREACHABLE)
    assert (status, installed(project)) == (0, CPU), printed
    assert set_up(project, index, cpu_index=UNREACHABLE)[1] == "make: '.venv/ready' is up to date.\n"
    status, printed, _ = set_up(project, index, "TORCH=cuda")
    assert (status, installed(project)) == (0, CUDA), printed
    assert "with CUDA, because TORCH is cuda" in printed
