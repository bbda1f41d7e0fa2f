"""The catalogue of data sets: `pictures(name)` lists the pictures of one, `sample` and `listed` choose among them."""

import hashlib
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unioncam_lab import DATA
from unioncam_lab.archives import Member, devkit_labels, files, opened, printable
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
ILSVRC_TAR, ILSVRC_DEVKIT = "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
ILSVRC_PHOTO, WORDNET = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG"), re.compile(r"n\d{8}")
VOC_TAR, VOC_TEST = "VOCtest_06-Nov-2007.tar", "ImageSets/Main/test.txt"
SCENES = 100  # of each kind, in the data sets "scenes" and "shapes"
MOSAICS = 200


def pictures(name: str) -> list[Picture]:
    """All pictures of a data set, none of them read yet.

    Args:
        name: one of

            demo              the DEMO_PHOTOS
            FOLDER            every picture in a folder and below it; for their labels see `label_of`. One warning
                              counts the pictures of formats that cannot be read
            ilsvrc2012:PATH   ILSVRC2012's validation set. PATH is ILSVRC2012_img_val.tar, or a folder that holds it, or
                              one with the pictures, all in one or in a folder for each class, or torchvision's. If they
                              are not in such folders, ILSVRC2012_devkit_t12.tar.gz beside gives the labels
            voc2007:PATH      VOC2007's test set. PATH is VOCtest_06-Nov-2007.tar, or a folder that holds it, VOCdevkit,
                              or the folder in which VOCdevkit was unpacked, as torchvision's is

            and, with known ground truth,

            scenes            100 composed scenes of each kind; see `scenes.compose_scene`
            shapes            100 drawn scenes of each kind; see `shapes.draw_scene`
            mosaics           200 mosaics of four of the DEMO_PHOTOS
            mosaics:NAME      200 mosaics of four pictures of another data set, such as a folder
            voc2007:PATH      if its folder Annotations is there: the boxes of its objects

    Archives are read where they are, and never unpacked.

    Raises:
        OSError: the folder or archive does not exist, cannot be read, or holds no such pictures.
        ValueError: the file is not an archive; the pictures have too few classes for a mosaic.
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


def each_label(chosen: Iterable[Picture]) -> list[Picture]:
    """The pictures, with one for each class of those that have several: "000007.jpg car", whose label is "car"."""
    return [
        replace(picture, id=f"{picture.id} {label}", label=label, labels=()) if picture.labels else picture
        for picture in chosen
        for label in picture.labels or [picture.label]
    ]


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
    for line in filter(None, map(str.strip, file.read_text("utf-8", "backslashreplace").splitlines())):
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


def boxed_scene(
    photo: str | Path | Member, annotation: str | Path | Member, size: int = 224, fit: Fit = "square"
) -> Scene:
    """A photo with the boxes of its objects as masks, from an annotation as VOC2007 has them.

    The masks are the filled boxes, of all objects, those marked as difficult or truncated too. An object of which
    nothing remains in the image, since `fit` cuts it off, is left out. The `kinds` of a class of VOC2007 are the
    classes of ImageNet in data/voc2007_in_imagenet.json.

    Args:
        photo, annotation: the photo's file and its XML file, or Members of an archive.
        size, fit: as in `images.to_tensor`.

    Raises:
        FileNotFoundError, ValueError: the photo cannot be read, or the annotation is broken or of another photo.
    """
    image, (width, height) = load_photo(photo, size, fit), photo_size(photo)
    try:
        boxes = _boxes(ElementTree.parse(opened(annotation)).getroot(), width, height)
    except (OSError, SyntaxError, ValueError, LookupError) as error:  # LookupError: an encoding that Python lacks
        name = str(annotation) if isinstance(annotation, Member) else printable(annotation)
        raise ValueError(f"The annotation {name} cannot be used: {error}") from error
    objects = [
        SceneObject(label, box_mask(box, width, height, size, fit), voc2007_in_imagenet().get(label, ()))
        for label, box in boxes
    ]
    return Scene(image, tuple(thing for thing in objects if thing.mask.any()), "photo")


@cache
def voc2007_in_imagenet() -> dict[str, tuple[str, ...]]:
    """Class of VOC2007 -> the classes of ImageNet that are kinds of it, by VOC2007's guidelines for its annotators."""
    kinds = json.loads((DATA / "voc2007_in_imagenet.json").read_text(encoding="utf-8"))
    return {label: tuple(names) for label, names in kinds.items()}


