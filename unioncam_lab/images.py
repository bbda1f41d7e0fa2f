"""What the classifier sees: photos of installed packages, a folder of one's own, and composed scenes with masks."""

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

import matplotlib.cbook
import numpy as np
import skimage.data
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from unioncam_lab import DATA

CUTOUTS, LISTS = DATA / "cutouts", DATA / "lists"
PHOTO_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
Fit = Literal["square", "center-crop"]


def to_tensor(photo: Image.Image, size: int = 224, fit: Fit = "square") -> Tensor:
    """Any picture of Pillow's as RGB (3, size, size), float32 in [0, 1].

    It is turned as its EXIF orientation says, transparency is laid on white, 16 bits become 8. Then it is resized with
    antialiased bilinear interpolation: to the square, proportions changed ("square", the paper's way), or by its short
    side, the middle cropped ("center-crop").
    """
    photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):
        values = np.asarray(photo)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"Its values range from {values.min()} to {values.max()}; 8 or 16 bits are expected.")
        photo = Image.fromarray((values / 257).round().astype(np.uint8))
    elif photo.mode == "F":
        raise ValueError("Its values are floating point; 8 or 16 bits are expected.")
    if photo.has_transparency_data:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    photo = photo.convert("RGB")
    if fit == "center-crop":
        photo = ImageOps.fit(photo, (size, size), Image.Resampling.BILINEAR)
    elif fit == "square":
        photo = photo.resize((size, size), Image.Resampling.BILINEAR)
    else:
        raise ValueError(f"fit is {fit!r}; it can be {' or '.join(map(repr, get_args(Fit)))}.")
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def blur(image: Tensor) -> Tensor:
    """An image (3, H, W) blurred until nothing can be recognized: a Gaussian of 51 pixels, sigma 50.

    What Group-CAM and the insertion metric show where a mask hides. Smaller images get the widest kernel they can.
    """
    for size, kernel in zip(image.shape[1:], ([1, 51], [51, 1]), strict=True):  # separable: twice one dimension
        kernel = [min(side, 2 * size - 1) for side in kernel]
        image = gaussian_blur(image, kernel, [50.0, 50.0])
    return image


def load_photo(path: str | Path, size: int = 224, fit: Fit = "square") -> Tensor:
    """The photo in a file as RGB (3, size, size), float32 in [0, 1]; see `to_tensor`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, is truncated, or has values that no photo has; one sentence that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no photo {path}.")
    try:
        with Image.open(path) as photo:
            photo.load()
            return to_tensor(photo, size, fit)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"The photo {path} cannot be used: {error}") from error


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo that comes with an installed package."""

    name: str
    image: Tensor  # (3, size, size), RGB in [0, 1]
    label: str | None  # the ImageNet class it shows; None if it has none
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
    """One of the DEMO_PHOTOS. The built-in network names those with a label rightly, and the other two wrongly."""
    if name not in DEMO_PHOTOS:
        raise ValueError(f"There is no demo photo {name!r}; there are {', '.join(DEMO_PHOTOS)}.")
    read, label, source = DEMO_PHOTOS[name]
    return Photo(name, to_tensor(Image.fromarray(read()), size, fit), label, source)


def demo_photos(size: int = 224, fit: Fit = "square") -> list[Photo]:
    """All DEMO_PHOTOS."""
    return [demo_photo(name, size, fit) for name in DEMO_PHOTOS]


@dataclass(frozen=True, eq=False)
class SceneObject:
    label: str  # its class
    mask: Tensor  # (size, size) bool: the pixels that are the object's


@dataclass(frozen=True, eq=False)
class Scene:
    """A composed picture of which it is known where every object is."""

    image: Tensor  # (3, size, size), RGB in [0, 1]
    objects: tuple[SceneObject, ...]
    background: str
    ground: Tensor | None = None  # (3, size, size): the same picture without its objects; a mosaic has none

    def truth(self, label: str) -> Tensor:
        """The pixels (size, size) bool of all objects of a class; none if it is not in the scene."""
        masks = [thing.mask for thing in self.objects if thing.label == label]
        return torch.stack(masks).any(0) if masks else torch.zeros_like(self.objects[0].mask)


