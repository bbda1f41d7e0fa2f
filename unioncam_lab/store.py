"""The folder of a run, which keeps everything that was computed, even if the run is stopped.

    Run, load          the records that a run has computed so far
    opened, Folder     the folder while a run works in it, one run at a time
    Journal, write     files that are written whole or not at all
    RECORDS            the folder of the records that come with the project

`run.json` holds all options, versions and checksums. `journal.jsonl` holds a line for each picture until the run is
finished. Then `records.parquet` holds a row for each picture and method. The column `start` of a row is the position,
from 0, of the entry in run.json's `started` that describes the machine and the code of the computation.

This module does not depend on the metrics. A column whose name ends in `_curve` or `_rho` holds arrays, and a column
whose name begins with `beta_` holds floats.
"""

import errno
import io
import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from unioncam_lab import DATA

RECORDS = DATA / "records"


@dataclass(frozen=True, eq=False)
class Run:
    """The records of a run and its run.json.

    Attributes:
        records: a row for each picture and method; see `experiment.run`.
        info: the content of run.json.
    """

    records: pd.DataFrame
    info: dict


def load(out: str | Path) -> Run:
    """Load what the run in a folder has computed so far.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    out = Path(out)
    info = _read_info(out)
    if info is None:
        raise FileNotFoundError(f"The folder {out} holds no run: there is no {out / 'run.json'}.")
    if "finished" in info:
        return Run(pd.read_parquet(out / "records.parquet"), info)
    records, skipped = _collect(Journal(out / "journal.jsonl", repair=False).entries())
    return Run(records, info | {"skipped": skipped})


class Journal:
    """A file with one line for each picture. Each line is written whole or not at all."""

    def __init__(self, path: Path, repair: bool = True):
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        self.whole = content.rfind(b"\n") + 1  # bytes of whole lines; a process that is killed can leave a partial line
        if repair and self.whole < len(content):
            os.truncate(path, self.whole)

    def entries(self) -> Iterator[dict]:
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from map(json.loads, file.read(self.whole).splitlines())

    def append(self, entry: dict):
        line = json.dumps(entry).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, self.whole)
            _explain_full_disk(error, self.path.parent)
        self.whole += len(line)


class Folder:
    """The folder of a run while a run works in it. `opened` makes it.

    Attributes:
        path: path of the folder.
        info: the content of run.json; a new run writes it when its first picture is computed.
    """

    def __init__(self, path: Path, info: dict):
        self.path, self.info = path, info
        self._journal = Journal(path / "journal.jsonl")

    @property
    def started(self) -> dict | None:
        """The last entry of `started`; None if the run is new."""
        return self.info["started"][-1] if self.info["started"] else None

    def done(self) -> set[str]:
        """Return the ids of the pictures that are in the journal."""
        return {entry["image"] for entry in self._journal.entries()}

    def append(self, entry: dict):
        """Append a picture's entry, as `experiment.explain_picture` returns it, to the journal."""
        start = self._position(entry["start"])
        line = {name: value for name, value in entry.items() if name != "start"}
        if "rows" in line:
            line["rows"] = [row | {"start": start} for row in line["rows"]]
        self._journal.append(line)

    def _position(self, start: dict) -> int:
        """Return the position of an entry in `started`; add it if it is new. An entry with another date is not new."""
        for i, known in enumerate(self.info["started"]):
            if {**known, "date": None} == {**start, "date": None}:
                return i
        self.info["started"].append(start)
        self._write_info()
        return len(self.info["started"]) - 1

    def finish(self, order: Sequence[str]) -> Run:
        """Write the records, in the given order of the pictures' ids, and delete the journal."""
        records, skipped = _collect(self._journal.entries(), order)
        self.info |= {"finished": datetime.now(UTC).date().isoformat(), "skipped": skipped}
        parquet = io.BytesIO()
        records.to_parquet(parquet, index=False, compression="zstd")
        write(self.path / "records.parquet", parquet.getvalue())
        self._write_info()
        self._journal.path.unlink(missing_ok=True)
        return Run(records, self.info)

    def _write_info(self):
        write(self.path / "run.json", json.dumps(self.info, indent=1).encode())


@contextmanager
def opened(path: Path, info: dict) -> Generator[Folder, None, None]:
    """Open the folder of a run and lock it, so that one run at a time works in it. Make it if it does not exist.

    If the folder holds a run already, this run continues with its own run.json, and its options must be the same.

    Args:
        path: path of the folder.
        info: the content of run.json if the run is new.

    Raises:
        ValueError: the folder holds a run with other options.
        RuntimeError: another run works in the folder.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path / ".lock", timeout=0):
            known = _read_info(path)
            if known is not None:
                _check_same(known["options"], info["options"], path)
            yield Folder(path, known or info)
    except Timeout:
        raise RuntimeError(f"Another run is at work in {path}.") from None


def write(path: Path, content: bytes):
    """Write a file whole or not at all. It replaces the old file."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        _explain_full_disk(error, path.parent)


def _explain_full_disk(error: OSError, out: Path) -> NoReturn:
    """Raise the error again, with a sentence if the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(
            error.errno, f"The disk is full. What was computed is kept in {out}: free some space, and run it again"
        ) from error
    raise error


def _collect(entries: Iterable[dict], order: Sequence[str] | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the records in the order of the pictures and methods, and the reason for each skipped picture."""
    entries = list(entries)
    if order is not None:
        position = {name: i for i, name in enumerate(order)}
        entries.sort(key=lambda entry: position[entry["image"]])
    records = pd.DataFrame([row for entry in entries for row in entry.get("rows", [])])
    for name in records.columns:
        if name.endswith(("_curve", "_rho")):
            records[name] = [np.array(curve, dtype=np.float32) for curve in records[name]]
        elif name.startswith("beta_"):
            records[name] = records[name].astype(float)
    return records, {entry["image"]: entry["skipped"] for entry in entries if "skipped" in entry}


def _read_info(out: Path) -> dict | None:
    path = out / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _check_same(known: dict, requested: dict, out: Path):
    """Raise a ValueError if an option of the run in the folder differs from the requested one."""
    flat = [{**options, **options["protocol"]} for options in (known, requested)]
    for name in flat[0] | flat[1]:
        before, now = flat[0].get(name), flat[1].get(name)
        if name != "protocol" and before != now:
            raise ValueError(
                f"{out} holds a run whose {name} is {before}, not {now}: take another folder, or the same options."
            )
