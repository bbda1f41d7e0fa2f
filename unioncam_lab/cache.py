"""What was computed once, kept on disk for every program of this user: masked passes, compiled backends, batch sizes.

    key      a name for a result: the hash of everything that the result depends on
    load     the kept result of that name, or None
    save     keep a result

Each result is one file in one folder, at most LIMIT bytes in all; what was not used for longest is deleted first.
The environment variable UNIONCAM_CACHE names another folder, and `UNIONCAM_CACHE=off` switches the cache off.
Several programs can use it at once, and one that is killed leaves no partial result.
"""

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

log = logging.getLogger(__name__)
LIMIT = 500 * 10**6  # bytes
LARGEST = LIMIT // 4  # bytes of one result; a larger one is not kept, because it would replace too many others
KEPT, PARTIAL = ".unioncam", ".unioncam-part"  # no other files in the folder are touched
ABANDONED = 3600  # seconds after which a partial file belongs to a program that was killed


def folder() -> Path | None:
    """Return the folder of the cache, which need not exist; None if the cache is off."""
    chosen = os.environ.get("UNIONCAM_CACHE") or platformdirs.user_cache_dir("unioncam", False)
    return None if chosen == "off" else Path(chosen).expanduser()


def key(*parts) -> str:
    """Return a SHA-256 of tensors (their types, shapes and contents) and of other values, of which `repr` says all."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            name, content = (
                f"{part.dtype} {tuple(part.shape)}",
                part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(),
            )
        else:
            name, content = type(part).__name__, np.frombuffer(repr(part).encode(), np.uint8)
        digest.update(f"{name} {content.nbytes} ".encode())
        digest.update(content.data)
    return digest.hexdigest()


def load(name: str) -> bytes | None:
    """Return the kept result of this name. None: there is none, its file is damaged, or the cache is off."""
    if (where := folder()) is None:
        return None
    path = where / (name + KEPT)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a folder that this user may only read
        os.utime(path)
    check, result = content[:32], content[32:]
    return result if hashlib.sha256(result).digest() == check else None


def save(name: str, result: bytes):
    """Keep a result. Without a folder to write to, or space on the disk, it warns once and keeps nothing."""
    if (where := folder()) is None or len(result) > LARGEST:
        return
    partial = None
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=where, suffix=PARTIAL, delete=False) as file:
            partial = Path(file.name)
            file.write(hashlib.sha256(result).digest() + result)
        partial.replace(where / (name + KEPT))
        _delete_oldest(where)
    except OSError as error:
        if partial:
            partial.unlink(missing_ok=True)
        _warn_once(f"Nothing is kept in the cache {where}: {error.strerror or error}.")


def _delete_oldest(where: Path):
    """Delete the results that were not used for longest, down to LIMIT bytes, and partial files of killed programs."""
    results = []
    for entry in os.scandir(where):
        with contextlib.suppress(FileNotFoundError):  # another program has just deleted it
            used, size = entry.stat().st_mtime, entry.stat().st_size
            if entry.name.endswith(KEPT):
                results.append((used, size, entry.path))
            elif entry.name.endswith(PARTIAL) and time.time() - used > ABANDONED:
                Path(entry.path).unlink(missing_ok=True)
    total = sum(size for _, size, _ in results)
    for _, size, path in sorted(results):
        if total <= LIMIT:
            break
        Path(path).unlink(missing_ok=True)
        total -= size


@functools.cache
def _warn_once(sentence: str):
    log.warning(sentence)
