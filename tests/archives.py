"""Small data sets as their owners ship them: the same names, layouts and formats, with a few pictures of noise."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

VALIDATION_TAR, DEVKIT = "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
VOC_TAR = "VOCtest_06-Nov-2007.tar"
# As in the real one, the position in this list is not the position of the class in a network: tench, the fourth, is
# class 0 of ImageNet. The last one is no class, because others are below it.
SYNSETS = (
    ("n02119789", "kit fox, Vulpes macrotis", 0),
    ("n02123045", "tabby, tabby cat", 0),
    ("n02100735", "English setter", 0),
    ("n01440764", "tench, Tinca tinca", 0),
    ("n02391049", "zebra", 0),
    ("n00001740", "entity", 3),
)
CLASSES = tuple(name for name, _, children in SYNSETS if not children)
# The objects of the pictures in turn: class, (xmin, ymin, xmax, ymax) as VOC counts them, and whether it is difficult.
OBJECTS = (
    (("car", (3, 5, 30, 40), 0),),
    (("dog", (1, 1, 20, 20), 0), ("person", (30, 10, 60, 48), 0), ("dog", (22, 30, 40, 47), 1)),
    (("cat", (10, 10, 50, 40), 0), ("sofa", (1, 20, 64, 48), 1)),
    (("bird", (20, 20, 25, 25), 0),),
)
VOC_CLASSES = tuple(sorted({label for objects in OBJECTS for label, _, _ in objects}))
WIDTH, HEIGHT = 64, 48


def photo(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """Return a JPEG of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """Write an archive with these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Write these files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def validation_files(count: int) -> dict[str, bytes]:
    """Return the first `count` pictures of ILSVRC2012's validation set, in another order than that of their names."""
    numbers = sorted(range(1, count + 1), key=lambda i: (i * 7919) % 1009)
    return {f"ILSVRC2012_val_{i:08}.JPEG": photo(i) for i in numbers}


def validation_tar(folder: Path, count: int) -> Path:
    """Write ILSVRC2012_img_val.tar with the first `count` pictures, and return its path."""
    return write_tar(folder / VALIDATION_TAR, validation_files(count))


def wordnet_id(number: int) -> str:
    """Return the WordNet id that `devkit` gives to picture `number`, counted from 1."""
    return CLASSES[number % len(CLASSES)]


def devkit(folder: Path, count: int) -> Path:
    """Write ILSVRC2012_devkit_t12.tar.gz with the classes of the first `count` pictures, and return its path."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.zeros((len(SYNSETS), 1), dtype=[(name, "O") for name in (*fields, "num_train_images")])
    for i, (name, words, children) in enumerate(SYNSETS):
        synsets[i, 0] = (i + 1, name, words, "gloss", children, np.arange(1, children + 1), int(children > 0), 1300)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{CLASSES.index(wordnet_id(i)) + 1}\n" for i in range(1, count + 1))
    inside = "ILSVRC2012_devkit_t12/data"
    files = {f"{inside}/meta.mat": meta.getvalue(), f"{inside}/ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    return write_tar(folder / DEVKIT, files, "w:gz")


def voc_objects(number: int) -> tuple[tuple[str, tuple[int, int, int, int], int], ...]:
    """Return the objects of picture `number`, counted from 1."""
    return OBJECTS[number % len(OBJECTS)]


def voc_annotation(number: int) -> bytes:
    """Return the XML file of picture `number`."""
    objects = "".join(
        f"<object><name>{label}</name><truncated>0</truncated><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, (left, top, right, bottom), difficult in voc_objects(number)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{number:06}.jpg</filename>{size}{objects}</annotation>".encode()


def voc_files(count: int) -> dict[str, bytes]:
    """Return the files below VOC2007, with `count` pictures in the test set and one that is not in it."""
    names = {i: f"{i:06}" for i in range(1, count + 1)}
    files = {f"Annotations/{name}.xml": voc_annotation(i) for i, name in names.items()}
    files["ImageSets/Main/test.txt"] = "".join(f"{name}\n" for name in names.values()).encode()
    for label in VOC_CLASSES:
        lines = []
        for i, name in names.items():
            difficult = [hard for each, _, hard in voc_objects(i) if each == label]
            lines.append(f"{name} {-1 if not difficult else 0 if all(difficult) else 1:2}\n")
        files[f"ImageSets/Main/{label}_test.txt"] = "".join(lines).encode()
    return files | {f"JPEGImages/{i:06}.jpg": photo(i) for i in (*names, count + 1)}


def voc_tar(folder: Path, count: int) -> Path:
    """Write VOCtest_06-Nov-2007.tar with `count` pictures, and return its path."""
    return write_tar(folder / VOC_TAR, {f"VOCdevkit/VOC2007/{name}": data for name, data in voc_files(count).items()})


def voc_devkit(folder: Path, count: int) -> Path:
    """Write the folder VOCdevkit with `count` pictures, and return its path."""
    write_folder(folder / "VOCdevkit" / "VOC2007", voc_files(count))
    return folder / "VOCdevkit"