def wordnet_ids() -> list[str]:
    """The WordNet ids of ImageNet's 1,000 classes, in the order in which networks have the classes."""
    return (DATA / "imagenet_wordnet_ids.txt").read_text(encoding="utf-8").split()


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


def _file_picture(dataset: str, name: str, file: Path | Member, label: str | None = None) -> Picture:
    return Picture(dataset, name, partial(load_photo, file), label, file)


def _folder(dataset: str, folder: str) -> list[Picture]:
    root = _existing(folder)
    known = sorted(path for path in files(root).values() if path.suffix.lower() in PHOTO_SUFFIXES | OTHER_SUFFIXES)
    photos = [path for path in known if path.suffix.lower() in PHOTO_SUFFIXES]
    left_out = [path.suffix.lower() for path in known if path.suffix.lower() in OTHER_SUFFIXES]
    counted = ", ".join(f"{count} {suffix}" for suffix, count in Counter(left_out).most_common())
    if not photos:
        instead = f", but {counted}: convert to PNG or JPEG" if counted else f" ({', '.join(sorted(PHOTO_SUFFIXES))})"
        raise FileNotFoundError(f"The folder {printable(root)} holds no picture{instead}.")
    if left_out:
        files_are = "1 file of %s is" if len(left_out) == 1 else f"{len(left_out)} files of %s are"
        log.warning(f"{files_are} left out: %s; convert to PNG or JPEG.", printable(root), counted)
    names = [printable(path.relative_to(root).as_posix()) for path in photos]
    return [_file_picture(dataset, name, path, label_of(name)) for name, path in zip(names, photos, strict=True)]


def _given(path: str, archive: str) -> Path:
    """The folder or archive after the colon of a data set's name."""
    given = Path(path).expanduser()
    if not path or not given.exists():
        raise NotADirectoryError(
            f"There is no folder {printable(path) or 'given'}, and no archive; give {archive}, or the folder of the "
            "pictures."
        )
    return given


def _holds_no(what: str, given: Path, archive: str, names: Sequence[str] = ()) -> FileNotFoundError:
    """The error that a folder or archive is another one than the data set's."""
    sentence = f"The {'folder' if given.is_dir() else 'archive'} {printable(given)} holds no {what}"
    unfinished = sorted(given.glob(f"{archive}.*")) if given.is_dir() else []
    if unfinished:
        sentence += f", only {printable(unfinished[0].name)}, a download that is not finished: finish it"
    elif names:
        sentence += f", but {', '.join(map(printable, sorted(names)[:2]))}{' and more' if len(names) > 2 else ''}"
    return FileNotFoundError(f"{sentence}.")


def _ilsvrc2012(dataset: str, path: str) -> list[Picture]:
    given = _given(path, ILSVRC_TAR)
    photos = {}
    for place in _ilsvrc_places(given):
        for name, file in files(place).items():
            *_, folder, last = ("", *name.split("/"))
            if ILSVRC_PHOTO.fullmatch(last):
                if last in photos:
                    raise ValueError(f"{last} is twice in {printable(place)}: give the folder of one of the two.")
                photos[last] = file, folder if WORDNET.fullmatch(folder) else None
        if photos:
            break
    else:
        raise _holds_no("ILSVRC2012_val_*.JPEG, as the validation set does", given, ILSVRC_TAR, files(place))
    labels = {} if all(label for _, label in photos.values()) else _ilsvrc_labels(given)
    return [
        _file_picture(dataset, name, file, label or labels.get(int(ILSVRC_PHOTO.fullmatch(name)[1])))
        for name, (file, label) in sorted(photos.items())
    ]


