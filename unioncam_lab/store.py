"""The folder of a run, which keeps everything that was computed, even if the run is stopped.

    Run, load          the records that a run has computed so far
    opened, Folder     the folder while a run works in it, one run at a time
    Journal, write     files that are written whole or not at all
    RECORDS            the folder of the records that come with the project

`run.json` holds all options, versions and checksums. `journal.jsonl` holds a line for each picture until the run is
finished; when it has PART lines, these pictures move into a part, `records-00000.parquet` and so on. At the end
`records.parquet` holds a row for each picture and method, and the journal and the parts are deleted. The column `start`
of a row is the position, from 0, of the entry in run.json's `started` that describes the machine and the code of the
computation.

This module does not depend on the metrics. A column whose name ends in `_curve` or `_rho` holds arrays, and a column
whose name begins with `beta_` holds floats. Parquet keeps every value exactly: the curves have single precision, as
the network's probabilities, and all other numbers double precision.
"""

import errno
import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from unioncam_lab import DATA

RECORDS = DATA / "records"
PART = 1000  # pictures of the journal that move into a part: with curves it has some 10 MB, which are read in a second
PARTS = f"records-{5 * '[0-9]'}.parquet"  # pattern of the parts' names
PICTURES = b"pictures"  # key in a part's metadata: id of each picture -> the reason why it was skipped, or null


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
    if "finished" not in info:
        try:
            table, skipped = _gather(out)
        except FileNotFoundError:  # the run has ended in the meantime, and its parts are gone
            return load(out)
        info = _read_info(out) or info
    if "finished" not in info:
        return Run(table.to_pandas(), info | {"skipped": skipped})
    return Run(pd.read_parquet(out / "records.parquet"), info)


def load_finished(out: str | Path) -> Run | None:
    """Load the run in a folder; None if there is none, it is not finished, or all its pictures were skipped."""
    made = load(out) if (Path(out) / "run.json").exists() else None
    return made if made and "finished" in made.info and len(made.records) else None


class Journal:
    """A file with one line for each picture. Each line is written whole or not at all.

    Attributes:
        path: path of the file, which does not exist while the journal is empty.
        whole: bytes of the whole lines; a process that is killed can leave a partial line.
        lines: number of the whole lines.
    """

    def __init__(self, path: Path, repair: bool = True):
        self.path = path
        content = self._content()
        self.whole, self.lines = len(content), content.count(b"\n")
        if repair and path.exists() and self.whole < path.stat().st_size:
            os.truncate(path, self.whole)

    def _content(self) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]

    def entries(self) -> Iterator[dict]:
        """Return the entries that the file has at the time of this call."""
        return map(json.loads, io.BytesIO(self._content()))

    def append(self, entry: dict):
        line = json.dumps(entry).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, self.whole)
            explain_full_disk(error, _kept(self.path.parent))
        self.whole, self.lines = self.whole + len(line), self.lines + 1

    def clear(self):
        self.path.unlink(missing_ok=True)
        self.whole = self.lines = 0


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
        """Return the ids of the pictures that are computed or skipped."""
        return {entry["image"] for entry in self._journal.entries()}.union(*map(_pictures, _parts(self.path)))

    def append(self, entry: dict):
        """Keep a picture's entry, as `experiment.explain_picture` returns it."""
        start = self._position(entry["start"])
        line = {name: value for name, value in entry.items() if name != "start"}
        if "rows" in line:
            line["rows"] = [row | {"start": start} for row in line["rows"]]
        self._journal.append(line)
        if self._journal.lines >= PART:
            self._compact()

    def _compact(self):
        """Move the journal's pictures into parts.

        If this is stopped after a part is written, the journal still has the part's pictures. Whoever reads both leaves
        these lines out, so nothing is there twice.
        """
        parts = _parts(self.path)
        known: set[str] = set().union(*map(_pictures, parts))
        free = int(parts[-1].stem.removeprefix("records-")) + 1 if parts else 0
        for i, table in enumerate(_tables(self._journal.entries(), known), free):
            write(self.path / f"records-{i:05}.parquet", _parquet(table))
        self._journal.clear()

    def _position(self, start: dict) -> int:
        """Return the position of an entry in `started`; add it if it is new. An entry with another date is not new."""
        for i, known in enumerate(self.info["started"]):
            if {**known, "date": None} == {**start, "date": None}:
                return i
        self.info["started"].append(start)
        self._write_info()
        return len(self.info["started"]) - 1

    def finish(self, order: Sequence[str]) -> Run:
        """Write the records, in the given order of the pictures' ids, and delete the journal and the parts."""
        table, skipped = _gather(self.path, order)
        write(self.path / "records.parquet", _parquet(table))
        self.info |= {"finished": datetime.now(UTC).date().isoformat(), "skipped": skipped}
        self._write_info()
        self.tidy()
        return Run(table.to_pandas(), self.info)

    def tidy(self):
        """Delete what a finished run does not need."""
        self._journal.clear()
        for path in self.path.glob(f"{PARTS}*"):
            path.unlink()

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
            folder = Folder(path, known or info)
            if "finished" in folder.info:
                folder.tidy()  # the run was killed between its end and this
            yield folder
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
        explain_full_disk(error, _kept(path.parent))


