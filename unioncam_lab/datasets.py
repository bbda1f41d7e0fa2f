"""The catalogue of data sets: `pictures(name)` lists the pictures of one, `sample` and `listed` choose among them."""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unioncam_lab import DATA
from unioncam_lab.images import (
    DEMO_PHOTOS,
    Fit,
    Picture,
    Scene,
    SceneKind,
    SceneObject,
    box_mask,
    demo_photo,
    load_photo,
    photo_size,
)
from unioncam_lab.scenes import compose_scene
from unioncam_lab.shapes import draw_scene

log = logging.getLogger(__name__)  # each warning is one line on stderr

LISTS = DATA / "lists"
# Of these formats the ones that the installed Pillow reads: one without AVIF does not register its suffixes.
PHOTO_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"}
PHOTO_SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in PHOTO_FORMATS}
# Pictures that have to be converted.
PHONES, CAMERAS = {".avif", ".heic", ".heif", ".hif", ".jxl"}, {".arw", ".cr2", ".cr3", ".dng", ".nef", ".raf", ".raw"}
SCANS, DRAWINGS = {".dcm", ".dicom", ".nii", ".nrrd"}, {".ai", ".eps", ".exr", ".hdr", ".psd", ".svg", ".tga", ".xcf"}
OTHER_SUFFIXES = (PHONES | CAMERAS | SCANS | DRAWINGS) - PHOTO_SUFFIXES
SCENES = 100  # of each kind, in the data sets "scenes" and "shapes"
MOSAICS = 200


def pictures(name: str) -> list[Picture]:
    """All pictures of a data set, none of them read yet.

    Args:
        name: one of

            demo                the DEMO_PHOTOS
            FOLDER              every picture in a folder and below it; for their labels see `label_of`. One warning
                                counts the pictures of formats that cannot be read
            ilsvrc2012:FOLDER   ILSVRC2012's validation set: ILSVRC2012_val_*.JPEG, in one folder or one for each class
            voc2007:FOLDER      VOC2007's test set, in the folder in which VOCdevkit was unpacked, or in VOC2007 itself

            and, with known ground truth,

            scenes              100 composed scenes of each kind; see `scenes.compose_scene`
            shapes              100 drawn scenes of each kind; see `shapes.draw_scene`
            mosaics             200 mosaics of four of the DEMO_PHOTOS
            mosaics:NAME        200 mosaics of four pictures of another data set, such as a folder
            voc2007:FOLDER      if its folder Annotations is there: the boxes of its objects

    Raises:
        FileNotFoundError, NotADirectoryError: the folder does not exist, or holds no such pictures.
        ValueError: the pictures have too few classes for a mosaic.
    """
    kind, _, argument = name.partition(":")
    read = CATALOGUE.get(kind)
    return read(name, argument) if read else _folder(name, name)


def label_of(id: str) -> str | None:
    """The label in a picture's id: "tench" in n01440764_tench.jpg, "glioma" in glioma/1.jpg; None if it has none."""
    named = re.fullmatch(r"n\d{8}_(.+)", Path(id).stem)
    if named:
        return named[1].replace("_", " ")
    return Path(id).parts[0] if len(Path(id).parts) > 1 else None


def sample(available: Sequence[Picture], limit: int | None, seed: int) -> list[Picture]:
    """`limit` pictures sampled without replacement, in the order of `available`; all of them if there are not more.

    The same seed samples the same positions from equally many pictures, whatever they are.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; it is a number of pictures, 1 or more.")
    if limit is None or limit >= len(available):
        return list(available)
    positions = np.random.default_rng(seed).choice(len(available), limit, replace=False)
    return [available[i] for i in sorted(positions.tolist())]


def listed(available: Sequence[Picture], file: str | Path) -> list[Picture]:
    """The pictures that a list names, in its order.

    A line of the list is a picture's id or the name of its file, either alone or after its SHA-256 as `sha256sum`
    prints it. If there is a SHA-256, the file's content must have it.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a picture that the list names is missing, ambiguous, repeated, or has another content.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no list {file}.")
    by_id, by_name = {picture.id: picture for picture in available}, defaultdict(list)
    for picture in available:
        by_name[Path(picture.id).name].append(picture)
    chosen = []
    for line in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        hashed = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        digest, name = hashed.groups() if hashed else (None, line)
        candidates = [by_id[name]] if name in by_id else by_name[name]
        if not candidates:
            raise ValueError(f"{name}, which the list {file} names, is not among the {len(available)} pictures.")
        if len(candidates) > 1:
            several = " or ".join(picture.id for picture in candidates)
            raise ValueError(f"{name}, which the list {file} names, can be {several}: the list must say which.")
        (picture,) = candidates
        if digest and (not picture.bytes or hashlib.sha256(picture.file.read_bytes()).hexdigest() != digest):
            raise ValueError(f"{name} is not the picture that the list {file} names: its SHA-256 is another.")
        chosen.append(picture)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"The list {file} names {len(chosen)} pictures; one or more are needed, each once.")
    return chosen


