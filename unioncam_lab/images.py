"""Pixels: photos as tensors, the demo photos, and the types of a picture and of a scene with known objects."""

import errno
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

import matplotlib.cbook
import numpy as np
import skimage.data
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from unioncam_lab.archives import Member, kind, opened, printable

Fit = Literal["square", "center-crop"]
SceneKind = Literal["one", "two of a class", "two classes"]
WHITES = {2**bits - 1 for bits in range(8, 17)}  # the values of white that a TIFF's tags can state
# What Pillow raises for broken files, besides UnidentifiedImageError.
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
BROKEN += (Image.DecompressionBombError,)
DARK = 4096  # 16 bits that stay below may be 12, or fewer


def to_tensor(photo: Image.Image, size: int = 224, fit: Fit = "square", white: float | None = None) -> Tensor:
    """A Pillow image of any mode as RGB (3, size, size), float32 in [0, 1].

    The photo is turned upright by its EXIF orientation, transparent pixels are blended with white, and 16 bits become
    8. The part of it that `visible_part` returns is then resized with antialiased bilinear interpolation.

    Args:
        photo: the image, best as `Image.open` returns it: once its pixels were read, Pillow does not tell that its
            colours had 16 bits.
        size: side of the square in pixels.
        fit: as in `visible_part`.
        white: the value of white in a grey photo of more than 8 bits, as 4095 for 12 bits. By default the one that a
            TIFF states, otherwise 65535.

    Raises:
        ValueError: `fit` is unknown; the photo has values that 8 or 16 bits cannot hold, or above white; its values
            stay below 4096 of 65535 and it does not state which one is white; `white` is given for another photo.
    """
    stated = _stated_whites(photo)
    deep = photo.format in ("PNG", "TIFF") and ";16" in str(photo.tile)
    photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):
        photo = _grey_in_8_bits(photo, white, stated)
    elif photo.mode == "F":
        raise ValueError("Its values are floating point; 8 or 16 bits are expected.")
    elif white is not None:
        raise ValueError(
            f"white is {white!r}, but only a grey photo of more than 8 bits has it; this one is {photo.mode}."
        )
    elif deep:
        _check_colours_of_16_bits(photo, stated)
    if photo.has_transparency_data:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    photo = photo.convert("RGB")
    photo = photo.resize((size, size), Image.Resampling.BILINEAR, visible_part(*photo.size, fit))
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def _stated_whites(photo: Image.Image) -> list[float]:
    """The values of white that a TIFF states: in SMaxSampleValue or MaxSampleValue, or by having 9 to 15 bits.

    The tags may also hold just the largest value of the picture, so only what a number of bits can hold counts. A PNG
    states none: its sBIT counts the bits of values that are scaled to 65535.
    """
    tags, bits = getattr(photo, "tag_v2", {}), ExifTags.Base.BitsPerSample
    stated = [*tags.get(ExifTags.Base.SMaxSampleValue, ()), *tags.get(ExifTags.Base.MaxSampleValue, ())]
    stated += [2**each - 1 for each in tags.get(bits, ()) if each < 16]
    return [white for white in stated if white in WHITES]


def _grey_in_8_bits(photo: Image.Image, white: float | None, stated: list[float]) -> Image.Image:
    values = np.asarray(photo)
    smallest, largest = values.min(), values.max()
    if white is not None and not (isinstance(white, Real) and 0 < white < np.inf):
        raise ValueError(f"white is {white!r}; it is the value of white, above 0, such as 4095.")
    if smallest < 0 or largest > (white or 65535):
        raise ValueError(f"Its values range from {smallest} to {largest}; 0 to {white or 65535} is expected.")
    white = white or next((value for value in stated if value >= largest), None)
    if white is None and 0 < largest < DARK:  # black is black whatever is white
        raise ValueError(
            f"Its largest value is {largest} of 65535, and it does not state which value is white: load it with that "
            "value, as in load_photo(path, white=4095), or save it with values up to 65535."
        )
    return Image.fromarray((values / ((white or 65535) / 255)).round().astype(np.uint8))