def explain_full_disk(error: OSError, sentence: str) -> NoReturn:
    """Raise the error again, with the sentence if the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(error.errno, sentence) from error
    raise error


def _kept(out: Path) -> str:
    return f"The disk is full. What was computed is kept in {out}: free some space, and run it again"


def _parts(out: Path) -> list[Path]:
    return sorted(out.glob(PARTS))


def _pictures(part: Path) -> dict[str, str | None]:
    """Return the pictures of a part: id -> the reason why it was skipped, or None. Only the file's end is read."""
    return _pictures_of(_readable(part, pq.read_schema))


def _pictures_of(schema: pa.Schema) -> dict[str, str | None]:
    return json.loads(schema.metadata[PICTURES])


def _readable(part: Path, read: Callable[[BinaryIO], Any]) -> Any:
    """Read a part with one of pyarrow's functions.

    Raises:
        ValueError: a sentence, if the part is damaged.
    """
    with part.open("rb") as file:
        try:
            return read(file)
        except (pa.ArrowInvalid, OSError) as error:
            if getattr(error, "errno", None):  # the disk does not answer
                raise
            sentence = f"{part} is damaged: delete it and run again, and its pictures are computed again."
            raise ValueError(sentence) from error


def _gather(out: Path, order: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, str]]:
    """Return the records of an unfinished run and the reason for each skipped picture.

    They are in the given order of the pictures' ids, or as they were computed. The journal may be at work: its pictures
    move into parts and never back, so that it is read before them.
    """
    entries = Journal(out / "journal.jsonl", repair=False).entries()
    tables = [_readable(part, pq.read_table) for part in _parts(out)]
    known: set[str] = set().union(*(_pictures_of(table.schema) for table in tables))
    tables += _tables(entries, known)
    tables = tables or [_table([])]
    pictures: dict[str, str | None] = {}
    for table in tables:
        pictures |= _pictures_of(table.schema)
    # A column that is null in a whole part has no type there, and one part can lack a column that another one has.
    table = pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="permissive")
    if order is not None:
        position = {name: i for i, name in enumerate(order)}
        pictures = {name: pictures[name] for name in sorted(pictures, key=position.__getitem__)}
        if table.num_rows:
            table = table.take(np.argsort([position[name] for name in table["image"].to_pylist()], kind="stable"))
    return table, {name: reason for name, reason in pictures.items() if reason is not None}


def _tables(entries: Iterator[dict], known: set[str]) -> Iterator[pa.Table]:
    """Turn a journal's entries into tables of up to PART pictures, without the pictures that are known."""
    fresh = (entry for entry in entries if entry["image"] not in known)
    while batch := list(islice(fresh, PART)):
        yield _table(batch)


def _table(entries: Sequence[dict]) -> pa.Table:
    """Return the rows of some entries, with their PICTURES."""
    records = pd.DataFrame([row for entry in entries for row in entry.get("rows", [])])
    for name in records.columns:
        if name.endswith(("_curve", "_rho")):
            records[name] = [np.array(curve, dtype=np.float32) for curve in records[name]]
        elif name.startswith("beta_"):
            records[name] = records[name].astype(float)
    pictures = {entry["image"]: entry.get("skipped") for entry in entries}
    table = pa.Table.from_pandas(records, preserve_index=False)
    return table.replace_schema_metadata({PICTURES: json.dumps(pictures)})


def _parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file.

    The bytes of its floats are stored apart, all first bytes, then all second ones. So the signs and exponents, which
    are alike, compress well, and a curve takes three quarters of the room.
    """
    split = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    lists = [field for field in table.schema if pa.types.is_list(field.type)]
    split += [f"{field.name}.list.element" for field in lists if pa.types.is_floating(field.type.value_type)]
    others = [name for name in table.column_names if name not in split]
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=others, use_byte_stream_split=split)
    return file.getvalue()


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