def by_class(photos: Sequence[Picture]) -> dict[str, list[Picture]]:
    """The pictures of each class, in the order of the classes' names; without a label, a picture's id is its class."""
    classes = defaultdict(list)
    for photo in photos:
        classes[photo.label or photo.id].append(photo)
    return {name: classes[name] for name in sorted(classes)}


def four_classes(classes: Mapping[str, Sequence[Picture]], seed: int) -> list[Picture]:
    """One picture from each of four classes, for a mosaic; the same seed samples the same pictures in the same order.

    Raises:
        ValueError: there are fewer classes than four.
    """
    if len(classes) < 4:
        raise ValueError(f"A mosaic needs pictures of 4 classes; there are {len(classes)} classes.")
    random = np.random.default_rng([3, seed])
    chosen = [classes[name] for name in random.choice(list(classes), 4, replace=False).tolist()]
    return [photos[random.integers(len(photos))] for photos in chosen]


def compose_mosaic(photos: Sequence[Picture], size: int = 224) -> Scene:
    """Four pictures of different classes, two by two: the ground truth of a class is its cell (Böhle et al. 2021).

    Args:
        photos: the pictures, upper left, upper right, lower left, lower right. One without a label goes by its id,
            which is the name of no class.
        size: side of the mosaic in pixels, an even number.

    Raises:
        ValueError: there are not four pictures, or the size is odd.
    """
    if len(photos) != 4 or size % 2:
        raise ValueError(f"A mosaic needs 4 pictures and an even size; there are {len(photos)} pictures, size {size}.")
    half, image, objects = size // 2, torch.zeros(3, size, size), []
    for photo, (y, x) in zip(photos, ((0, 0), (0, half), (half, 0), (half, half)), strict=True):
        cell = torch.zeros(size, size, dtype=torch.bool)
        cell[y : y + half, x : x + half] = True
        image[:, y : y + half, x : x + half] = photo.read(half, "square")
        objects.append(SceneObject(photo.label or photo.id, cell))
    return Scene(image, tuple(objects), "mosaic")


def boxed_scene(photo: str | Path, annotation: str | Path, size: int = 224, fit: Fit = "square") -> Scene:
    """A photo with the boxes of its objects as masks, from an annotation as VOC2007 has them.

    The masks are the filled boxes, of all objects, those marked as difficult or truncated too. An object of which
    nothing remains in the image, since `fit` cuts it off, is left out.

    Args:
        photo, annotation: the photo's file and its XML file.
        size, fit: as in `images.to_tensor`.

    Raises:
        FileNotFoundError, ValueError: the photo cannot be read, or the annotation is broken or of another photo.
    """
    image, (width, height) = load_photo(photo, size, fit), photo_size(photo)
    try:
        boxes = _boxes(ElementTree.parse(annotation).getroot(), width, height)
    except (OSError, SyntaxError, ValueError, LookupError) as error:  # LookupError: an encoding that Python lacks
        raise ValueError(f"The annotation {annotation} cannot be used: {error}") from error
    objects = [SceneObject(label, box_mask(box, width, height, size, fit)) for label, box in boxes]
    return Scene(image, tuple(thing for thing in objects if thing.mask.any()), "photo")


