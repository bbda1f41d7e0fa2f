"""Files of a data set where they lie: in folders, or inside a tar archive that is never unpacked.

files           the files in a folder and below it, or in a tar archive: name -> Path or Member
Member          a file in a tar archive; it is small, can be pickled, and holds no open file
devkit_labels   the classes of ILSVRC2012's validation pictures, from its development kit
printable       a path as text that can be printed and written, whatever its bytes are
kind            what a file without a picture or an archive is, from its first bytes
"""

import io
import json
import logging
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unioncam_lab import cache

log = logging.getLogger(__name__)  # each warning is one line on stderr

BLOCK = tarfile.BLOCKSIZE  # bytes; each file in a tar archive begins at a multiple of it
LONGEST_END = 2**20  # bytes; `tar` fills an archive's last record with zeros, usually up to 10 KiB
BEGINNINGS = {
    b"\x1f\x8b": "it is compressed by gzip",
    b"BZh": "it is compressed by bzip2",
    b"\xfd7zXZ": "it is compressed by xz",
    b"PK\x03\x04": "it is a ZIP archive",
    b"%PDF": "it is a PDF",
    b"version https://git-lfs": "it is a pointer of Git LFS",
}


def printable(path: str | Path) -> str:
    """Return a path as text. Bytes in it that are not UTF-8 become \\xe9, so that it can be printed and written."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def kind(beginning: bytes) -> str | None:
    """Return what a file is that is neither a picture nor an archive, in words; None if its first bytes do not say."""
    if not beginning.strip(b"\0"):
        return "it holds only zeros" if beginning else "it is empty"
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<!doctype html") or b"<html" in text:
        return "it is a web page"
    return next((what for start, what in BEGINNINGS.items() if beginning.startswith(start)), None)


@dataclass(frozen=True)
class Member:
    """A file in a tar archive.

    Attributes:
        archive: path of the archive.
        name: name of the file in the archive.
        offset: number of bytes in the archive before its content.
        size: its size in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{printable(self.name)} in {printable(self.archive)}"

    def read_bytes(self) -> bytes:
        """Return the content. The archive is opened anew, so that threads and processes never share a position.

        Raises:
            OSError: the archive cannot be read.
            ValueError: the archive ends before the file does.
        """
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"the archive ends after {len(content)} of its {self.size} bytes")
        return content


def opened(file: str | Path | Member) -> str | Path | io.BytesIO:
    """Return what a reader such as `PIL.Image.open` takes: the path of a file, or the content of a Member."""
    return io.BytesIO(file.read_bytes()) if isinstance(file, Member) else file


def files(root: Path) -> Mapping[str, Path | Member]:
    """Return the files in a folder and below it, or in a tar archive, in no particular order: name -> file.

    A name is the path inside the folder or archive, with slashes. Links to folders are not followed. One warning says
    which folders below cannot be read, or that an archive is short or damaged; the other files are returned.

    Raises:
        OSError: the folder or the archive cannot be read.
        ValueError: the file is not an uncompressed tar archive.
    """
    return _below(root) if root.is_dir() else _inside(root)


def _below(root: Path) -> dict[str, Path]:
    unreadable: list[OSError] = []
    paths = [Path(folder, name) for folder, _, names in os.walk(root, onerror=unreadable.append) for name in names]
    for error in unreadable:
        sentence = f"The folder {printable(error.filename)} cannot be read: {error.strerror}"
        if Path(error.filename) == root:
            raise OSError(f"{sentence}.")
        log.warning("%s; its pictures are left out.", sentence)
    return {path.relative_to(root).as_posix(): path for path in paths}


def _inside(archive: Path) -> dict[str, Member]:
    """Read the index of an archive, or make it; it is kept in the cache for the next time."""
    archive = archive.absolute()
    state = archive.stat()
    key = cache.key("tar index 1", os.fspath(archive), state.st_size, state.st_mtime_ns)
    kept = cache.load(key)
    if kept is None:
        kept = json.dumps(_index(archive)).encode()
        cache.save(key, kept)
    index = json.loads(kept)
    if index["problem"]:
        log.warning("The archive %s %s", printable(archive), index["problem"])
    return {name.removeprefix("./"): Member(archive, name, offset, size) for name, offset, size in index["members"]}


def _index(archive: Path) -> dict:
    """Return `members`, a list of (name, offset, size), and `problem`: what is wrong with the archive, or None."""
    members, end = [], 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.isreg() and not member.issparse():
                    members.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if not end:
            with archive.open("rb") as file:
                reason = kind(file.read(BLOCK)) or str(error)
            raise ValueError(f"{printable(archive)} is not a tar archive: {reason}.") from error
    return {"members": members, "problem": _problem(archive, members, end)}


def _problem(archive: Path, members: list[tuple[str, int, int]], end: int) -> str | None:
    """Return what is wrong with an archive; None if it ends as one does, with zeros after the last file."""
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(end)
        rest = file.read(LONGEST_END + 1)
    if BLOCK <= len(rest) <= LONGEST_END and not rest.strip(b"\0"):
        return None
    cut = [name for name, offset, length in members if offset + length > size]
    lost = f", and {printable(cut[0])} is cut" if cut else ""
    return f"is short or damaged: {len(members)} files of it are found{lost}. Get it again to have all of them."


def devkit_labels(devkit: Path) -> dict[int, str]:
    """Return the WordNet ids of ILSVRC2012's validation pictures, by the number in a picture's name.

    Args:
        devkit: path of ILSVRC2012_devkit_t12.tar.gz.

    Raises:
        ValueError: the file is not the development kit, or is damaged.
    """
    from scipy.io import loadmat  # it is needed for this only

    try:
        with tarfile.open(devkit, "r:gz") as tar:
            found = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
            meta = loadmat(found["meta.mat"], squeeze_me=True, struct_as_record=False)
            # A synset with children is no class of a network, but stands for the classes below it.
            classes = {int(each.ILSVRC2012_ID): each.WNID for each in meta["synsets"] if int(each.num_children) == 0}
            truth = [int(line) for line in found["ILSVRC2012_validation_ground_truth.txt"].read().split()]
        return {number: classes[each] for number, each in enumerate(truth, 1)}
    except Exception as error:  # the readers of archives and of MATLAB's files raise many kinds
        reason = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"The development kit {printable(devkit)} cannot be used: {reason}.") from error