SceneKind = Literal["one", "two of a class", "two classes"]
# Grey textures of scikit-image (CC0) and the colour each is given; "sky" is drawn.
TEXTURES = {"grass": (0.75, 1.0, 0.45), "gravel": (1.0, 0.93, 0.82), "brick": (1.25, 0.9, 0.75)}
BACKGROUNDS = (*TEXTURES, "sky")


@cache
def cutouts() -> dict[str, Image.Image]:
    """Photographed objects with an alpha channel, by ImageNet class (data/cutouts)."""
    with (CUTOUTS / "cutouts.csv").open(newline="") as table:
        return {row["class"]: Image.open(CUTOUTS / row["file"]).convert("RGBA") for row in csv.DictReader(table)}


def compose_scene(
    kind: SceneKind,
    seed: int,
    size: int = 224,
    *,
    labels: tuple[str, ...] | None = None,
    background: str | None = None,
) -> Scene:
    """Cut-outs pasted on a texture or a sky: one object, two of a class, or one each of two classes, side by side.

    A pixel is an object's where the opacity of its resized cut-out is at least one half. Objects do not overlap.

    Args:
        kind: what is in the scene.
        seed: the same seed gives the same scene.
        size: side in pixels.
        labels: which classes, of `cutouts()`; one for each object, or one for all. Drawn where None.
        background: one of BACKGROUNDS. Drawn where None.
    """
    if kind not in get_args(SceneKind):
        raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, get_args(SceneKind)))}.")
    random = np.random.default_rng([get_args(SceneKind).index(kind), seed])
    drawn = random.choice(sorted(cutouts()), 1 if kind != "two classes" else 2, replace=False).tolist()
    drawn_background = str(random.choice(BACKGROUNDS))
    labels, background = list(labels or drawn), background or drawn_background
    count = 1 if kind == "one" else 2
    labels = labels * count if len(labels) == 1 else labels
    unknown = [label for label in labels if label not in cutouts()]
    if unknown or len(labels) != count or (kind == "two classes") != (len(set(labels)) == 2):
        raise ValueError(f"labels are {labels}; {kind!r} needs such classes of {', '.join(cutouts())}.")

    pixels = draw_background(background, random, size)
    ground = pixels.copy()
    objects = []
    for i, label in enumerate(labels):
        column = size // count
        box = (random.uniform(0.88, 0.98, 2) if count == 2 else random.uniform(0.65, 0.9, 2)) * (column, size)
        cutout = ImageOps.contain(cutouts()[label], tuple(box.round().astype(int).tolist()), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            cutout = ImageOps.mirror(cutout)
        x = i * column + int(random.integers(0, column - cutout.width + 1))
        y = int(random.integers(0, size - cutout.height + 1))
        rgba = np.asarray(cutout, dtype=np.float32) / 255
        opacity = np.zeros((size, size), dtype=np.float32)
        opacity[y : y + cutout.height, x : x + cutout.width] = rgba[..., 3]
        window = pixels[y : y + cutout.height, x : x + cutout.width]
        window += rgba[..., 3:] * (rgba[..., :3] - window)
        objects.append(SceneObject(label, torch.from_numpy(opacity >= 0.5)))
    image, ground = (torch.from_numpy(each).permute(2, 0, 1).clamp(0, 1).contiguous() for each in (pixels, ground))
    return Scene(image, tuple(objects), background, ground)


def draw_background(name: str, random: np.random.Generator, size: int) -> np.ndarray:
    """One of the BACKGROUNDS, (size, size, 3) float32; values above 1 are for its user to cut."""
    if name == "sky":
        return _sky(random, size)
    if name not in TEXTURES:
        raise ValueError(f"background is {name!r}; it can be {', '.join(BACKGROUNDS)}.")
    texture = _texture(name)
    x, y = random.integers(0, texture.shape[0] - 320, 2)
    grey = Image.fromarray(texture[y : y + 320, x : x + 320]).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(grey, dtype=np.float32)[..., None] / 255 * np.float32(TEXTURES[name])


@cache
def _texture(name: str) -> np.ndarray:
    return getattr(skimage.data, name)()


def _sky(random: np.random.Generator, size: int) -> np.ndarray:
    """A blue that pales towards the horizon, with clouds of noise at five scales."""
    height = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    blue = (1 - height) * np.float32([0.25, 0.5, 0.85]) + height * np.float32([0.75, 0.87, 0.97])
    clouds = np.zeros((size, size), dtype=np.float32)
    for octave in range(5):
        noise = random.random((3 * 2**octave, 2 * 2**octave), dtype=np.float32)
        clouds += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) / 2**octave
    cover = np.clip(clouds - clouds.mean(), 0, None)
    cover = (cover / cover.max())[..., None] * 0.9
    return blue * (1 - cover) + cover * np.float32([0.98, 0.98, 1.0])