def _check_colours_of_16_bits(photo: Image.Image, stated: list[float]):
    """Pillow has kept the upper 8 bits of each colour, which are the colour only if white is 65535."""
    brightest = max(photo.getchannel(band).getextrema()[1] for band in photo.getbands() if band != "A")
    white = next((value for value in stated if value >= 256 * brightest), None)
    if white is None and 256 * (brightest + 1) > DARK:
        white = 65535
    if white != 65535:
        why = f"it states that {white:g} is white" if white else f"its values stay below {DARK}"
        raise ValueError(
            f"Its colours have 16 bits, of which Pillow reads the upper 8, but {why}: save it with 8 bits for each "
            "colour."
        )


def visible_part(width: int, height: int, fit: Fit) -> tuple[float, float, float, float]:
    """The part of a photo that becomes the square image: (left, top, right, bottom) in pixels of the photo.

    "square", as in the paper, keeps the whole photo and changes its proportions. "center-crop" keeps the largest
    square in the middle.
    """
    if fit == "square":
        return 0, 0, width, height
    if fit != "center-crop":
        raise ValueError(f"fit is {fit!r}; it can be {' or '.join(map(repr, get_args(Fit)))}.")
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def box_mask(
    box: tuple[float, float, float, float], width: int, height: int, size: int = 224, fit: Fit = "square"
) -> Tensor:
    """The pixels (size, size) bool of a box in a photo, where `to_tensor` puts them.

    A pixel belongs to the box if its centre lies in it.

    Args:
        box: (left, top, right, bottom) in pixels of the photo, measured from its upper left corner.
        width, height: of the photo, upright.
        size, fit: as in `to_tensor`.
    """
    left, top, right, bottom = visible_part(width, height, fit)
    odd = 2 * torch.arange(size, dtype=torch.float64) + 1  # twice the centres, so that only the division rounds
    x, y = left + odd * (right - left) / (2 * size), top + odd * (bottom - top) / (2 * size)
    return ((box[1] <= y) & (y < box[3]))[:, None] & ((box[0] <= x) & (x < box[2]))


def blur(image: Tensor) -> Tensor:
    """An image (3, H, W) blurred by a Gaussian of 51 pixels, sigma 50, so that nothing in it can be recognized.

    Group-CAM and the insertion metric show it where a mask hides the image. In an image smaller than that, the kernel
    is as wide as reflection at the edges allows.
    """
    for size, kernel in zip(image.shape[1:], ([1, 51], [51, 1]), strict=True):  # a Gaussian is separable
        kernel = [min(side, 2 * size - 1) for side in kernel]
        image = gaussian_blur(image, kernel, [50.0, 50.0])
    return image


def load_photo(path: str | Path | Member, size: int = 224, fit: Fit = "square", white: float | None = None) -> Tensor:
    """The photo in a file as RGB (3, size, size), float32 in [0, 1]; see `to_tensor`.

    Args:
        path: path of the photo, or a Member of an archive.
        size, fit, white: as in `to_tensor`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a photo, is truncated, or holds values that `to_tensor` refuses.
    """
    file = path if isinstance(path, Member) else Path(path)
    name = str(file) if isinstance(file, Member) else printable(file)
    if isinstance(file, Path):
        _check_file(file, name)
    try:
        with Image.open(opened(file)) as photo:
            return to_tensor(photo, size, fit, white)
    except UnidentifiedImageError as error:
        what = kind(file.read_bytes()[:512])
        reason = f"cannot identify image file{': ' + what if what else ''}"
        raise ValueError(f"The photo {name} cannot be used: {reason}") from error
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The photo {name} cannot be used: {reason}") from error


def _check_file(path: Path, name: str):
    """Raise a FileNotFoundError unless it is a regular file; to open a pipe would wait for its writer."""
    try:
        regular, why = stat.S_ISREG(os.stat(path).st_mode), ""
    except OSError as error:  # such as a folder that this user may not enter, or a link that leads to itself
        regular, why = False, "" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f": {error.strerror}"
    if not regular:
        raise FileNotFoundError(f"There is no photo {name}{why}.")