def _boxes(root: ElementTree.Element, width: int, height: int) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Class and (left, top, right, bottom) of each object; VOC counts pixels from 1 and includes the last."""
    annotated = tuple(_number(root, f"size/{side}") for side in ("width", "height"))
    if annotated != (width, height):
        raise ValueError(f"It is of {annotated[0]:g}×{annotated[1]:g} pixels, but the photo has {width}×{height}.")
    boxes = []
    for thing in root.findall("object"):
        label = (thing.findtext("name") or "").strip()
        left, top, right, bottom = (_number(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        if not label or not (left <= right and top <= bottom):
            raise ValueError(f"It has an object {label!r} at x {left:g} to {right:g}, y {top:g} to {bottom:g}.")
        boxes.append((label, (left - 1, top - 1, right, bottom)))
    return boxes


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{path} is {text!r}, which is no number.") from None


def _existing(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise NotADirectoryError(
            f"There is no folder {folder or 'given'}; images are demo, scenes, shapes, mosaics or a folder."
        )
    return path


# The readers: (name of the data set, what follows its colon) -> its pictures. What a picture reads itself with is a
# partial of a module's function, which pickle can send to another process.


def _demo(dataset: str, _: str) -> list[Picture]:
    return [Picture(dataset, name, partial(_demo_image, name), label) for name, (_, label, _) in DEMO_PHOTOS.items()]


def _demo_image(name: str, size: int, fit: Fit) -> Tensor:
    return demo_photo(name, size, fit).image


def _scenes(compose: Callable[[SceneKind, int, int], Scene], dataset: str, _: str) -> list[Picture]:
    kinds = [(kind, seed) for kind in get_args(SceneKind) for seed in range(SCENES)]
    return [_scene_picture(dataset, f"{kind} {seed}", partial(compose, kind, seed)) for kind, seed in kinds]


def _mosaics(dataset: str, photos: str) -> list[Picture]:
    classes = by_class(pictures(photos or "demo"))
    return [
        # Its four photos are sampled here, so that it does not carry all of them into another process.
        _scene_picture(dataset, f"mosaic {seed}", partial(compose_mosaic, four_classes(classes, seed)))
        for seed in range(MOSAICS)
    ]


def _scene_picture(dataset: str, name: str, compose: Callable[[int], Scene]) -> Picture:
    return Picture(dataset, name, partial(_square_image, compose), read_scene=partial(_square_scene, compose))


def _square_scene(compose: Callable[[int], Scene], size: int, fit: Fit) -> Scene:
    return compose(size)  # a square, of which either fit shows the whole


def _square_image(compose: Callable[[int], Scene], size: int, fit: Fit) -> Tensor:
    return compose(size).image


def _file_picture(dataset: str, path: Path, root: Path, label: str | None = None) -> Picture:
    return Picture(dataset, path.relative_to(root).as_posix(), partial(load_photo, path), label, path)


def _folder(dataset: str, folder: str) -> list[Picture]:
    root = _existing(folder)
    known = sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES | OTHER_SUFFIXES)
    files = [path for path in known if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
    left_out = [path.suffix.lower() for path in known if path.suffix.lower() in OTHER_SUFFIXES and path.is_file()]
    counted = ", ".join(f"{count} {suffix}" for suffix, count in Counter(left_out).most_common())
    if not files:
        instead = f", but {counted}: convert to PNG or JPEG" if counted else f" ({', '.join(sorted(PHOTO_SUFFIXES))})"
        raise FileNotFoundError(f"The folder {root} holds no picture{instead}.")
    if left_out:
        files_are = "1 file of %s is" if len(left_out) == 1 else f"{len(left_out)} files of %s are"
        log.warning(f"{files_are} left out: %s; convert to PNG or JPEG.", root, counted)
    return [_file_picture(dataset, path, root, label_of(path.relative_to(root).as_posix())) for path in files]


def _ilsvrc2012(dataset: str, folder: str) -> list[Picture]:
    root = _existing(folder)
    files = sorted(root.rglob("ILSVRC2012_val_*.JPEG"), key=lambda path: path.name)
    if not files:
        raise FileNotFoundError(f"The folder {root} holds no ILSVRC2012_val_*.JPEG, as the validation set does.")
    return [_file_picture(dataset, path, root, path.parent.name if path.parent != root else None) for path in files]


def _voc2007(dataset: str, folder: str) -> list[Picture]:
    given = _existing(folder)
    roots = (given, given / "VOC2007", given / "VOCdevkit" / "VOC2007")
    root = next((root for root in roots if (root / "ImageSets" / "Main" / "test.txt").is_file()), None)
    if root is None:
        raise FileNotFoundError(f"The folder {given} holds no VOC2007/ImageSets/Main/test.txt, as VOCdevkit does.")
    annotations = {path.stem: path for path in (root / "Annotations").glob("*.xml")}
    found = []
    for name in (root / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split():
        photo, annotation = root / "JPEGImages" / f"{name}.jpg", annotations.get(name)
        boxes = partial(boxed_scene, photo, annotation) if annotation else None
        found.append(Picture(dataset, photo.name, partial(load_photo, photo), file=photo, read_scene=boxes))
    return found


CATALOGUE: dict[str, Callable[[str, str], list[Picture]]] = {
    "demo": _demo,
    "scenes": partial(_scenes, compose_scene),
    "shapes": partial(_scenes, draw_scene),
    "mosaics": _mosaics,
    "ilsvrc2012": _ilsvrc2012,
    "voc2007": _voc2007,
}