@dataclass(frozen=True)
class Picture:
    """One picture of a set, not yet read.

    Attributes:
        id: its name within the set.
        read: (size, fit) -> (3, size, size), RGB in [0, 1].
        label: its class where the set says so: an ImageNet class, or its WordNet id, or None.
        file: where it is stored; None if it is drawn or composed.
        scene: size -> the scene that it is, where it is known where its objects are, or None.
    """

    id: str
    read: Callable[[int, Fit], Tensor]
    label: str | None = None
    file: Path | None = None
    scene: Callable[[int], Scene] | None = None

    @property
    def bytes(self) -> int:
        """The size of its file; 0 where it has none."""
        return self.file.stat().st_size if self.file and self.file.is_file() else 0


def compose_mosaic(photos: Sequence[Picture], seed: int, size: int = 224) -> Scene:
    """Four photos of different classes, two by two: the truth of a class is its cell (Böhle et al. 2021).

    Args:
        photos: to draw from; one without a label goes by its id, and is a cell that no class is asked about.
        seed: the same seed draws the same photos in the same order.
        size: side of the mosaic in pixels, an even number.
    """
    by_label: dict[str, list[Picture]] = {}
    for photo in photos:
        by_label.setdefault(photo.label or photo.id, []).append(photo)
    if len(by_label) < 4 or size % 2:
        raise ValueError(f"A mosaic needs 4 classes and an even size; there are {len(by_label)} classes, size {size}.")
    random, half = np.random.default_rng([3, seed]), size // 2
    labels = random.choice(sorted(by_label), 4, replace=False).tolist()
    image, objects = torch.zeros(3, size, size), []
    for label, (y, x) in zip(labels, ((0, 0), (0, half), (half, 0), (half, half)), strict=True):
        photo = by_label[label][random.integers(len(by_label[label]))]
        cell = torch.zeros(size, size, dtype=torch.bool)
        cell[y : y + half, x : x + half] = True
        image[:, y : y + half, x : x + half] = photo.read(half, "square")
        objects.append(SceneObject(label, cell))
    return Scene(image, tuple(objects), "mosaic")


SCENES = 100  # of each kind, in the sets "scenes" and "shapes"
MOSAICS = 200


def pictures(name: str) -> list[Picture]:
    """A set of pictures by its name.

    `demo`: the DEMO_PHOTOS. A folder: every picture in it and below; labels are read from a file's name, as in
    n01440764_tench.jpg, or else it is that of the folder within this one.
    With known truth, `scenes`: 100 composed scenes of each kind. `shapes`: as many of unioncam_lab.shapes.
    `mosaics`, or `mosaics:FOLDER`: 200 mosaics of four of the DEMO_PHOTOS, or of a folder's pictures.
    `ilsvrc2012:FOLDER`: ILSVRC2012's validation set as it is distributed, ILSVRC2012_val_*.JPEG all in one folder or
    in one for each class. `voc2007:FOLDER`: the test set of VOC2007, of a VOCdevkit folder or what lies in it.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: one sentence that says what is missing.
    """
    kind, _, folder = name.partition(":")
    match kind:
        case "demo":
            return [_demo_picture(photo) for photo in DEMO_PHOTOS]
        case "scenes":
            return _scenes(compose_scene)
        case "shapes":
            from unioncam_lab.shapes import draw_scene  # which needs the above

            return _scenes(draw_scene)
        case "mosaics":
            return _mosaics(pictures(folder or "demo"))
        case "ilsvrc2012":
            return _ilsvrc2012(_existing(folder))
        case "voc2007":
            return _voc2007(_existing(folder))
    root = _existing(name)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not files:
        raise FileNotFoundError(f"The folder {root} holds no picture ({', '.join(sorted(PHOTO_SUFFIXES))}).")
    return [_file_picture(path, root, label_of(path.relative_to(root).as_posix())) for path in files]


