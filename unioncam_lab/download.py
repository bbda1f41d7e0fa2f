"""Downloads of data sets that anyone may have, which go on where they were cut off, and are checked.

The archive is kept as it is: `datasets.pictures` reads it without unpacking it.
"""

import errno
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import check_md5
from torchvision.datasets.voc import DATASET_YEAR_DICT
from tqdm.auto import tqdm

from unioncam_lab import progress_disabled
from unioncam_lab.archives import kind
from unioncam_lab.store import explain_full_disk

PIECE = 2**18  # bytes that are read and written at a time
PATIENCE = 60  # seconds without a byte after which a connection counts as cut off
HAND_OUT = "ILSVRC2012 is handed out to those who register: get ILSVRC2012_img_val.tar from https://image-net.org."


@dataclass(frozen=True)
class Archive:
    """An archive on a server: its address, its name, and the MD5 of its content."""

    url: str
    filename: str
    md5: str


def archive(name: str) -> Archive:
    """Return the archive of a data set.

    Raises:
        ValueError: the data set cannot be downloaded.
    """
    if name != "voc2007":
        reason = f" {HAND_OUT}" if name == "ilsvrc2012" else ""
        raise ValueError(f"{name} cannot be downloaded; voc2007 can.{reason}")
    known = DATASET_YEAR_DICT["2007-test"]
    return Archive(known["url"], known["filename"], known["md5"])


def download(wanted: Archive, folder: str | Path) -> Path:
    """Download an archive into a folder, which is made if it does not exist, and return its path.

    What has arrived is in NAME.part, where the next download goes on. The file gets its own name when it is whole and
    its checksum is right.

    Raises:
        ValueError: the server gives something else, or a file of that name is there with another content.
        OSError: the server cannot be reached, the connection was cut off, the folder cannot be written, or the disk is
            full. What has arrived is kept.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / wanted.filename, folder / f"{wanted.filename}.part"
    if path.exists():
        if not check_md5(path, wanted.md5):
            raise ValueError(f"{path} is there, but its checksum is not that of {wanted.url}: remove it.")
        return path
    arrived = -1
    while not _fetch(wanted.url, part):  # as long as each connection brings something
        before, arrived = arrived, part.stat().st_size
        if arrived <= before:
            raise OSError(
                f"The connection to {wanted.url} was cut off; {_megabytes(arrived)} of it are kept in {part}: run the "
                "same command again, and it goes on from there."
            )
    if not check_md5(part, wanted.md5):
        with part.open("rb") as file:
            what = kind(file.read(512))
        part.unlink()
        raise ValueError(
            f"What {wanted.url} gave is not the archive{': ' + what if what else ''}. Its checksum is not "
            f"{wanted.md5}, so it was deleted; run the same command again."
        )
    part.replace(path)
    return path


def _fetch(url: str, part: Path) -> bool:
    """Append what is missing to the partial file; return whether it is whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "unioncam", "Range": f"bytes={have}-"})
    with _explained(url, part):
        try:
            response = urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return True  # nothing is missing; whether it is the right file, the checksum says
            raise
        with response:
            if response.headers.get_content_type() == "text/html":
                raise ValueError(f"{url} gives a web page instead of the archive: try again later, or elsewhere.")
            have = have if response.status == http.client.PARTIAL_CONTENT else 0  # a server may ignore the range
            length = response.length
            if length is not None and length > shutil.disk_usage(part.parent).free:
                raise OSError(errno.ENOSPC, "No space left on device")
            return _append(response, part, have, length)


def _append(response: http.client.HTTPResponse, part: Path, have: int, length: int | None) -> bool:
    total = None if length is None else have + length
    with (
        part.open("r+b" if part.exists() else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=progress_disabled()) as bar,
    ):
        file.truncate(have)
        file.seek(have)
        for piece in _pieces(response):
            file.write(piece)
            bar.update(len(piece))
    return total is None or part.stat().st_size == total


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives until the end, or until the connection is cut off."""
    try:
        while piece := response.read1(PIECE):
            yield piece
    except (http.client.HTTPException, OSError):
        return


@contextmanager
def _explained(url: str, part: Path):
    """Say in one sentence why a download failed."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} cannot be had: the server answers {error.code} {error.reason}.") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or reason
        raise OSError(
            f"{url} cannot be reached: {why}. Check the connection, or download it elsewhere and put it into "
            f"{part.parent}."
        ) from error
    except OSError as error:
        explain_full_disk(error, f"The disk of {part.parent} is full. Free some space, and run the same command again")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