def photo_size(path: str | Path | Member) -> tuple[int, int]:
    """Width and height in pixels of the upright photo in a file that `load_photo` can read; its header is enough."""
    with Image.open(opened(path)) as photo:
        turned = photo.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)  # by a right angle
        return photo.size[::-1] if turned else photo.size


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo that comes with an installed package."""

    name: str
    image: Tensor  # (3, size, size), RGB in [0, 1]
    label: str | None  # the ImageNet class that it shows; None if it shows none
    source: str


def _grace_hopper() -> np.ndarray:
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file))


DEMO_PHOTOS: dict[str, tuple[Callable[[], np.ndarray], str | None, str]] = {
    "coffee": (skimage.data.coffee, "espresso", "scikit-image; Rachel Michetti, CC0"),
    "camera": (skimage.data.camera, "tripod", "scikit-image; Lav Varshney, CC0"),
    "chelsea": (skimage.data.chelsea, "Egyptian cat", "scikit-image; Stéfan van der Walt, CC0"),
    "motorcycle": (lambda: skimage.data.stereo_motorcycle()[0], "moped", "scikit-image; Middlebury stereo 2014"),
    "hopper": (_grace_hopper, "military uniform", "Matplotlib; James S. Davis, US Navy, public domain"),
    "rocket": (skimage.data.rocket, None, "scikit-image; SpaceX, public domain"),
    "astronaut": (skimage.data.astronaut, None, "scikit-image; NASA, public domain"),
}


def demo_photo(name: str, size: int = 224, fit: Fit = "square") -> Photo:
    """One of the DEMO_PHOTOS.

    EfficientNet-Lite0 classifies the photos that have a label correctly, and the other two wrongly.
    """
    if name not in DEMO_PHOTOS:
        raise ValueError(f"There is no demo photo {name!r}; there are {', '.join(DEMO_PHOTOS)}.")
    read, label, source = DEMO_PHOTOS[name]
    return Photo(name, to_tensor(Image.fromarray(read()), size, fit), label, source)


@dataclass(frozen=True, eq=False)
class SceneObject:
    label: str  # its class
    mask: Tensor  # (size, size) bool: the pixels that belong to the object
    kinds: tuple[str, ...] = ()  # other classes that mean it too, such as ImageNet's "tabby" for VOC2007's "cat"


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture whose objects' masks are known."""

    image: Tensor  # (3, size, size), RGB in [0, 1]
    objects: tuple[SceneObject, ...]
    background: str  # what it shows behind the objects
    ground: Tensor | None = None  # (3, size, size): the same picture without its objects, if that is known

    def truth(self, label: str) -> Tensor:
        """The ground truth of a class: the union of its objects' masks, (size, size) bool; empty if it has none.

        An object belongs to its own class and to each of its `kinds`.
        """
        masks = [thing.mask for thing in self.objects if label in (thing.label, *thing.kinds)]
        return torch.stack(masks).any(0) if masks else torch.zeros(self.image.shape[1:], dtype=torch.bool)


@dataclass(frozen=True)
class Picture:
    """A picture of a data set, not yet read.

    Two pictures are equal if their data sets and ids are. A picture of `datasets.pictures` can be pickled.

    Attributes:
        dataset: the name of its data set, as given to `datasets.pictures`.
        id: its name within the data set.
        read: (size, fit) -> the image (channels, size, size) in [0, 1], RGB unless the picture is your own.
        label: its class if the data set gives one: the name of a class, or the WordNet id of one of ImageNet's.
        file: the file that holds it, which can lie inside an archive; None if it is drawn or composed.
        read_scene: (size, fit) -> the same image with its objects' masks; None if they are unknown.
        labels: its classes if the data set gives several; then `label` is None. See `datasets.each_label`.
    """

    dataset: str
    id: str
    read: Callable[[int, Fit], Tensor] = field(compare=False, repr=False)
    label: str | None = field(default=None, compare=False)
    file: Path | Member | None = field(default=None, compare=False)
    read_scene: Callable[[int, Fit], Scene] | None = field(default=None, compare=False, repr=False)
    labels: tuple[str, ...] = field(default=(), compare=False)

    @property
    def has_truth(self) -> bool:
        """Whether the ground truth is known, so that `scene` returns one; nothing is read."""
        return self.read_scene is not None

    def scene(self, size: int = 224, fit: Fit = "square") -> Scene | None:
        """The image with the masks of the objects in it, under either `fit`; None if the ground truth is unknown."""
        return self.read_scene(size, fit) if self.read_scene else None

    @property
    def bytes(self) -> int:
        """The size of its file; 0 if it has none, or none that can be reached."""
        if isinstance(self.file, Member):
            return self.file.size
        return os.path.getsize(self.file) if self.file and os.path.isfile(self.file) else 0
