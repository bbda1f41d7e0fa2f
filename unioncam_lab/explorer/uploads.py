"""A visitor's photo: from the bytes that a browser sends to pixels, in memory alone; each bad one gets a sentence."""

import io
import re
import warnings

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unioncam_lab.images import to_tensor

LARGEST = 8 * 10**6  # bytes of a file; the browser refuses a larger one before it sends it
MOST_PIXELS = 50 * 10**6
KINDS = {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"}
HEIC = re.compile(rb"^....ftyp(heic|heix|heif|hevc|heim|heis|mif1|msf1|avif)", re.DOTALL)


def read_upload(name: str, content: bytes, size: int) -> Tensor:
    """Return the photo in an uploaded file as RGB (3, size, size), float32 in [0, 1].

    Nothing is written, and the number of pixels is read from the header before any is decoded.

    Raises:
        ValueError: the file is empty, larger than LARGEST, in a format that browsers' photos do not have, damaged, or
            has more than MOST_PIXELS pixels. The sentence says what to do.
    """
    if not content:
        raise ValueError(f"{name} is empty: choose another file.")
    if len(content) > LARGEST:
        raise ValueError(f"{name} has {len(content) / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB are accepted.")
    if HEIC.match(content):
        raise ValueError(f"{name} is a HEIC or AVIF photo, which cannot be read here: save it as JPEG or PNG first.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is lower
            photo = Image.open(io.BytesIO(content), formats=sorted(KINDS))
        pixels = photo.width * photo.height
    except Image.DecompressionBombError as error:
        pixels = int((re.search(r"\d+", str(error)) or ["0"])[0])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} is no picture that can be read here: choose a JPEG or PNG file.") from error
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"{name} has {pixels / 1e6:.0f} million pixels; at most {MOST_PIXELS / 1e6:.0f} million are accepted: "
            "make it smaller first."
        )
    try:
        with photo:
            return to_tensor(photo, size)
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name} is damaged or incomplete: copy it again, or choose another file.") from error
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