def _ilsvrc_places(given: Path) -> list[Path]:
    """Where the validation set can be, the quickest to look through first: a folder can also hold the training set."""
    if not given.is_dir():
        return [given]
    unpacked = any(ILSVRC_PHOTO.fullmatch(path.name) or WORDNET.fullmatch(path.name) for path in given.iterdir())
    places = [given / "val"] if (given / "val").is_dir() else []
    places += [given] if unpacked else []
    places += [given / ILSVRC_TAR] if (given / ILSVRC_TAR).is_file() else []
    return [*places, given]


def _ilsvrc_labels(given: Path) -> dict[int, str]:
    """The WordNet ids by the pictures' numbers, from the development kit beside or in the given folder or archive."""
    for devkit in (given / ILSVRC_DEVKIT, given.absolute().parent / ILSVRC_DEVKIT):
        if devkit.is_file():
            try:
                return devkit_labels(devkit)
            except ValueError as error:
                log.warning("%s The pictures have no labels.", error)
    return {}


def _voc2007(dataset: str, path: str) -> list[Picture]:
    given = _given(path, VOC_TAR)
    inside = _voc_files(given)
    names = _words(inside[VOC_TEST])
    if not names:
        raise _holds_no(f"picture, because its {VOC_TEST} is empty", given, VOC_TAR)
    annotations = {name: inside.get(f"Annotations/{name}.xml") for name in names}
    in_lists = {} if all(annotations.values()) else _voc_lists(inside)
    found = []
    for name in names:
        photo = inside.get(f"JPEGImages/{name}.jpg") or given / "JPEGImages" / f"{name}.jpg"
        annotation = annotations[name]
        labels = _voc_labels(annotation) if annotation else tuple(in_lists.get(name, ()))
        picture = _file_picture(dataset, f"{name}.jpg", photo, labels[0] if len(labels) == 1 else None)
        boxes = partial(boxed_scene, photo, annotation) if annotation else None
        found.append(replace(picture, read_scene=boxes, labels=labels if len(labels) > 1 else ()))
    return found


def _voc_files(given: Path) -> dict[str, Path | Member]:
    """The files of VOC2007 by their names below the folder VOC2007."""
    root = given
    if given.is_dir():
        folders = [
            given / below for below in ("", "VOC2007", "VOCdevkit/VOC2007") if (given / below / VOC_TEST).is_file()
        ]
        root = folders[0] if folders else given / VOC_TAR
    inside = files(root) if root.exists() else {}
    top = min((name.removesuffix(VOC_TEST) for name in inside if name.endswith(VOC_TEST)), key=len, default=None)
    if top is None:
        raise _holds_no(f"VOC2007/{VOC_TEST}, as VOCdevkit does", given, VOC_TAR, list(inside))
    return {name.removeprefix(top): file for name, file in inside.items() if name.startswith(top)}


def _voc_labels(annotation: Path | Member) -> tuple[str, ...]:
    """The classes in an annotation; none if it is broken, which is said when its picture is read."""
    try:
        things = ElementTree.parse(opened(annotation)).getroot().findall("object")
    except (OSError, SyntaxError, ValueError, LookupError):
        return ()
    return tuple(sorted({(thing.findtext("name") or "").strip() for thing in things} - {""}))


def _voc_lists(inside: Mapping[str, Path | Member]) -> dict[str, list[str]]:
    """The classes of each picture from ImageSets/Main/CLASS_test.txt: -1 is "not in it", 0 "only difficult ones"."""
    labels = defaultdict(list)
    for name in sorted(inside):
        listing = re.fullmatch(r"ImageSets/Main/(.+)_test\.txt", name)
        words = _words(inside[name]) if listing else []
        for picture, present in zip(words[::2], words[1::2], strict=False):
            if present != "-1":
                labels[picture].append(listing[1])
    return labels


def _words(file: Path | Member) -> list[str]:
    try:
        return file.read_bytes().decode("utf-8", "backslashreplace").split()
    except (OSError, ValueError) as error:
        name = str(file) if isinstance(file, Member) else printable(file)
        raise ValueError(f"The list {name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


CATALOGUE: dict[str, Callable[[str, str], list[Picture]]] = {
    "demo": _demo,
    "scenes": partial(_scenes, compose_scene),
    "shapes": partial(_scenes, draw_scene),
    "mosaics": _mosaics,
    "ilsvrc2012": _ilsvrc2012,
    "voc2007": _voc2007,
}