def label_of(id: str) -> str | None:
    """The label in a picture's id: n01440764_tench.jpg is a tench, glioma/1.jpg a glioma; None where there is none."""
    named = re.fullmatch(r"n\d{8}_(.+)", Path(id).stem)
    if named:
        return named[1].replace("_", " ")
    return Path(id).parts[0] if len(Path(id).parts) > 1 else None


def sample(available: Sequence[Picture], limit: int | None, seed: int) -> list[Picture]:
    """`limit` of the pictures drawn at random without replacement, in their order; all of them if there are not more.

    The same seed draws the same positions from as many pictures, wherever they lie.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; it is a number of pictures, 1 or more.")
    if limit is None or limit >= len(available):
        return list(available)
    drawn = np.random.default_rng(seed).choice(len(available), limit, replace=False)
    return [available[i] for i in sorted(drawn.tolist())]


def listed(available: Sequence[Picture], file: str | Path) -> list[Picture]:
    """The pictures that a list names, in its order.

    A line of the list is a picture's id or the name of its file, alone or behind its SHA-256 as `sha256sum` prints it.
    The listed files must have the listed contents.

    Raises:
        FileNotFoundError, ValueError: there is no such list; a picture that it names is missing, or is another file.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no list {file}.")
    exact, named = {picture.id: picture for picture in available}, defaultdict(list)
    for picture in available:
        named[Path(picture.id).name].append(picture)
    chosen = []
    for line in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        hashed = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        digest, name = hashed.groups() if hashed else (None, line)
        found = [exact[name]] if name in exact else named[name]
        if not found:
            raise ValueError(f"{name}, which the list {file} names, is not among the {len(available)} pictures.")
        if len(found) > 1:
            several = " or ".join(picture.id for picture in found)
            raise ValueError(f"{name}, which the list {file} names, can be {several}: the list must say which.")
        (picture,) = found
        if digest and (not picture.bytes or hashlib.sha256(picture.file.read_bytes()).hexdigest() != digest):
            raise ValueError(f"{name} is not the picture that the list {file} names: its SHA-256 is another.")
        chosen.append(picture)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"The list {file} names {len(chosen)} pictures; one or more are needed, each once.")
    return chosen


def _existing(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise NotADirectoryError(
            f"There is no folder {folder or 'given'}; images are demo, scenes, shapes, mosaics or a folder."
        )
    return path


def _demo_picture(name: str) -> Picture:
    return Picture(name, lambda size, fit: demo_photo(name, size, fit).image, DEMO_PHOTOS[name][1])


def _scenes(compose: Callable[[SceneKind, int, int], Scene]) -> list[Picture]:
    kinds = [(kind, seed) for kind in get_args(SceneKind) for seed in range(SCENES)]
    return [_scene_picture(f"{kind} {seed}", partial(compose, kind, seed)) for kind, seed in kinds]


def _mosaics(photos: Sequence[Picture]) -> list[Picture]:
    return [_scene_picture(f"mosaic {seed}", partial(compose_mosaic, photos, seed)) for seed in range(MOSAICS)]


def _scene_picture(name: str, scene: Callable[[int], Scene]) -> Picture:
    return Picture(name, lambda size, fit: scene(size).image, scene=scene)


def _file_picture(path: Path, root: Path, label: str | None = None) -> Picture:
    return Picture(path.relative_to(root).as_posix(), partial(load_photo, path), label, path)


def _ilsvrc2012(folder: Path) -> list[Picture]:
    files = sorted(folder.rglob("ILSVRC2012_val_*.JPEG"), key=lambda path: path.name)
    if not files:
        raise FileNotFoundError(f"The folder {folder} holds no ILSVRC2012_val_*.JPEG, as the validation set does.")
    return [_file_picture(path, folder, path.parent.name if path.parent != folder else None) for path in files]


def _voc2007(folder: Path) -> list[Picture]:
    roots = [
        root for root in (folder, folder / "VOC2007", folder / "VOCdevkit" / "VOC2007") if _voc_list(root).is_file()
    ]
    if not roots:
        raise FileNotFoundError(f"The folder {folder} holds no VOC2007/ImageSets/Main/test.txt, as VOCdevkit does.")
    ids = _voc_list(roots[0]).read_text(encoding="utf-8").split()
    return [_file_picture(roots[0] / "JPEGImages" / f"{name}.jpg", roots[0] / "JPEGImages") for name in ids]


def _voc_list(root: Path) -> Path:
    return root / "ImageSets" / "Main" / "test.txt"
