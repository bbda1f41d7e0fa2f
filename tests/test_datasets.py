"""Tests of the data sets: their lists and pictures, the sampling, and pickling between processes."""

import hashlib
import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import archives as made
import numpy as np
import pytest
import torch
from PIL import Image, features
from runs import stopped_run, tiny_run, tiny_setup
from tiny import TinyClassifier
from torchvision.models import VGG16_Weights

from unioncam_core import capture
from unioncam_lab.__main__ import main
from unioncam_lab.classifiers import LabProtocol
from unioncam_lab.datasets import (
    LISTS,
    OTHER_SUFFIXES,
    PHOTO_SUFFIXES,
    VOC_TEST,
    boxed_scene,
    by_class,
    compose_mosaic,
    each_label,
    four_classes,
    listed,
    pictures,
    sample,
    voc2007_in_imagenet,
    wordnet_ids,
)
from unioncam_lab.engine import accelerate
from unioncam_lab.images import DEMO_PHOTOS, Picture, demo_photo, load_photo
from unioncam_lab.methods import grad_cam
from unioncam_lab.metrics import localize
from unioncam_lab.scenes import compose_scene
from unioncam_lab.store import load

# A photo of 40×20 pixels, and what VOC says of it: pixels are counted from 1, and the last one is included.
ANNOTATION = """<annotation>
<folder>VOC2007</folder><filename>000001.jpg</filename>
<size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
  <bndbox><xmin>5</xmin><ymin>3</ymin><xmax>16</xmax><ymax>10</ymax></bndbox></object>
<object><name>person</name><truncated>1</truncated>
  <bndbox><xmax>40</xmax><xmin>33</xmin><ymax>20</ymax><ymin>1</ymin></bndbox>
  <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
<object><name>dog</name><difficult>1</difficult>
  <bndbox><xmin>21</xmin><ymin>13</ymin><xmax>28</xmax><ymax>20</ymax></bndbox></object>
</annotation>
"""
BOXES = {"dog": [(4, 2, 16, 10), (20, 12, 28, 20)], "person": [(32, 0, 40, 20)]}


def jpeg(path, size=(40, 30), colour=(90, 120, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_demo_photos_are_a_set_of_pictures():
    found = pictures("demo")
    assert [picture.id for picture in found] == list(DEMO_PHOTOS)
    assert found[0].label == "espresso"
    assert torch.equal(found[2].read(64, "square"), demo_photo("chelsea", 64).image)


def test_every_format_that_pillow_reads_is_a_picture(tmp_path, caplog):
    names = ["a.jfif", "b.JPE", "c.webp", "d.tif", "e.jp2", "f.ppm", *(["g.avif"] if features.check("avif") else [])]
    for name in names:
        jpeg(tmp_path / name)
    for name in ("notes.txt", "labels.csv", "Thumbs.db"):
        (tmp_path / name).touch()
    found = pictures(str(tmp_path))
    assert [picture.id for picture in found] == names
    for picture in found:
        assert (255 * picture.read(8, "square")).mean((1, 2)).tolist() == pytest.approx([90, 120, 30], abs=3)
    assert not caplog.records


def test_pictures_that_cannot_be_read_are_counted_in_one_warning(tmp_path, caplog):
    jpeg(tmp_path / "a.png")
    for name in ("1.dcm", "more/2.heic", "3.HEIC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.heic").mkdir()
    assert [picture.id for picture in pictures(str(tmp_path))] == ["a.png"]
    line = f"3 files of {tmp_path} are left out: 2 .heic, 1 .dcm; convert to PNG or JPEG."
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", line)]
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no picture, but 2 \.heic, 1 \.dcm: convert to PNG or JPEG\."):
        pictures(str(tmp_path))
    assert len(caplog.records) == 1


def test_a_run_can_be_told_the_white_of_its_pictures(tmp_path):
    Image.fromarray(np.full((8, 8), 2048, np.uint16)).save(tmp_path / "scan.png")
    (scan,) = pictures(str(tmp_path))
    with pytest.raises(ValueError, match=r"scan\.png cannot be used: Its largest value is 2048 of 65535"):
        scan.read(8, "square")
    told = pickle.loads(pickle.dumps(replace(scan, read=partial(load_photo, scan.file, white=4095))))
    assert (255 * told.read(8, "square")).unique().tolist() == pytest.approx([128])
    assert told == scan


def test_a_build_of_pillow_without_a_format_does_not_promise_it():
    assert (".avif" in PHOTO_SUFFIXES) == bool(features.check("avif")) == (".avif" not in OTHER_SUFFIXES)
    assert {".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".gif", ".bmp", ".webp"} <= PHOTO_SUFFIXES
    assert not PHOTO_SUFFIXES & {".pdf", ".mpg", ".heic", ".svg", ".h5"}


def test_composed_scenes_are_a_set_of_pictures():
    found = pictures("scenes")
    assert len(found) == 300
    assert found[100].id == "two of a class 0"
    assert torch.equal(found[201].read(64, "square"), compose_scene("two classes", 1, 64).image)


@pytest.mark.parametrize(("name", "count"), [("scenes", 300), ("shapes", 300), ("mosaics", 200)])
def test_scenes_and_mosaics_know_where_their_objects_are(name, count):
    available = pictures(name)
    assert len({picture.id for picture in available}) == count
    assert all(picture.has_truth and picture.dataset == name for picture in available)
    scene, cropped = (available[150].scene(96, fit) for fit in ("square", "center-crop"))
    assert torch.equal(scene.image, available[150].read(96, "square"))
    assert torch.equal(scene.image, available[150].read(96, "center-crop"))
    assert [thing.label for thing in scene.objects] == [thing.label for thing in cropped.objects]
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(scene.objects, cropped.objects, strict=True))
    assert all(torch.equal(scene.truth(o.label) & o.mask, o.mask) for o in scene.objects)


def test_photos_have_no_ground_truth(tmp_path):
    jpeg(tmp_path / "a.jpg")
    for picture in (pictures("demo")[0], pictures(str(tmp_path))[0]):
        assert not picture.has_truth
        assert picture.scene(32, "square") is None


def test_a_picture_is_known_by_its_data_set_and_id(tmp_path):
    jpeg(tmp_path / "coffee.jpg")
    coffee, again = pictures("demo")[0], pictures("demo")[0]
    other = Picture("photos", "coffee", None, "espresso")
    assert coffee == again == Picture("demo", "coffee", None, "another label", tmp_path / "coffee.jpg")
    assert hash(coffee) == hash(again)
    assert coffee != other
    assert coffee != pictures("demo")[1]
    assert len({coffee, again, other}) == 2


def read_pickled(pickled):
    """Return the pixels, masks, label and size of each picture; it runs in another process."""
    chosen = pickle.loads(pickled)
    scenes = [picture.scene(32, "center-crop") for picture in chosen]
    masks = [scene and [thing.mask.numpy() for thing in scene.objects] for scene in scenes]
    return [(p.read(32, "square").numpy(), m, p.label, p.bytes) for p, m in zip(chosen, masks, strict=True)]


@pytest.mark.slow
def test_pictures_travel_to_another_process(tmp_path):
    for i in range(200):
        jpeg(tmp_path / f"class {i % 5}" / f"{i}.jpg", colour=(i, 2 * i % 256, 90))
    voc = tmp_path / "VOC2007"
    devkit(voc)
    archives = tmp_path / "archives"
    names = ("demo", "scenes", "shapes", "mosaics", f"mosaics:{tmp_path}", str(tmp_path), f"voc2007:{voc}")
    names += (f"ilsvrc2012:{made.validation_tar(archives, 3)}", f"voc2007:{made.voc_tar(archives, 3)}")
    chosen = [pictures(name)[-1] for name in names]
    pickled = pickle.dumps(chosen)
    assert pickle.loads(pickled) == chosen
    assert max(len(pickle.dumps(picture)) for picture in chosen) < 2000, "a mosaic carries four pictures, not 200"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(read_pickled, pickled).result()
    for (pixels, masks, label, size), picture in zip(there, chosen, strict=True):
        assert (pixels == picture.read(32, "square").numpy()).all()
        here = picture.scene(32, "center-crop")
        assert (masks is None) == (here is None)
        assert here is None or all((m == o.mask.numpy()).all() for m, o in zip(masks, here.objects, strict=True))
        assert (label, size) == (picture.label, picture.bytes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_mosaic_is_four_photos_each_in_its_cell(seed):
    photos = pictures("demo")
    four = four_classes(by_class(photos), seed)
    assert four == four_classes(by_class(photos), seed)
    mosaic = compose_mosaic(four, 64)
    assert torch.equal(mosaic.image, pictures("mosaics")[seed].read(64, "square"))
    named = {photo.label or photo.id: photo for photo in photos}
    assert len({thing.label for thing in mosaic.objects}) == 4
    assert torch.equal(sum(thing.mask.int() for thing in mosaic.objects), torch.ones(64, 64, dtype=torch.int32))
    for thing, (y, x) in zip(mosaic.objects, ((0, 0), (0, 32), (32, 0), (32, 32)), strict=True):
        assert torch.equal(mosaic.image[:, y : y + 32, x : x + 32], named[thing.label].read(32, "square"))
        assert thing.mask[y, x]
        assert thing.mask[y + 31, x + 31]
        assert thing.mask.sum() == 32 * 32


def test_the_mosaics_of_the_records_are_still_sampled():
    labels = [[thing.label for thing in mosaic.scene(8).objects] for mosaic in pictures("mosaics")[:2]]
    assert labels == [
        ["tripod", "Egyptian cat", "astronaut", "military uniform"],
        ["rocket", "military uniform", "astronaut", "espresso"],
    ]


def test_a_mosaic_of_too_little_is_one_sentence():
    photos = pictures("demo")
    with pytest.raises(ValueError, match=r"A mosaic needs pictures of 4 classes; there are 3 classes\."):
        four_classes(by_class(photos[:3]), 0)
    with pytest.raises(ValueError, match="needs 4 pictures and an even size; there are 4 pictures, size 65"):
        compose_mosaic(photos[:4], 65)
    with pytest.raises(ValueError, match="there are 7 pictures, size 64"):
        compose_mosaic(photos, 64)


def test_mosaics_of_a_folder_with_few_classes_are_refused_at_once(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        jpeg(tmp_path / name)
    with pytest.raises(ValueError, match="there are 2 classes"):
        pictures(f"mosaics:{tmp_path}")


def test_labels_are_read_from_names_and_folders(tmp_path):
    for name in ("n01440764_great_white_shark.jpg", "mine.jpg", "zebra/1.jpg", "zebra/n02391049_zebra.jpg"):
        jpeg(tmp_path / name)
    found = {picture.id: picture.label for picture in pictures(str(tmp_path))}
    assert found == {
        "mine.jpg": None,
        "n01440764_great_white_shark.jpg": "great white shark",
        "zebra/1.jpg": "zebra",
        "zebra/n02391049_zebra.jpg": "zebra",
    }
    for name in ("a", "b", "c"):
        jpeg(tmp_path / name / "1.jpg")
    (mosaic, *_) = pictures(f"mosaics:{tmp_path}")
    assert {thing.label for thing in mosaic.scene(32).objects} < {
        "a",
        "b",
        "c",
        "zebra",
        "great white shark",
        "mine.jpg",
    }


def test_a_folder_is_read_with_what_lies_below(tmp_path):
    jpeg(tmp_path / "b.jpg")
    jpeg(tmp_path / "more" / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = pictures(str(tmp_path))
    assert [picture.id for picture in found] == ["b.jpg", "more/a.png"]
    assert found[0].read(32, "square").shape == (3, 32, 32)
    assert found[0].bytes == (tmp_path / "b.jpg").stat().st_size


def flat(root, count):
    return made.write_folder(root, made.validation_files(count))


def in_classes(root, count):
    files = made.validation_files(count).items()
    return made.write_folder(root, {f"{made.wordnet_id(int(name[15:23]))}/{name}": data for name, data in files})


def torchvisions(root, count):
    """What torchvision.datasets.ImageNet leaves: class folders in val, beside the archives and meta.bin."""
    in_classes(root / "val", count)
    made.write_folder(root, {"meta.bin": b"", "train/n01440764/n01440764_1.JPEG": made.photo(0)})
    return root


# Each of them with 12 pictures: (how it is made, what is given below the folder in which it is).
ILSVRC_LAYOUTS = {
    "the tar itself": (made.validation_tar, made.VALIDATION_TAR),
    "a folder that holds the tar": (made.validation_tar, ""),
    "flat": (flat, ""),
    "flat, in val": (lambda root, count: flat(root / "val", count), ""),
    "flat, and val itself": (lambda root, count: flat(root / "val", count), "val"),
    "class folders": (in_classes, ""),
    "class folders below": (lambda root, count: in_classes(root / "ILSVRC2012" / "images", count), ""),
    "torchvision's": (torchvisions, ""),
}


@pytest.mark.parametrize("with_devkit", [False, True], ids=["alone", "with the devkit"])
@pytest.mark.parametrize("layout", ILSVRC_LAYOUTS)
def test_ilsvrc2012_is_the_same_in_every_layout(tmp_path, layout, with_devkit):
    make, given = ILSVRC_LAYOUTS[layout]
    make(tmp_path, 12)
    if with_devkit:
        made.devkit(tmp_path, 12)
    name, files = f"ilsvrc2012:{tmp_path / given}", made.validation_files(12)
    found = pictures(name)
    assert [(picture.id, picture.bytes) for picture in found] == [(id, len(files[id])) for id in sorted(files)]
    assert [picture.file.read_bytes() for picture in found] == [files[id] for id in sorted(files)]
    labelled = with_devkit or "class" in layout or layout == "torchvision's"
    assert [picture.label for picture in found] == [made.wordnet_id(i) if labelled else None for i in range(1, 13)]
    expected = np.asarray(Image.open(made.io.BytesIO(files[found[4].id])).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(255 * found[4].read(16, "square").permute(1, 2, 0), expected, atol=1e-4)
    assert pickle.loads(pickle.dumps(found[4])).file == found[4].file
    assert len(pickle.dumps(found[4])) < 1000


def test_a_list_chooses_from_the_tar_and_its_checksums_are_checked(tmp_path):
    available, files = pictures(f"ilsvrc2012:{made.validation_tar(tmp_path, 20)}"), made.validation_files(20)
    chosen = tmp_path / "chosen.txt"
    first = (LISTS / "ilsvrc2012_val_2000.txt").read_text().split()[:3]
    chosen.write_text("\n".join(first))
    assert [picture.id for picture in listed(available, chosen)] == first
    chosen.write_text("\n".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in first))
    assert [picture.id for picture in listed(available, chosen)] == first
    chosen.write_text(f"{hashlib.sha256(files[first[1]]).hexdigest()}  {first[0]}")
    with pytest.raises(
        ValueError, match=f"^{first[0]} is not the picture that the list .* names: its SHA-256 is another"
    ):
        listed(available, chosen)


@pytest.mark.parametrize("label", ["top-1", "label"])
def test_a_run_that_was_begun_from_the_tar_goes_on_from_a_folder(tmp_path, label):
    """If the label is explained, the classes are five, as many as the network has."""
    options = {"methods": ["grad_cam"], "protocol": LabProtocol(explained_class=label)}
    tar, folder = made.validation_tar(tmp_path / "tar", 8), flat(tmp_path / "flat", 8)
    for place in ("tar", "flat"):
        made.devkit(tmp_path / place, 8)
    stopped_run(f"ilsvrc2012:{tar}", tmp_path / "run", after=3, **options)
    continued = tiny_run(f"ilsvrc2012:{folder}", tmp_path / "run", **options)
    whole = tiny_run(f"ilsvrc2012:{tar}", **options)
    assert len(whole.records) == 8
    pairs = zip(continued.records.itertuples(), whole.records.itertuples(), strict=True)
    assert all((a.image, a.label, a.target, a.drop) == (b.image, b.label, b.target, b.drop) for a, b in pairs)
    if label == "label":
        classes = sorted(made.CLASSES)
        assert [classes[target] for target in whole.records["target"]] == list(whole.records["label"])


def network(classes, favourite):
    """Return a tiny network with these classes, whose answer is always the favourite."""
    tiny = TinyClassifier()
    tiny.classes = tuple(classes)
    tiny.fc = torch.nn.Linear(tiny.fc.in_features, len(classes))
    torch.nn.init.normal_(tiny.fc.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(tiny.fc.bias)
    tiny.fc.bias.data[tiny.classes.index(favourite)] = 5.0
    return accelerate(tiny, "eager", chunk=8)


IMAGENET = VGG16_Weights.DEFAULT.meta["categories"]


def test_a_small_sample_is_enough_for_the_development_kits_ids_to_name_imagenets_classes(tmp_path):
    made.validation_tar(tmp_path, 3)
    made.devkit(tmp_path, 3)
    protocol = LabProtocol(explained_class="label")
    options = {"methods": ["grad_cam"], "metrics": ["drop"], "classifier": network(IMAGENET, "tench")}
    made_run = tiny_run(f"ilsvrc2012:{tmp_path}", protocol=protocol, **options)
    assert list(made_run.records["class"]) == ["tabby", "English setter", "tench"]


def test_the_wordnet_ids_are_those_of_imagenets_classes(tmp_path):
    """The photos of the records have the id and the name of their class in their own names."""
    ids = wordnet_ids()
    assert ids == sorted(set(ids))
    assert len(ids) == len(IMAGENET) == 1000
    names = [line.split()[1][:-4] for line in (LISTS / "imagenet_samples_500.sha256").read_text().splitlines()]
    other = {name for name in names if IMAGENET[ids.index(name[:9])].lower() != name[10:].replace("_", " ").lower()}
    assert other == {"n02012849_crane"}, "which torchvision calls crane bird"


def test_a_broken_development_kit_leaves_the_pictures_without_labels(tmp_path, caplog):
    made.validation_tar(tmp_path, 2)
    (tmp_path / made.DEVKIT).write_bytes(b"<html>")
    assert [picture.label for picture in pictures(f"ilsvrc2012:{tmp_path}")] == [None, None]
    assert "cannot be used: not a gzip file. The pictures have no labels." in caplog.text
    with pytest.raises(ValueError, match=r"The protocol explains the label, but no picture of .* has one"):
        tiny_run(f"ilsvrc2012:{tmp_path}", protocol=LabProtocol(explained_class="label"))


def test_a_picture_that_is_in_two_folders_is_one_sentence(tmp_path):
    flat(tmp_path, 2)
    in_classes(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"^ILSVRC2012_val_0000000\d\.JPEG is twice in .*: give the folder of one of the"
    ):
        pictures(f"ilsvrc2012:{tmp_path}")


@pytest.mark.parametrize("nested", [False, True])
def test_an_ilsvrc2012_validation_folder_is_read_as_it_is(tmp_path, nested):
    for i in (3, 1, 2):
        name = f"ILSVRC2012_val_{i:08}.JPEG"
        jpeg(tmp_path / (f"n0000000{4 - i}" if nested else ".") / name)
    found = pictures(f"ilsvrc2012:{tmp_path}")
    assert [picture.id[-6:] for picture in found] == ["1.JPEG", "2.JPEG", "3.JPEG"]
    assert [picture.label for picture in found] == (["n00000003", "n00000002", "n00000001"] if nested else [None] * 3)
    assert found[0].read(32, "center-crop").shape == (3, 32, 32)


def devkit(root, annotation=ANNOTATION):
    """A test set of two photos. The first one is annotated, and it is white where its objects are."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("000001\n000004\n")
    for name in ("000002", "000004"):
        jpeg(root / "JPEGImages" / f"{name}.jpg")
    photo = Image.new("RGB", (40, 20))
    for left, top, right, bottom in (*BOXES["dog"], *BOXES["person"]):
        photo.paste("white", (left, top, right, bottom))
    photo.save(root / "JPEGImages" / "000001.jpg", format="PNG")  # without loss
    if annotation is not None:
        (root / "Annotations").mkdir()
        (root / "Annotations" / "000001.xml").write_text(annotation)


@pytest.mark.parametrize("below", ["", "VOC2007", "VOCdevkit/VOC2007"])
def test_a_vocdevkit_is_read_as_it_is(tmp_path, below):
    devkit(tmp_path / below)
    available = pictures(f"voc2007:{tmp_path}")
    assert [picture.id for picture in available] == ["000001.jpg", "000004.jpg"]
    assert [picture.has_truth for picture in available] == [True, False]
    assert available[1].read(32, "square").shape == (3, 32, 32)
    assert available[1].scene(32, "square") is None
    assert available[0].bytes == (tmp_path / below / "JPEGImages" / "000001.jpg").stat().st_size


def test_voc2007_without_annotations_has_no_ground_truth(tmp_path):
    devkit(tmp_path, annotation=None)
    picture = pictures(f"voc2007:{tmp_path}")[0]
    assert not picture.has_truth
    assert picture.scene(20, "square") is None
    assert picture.read(20, "center-crop").max() == 1


# By hand, at 10×10 pixels: rows and columns of each object. "square" squeezes 4×2 pixels of the photo into one, whose
# centres are at x = 2, 6, 10, ... and y = 1, 3, 5, ...; "center-crop" squeezes 2×2 pixels of the part from x = 10 to 30
# into one, whose centres are at x = 11, 13, 15, ...
AT_10_PIXELS = {
    "square": [("dog", (1, 5), (1, 4)), ("person", (0, 10), (8, 10)), ("dog", (6, 10), (5, 7))],
    "center-crop": [("dog", (1, 5), (0, 3)), ("dog", (6, 10), (5, 9))],
}


@pytest.mark.parametrize("fit", AT_10_PIXELS)
def test_vocs_boxes_are_where_the_objects_are(tmp_path, fit):
    devkit(tmp_path)
    picture = pictures(f"voc2007:{tmp_path}")[0]
    scene = picture.scene(10, fit)
    assert torch.equal(scene.image, picture.read(10, fit))
    assert [thing.label for thing in scene.objects] == [label for label, _, _ in AT_10_PIXELS[fit]]
    for thing, (_, rows, columns) in zip(scene.objects, AT_10_PIXELS[fit], strict=True):
        expected = torch.zeros(10, 10, dtype=torch.bool)
        expected[slice(*rows), slice(*columns)] = True
        assert torch.equal(thing.mask, expected)
    assert scene.truth("person").any() == (fit == "square")


def test_vocs_boxes_are_cropped_exactly_as_the_pixels_are(tmp_path):
    devkit(tmp_path)
    scene = pictures(f"voc2007:{tmp_path}")[0].scene(20, "center-crop")  # 20×20 pixels, none of them resampled
    assert torch.equal(scene.image[0] == 1, scene.truth("dog"))
    assert scene.image[0].unique().tolist() == [0, 1]


def test_boxes_hold_for_the_upright_photo(tmp_path):
    devkit(tmp_path)
    photo = tmp_path / "JPEGImages" / "000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(photo, format="PNG", exif=exif)
    scene = boxed_scene(photo, tmp_path / "Annotations" / "000001.xml", 20, "center-crop")
    assert torch.equal(scene.image[0] == 1, scene.truth("dog"))
    assert len(scene.objects) == 2


@pytest.mark.parametrize(
    ("found", "instead", "reason"),
    [
        ("</annotation>", "", "no element found"),
        (ANNOTATION, "no annotation", "syntax error"),
        ("<annotation>", "<?xml version='1.0' encoding='none'?><annotation>", "unknown encoding"),
        ("<name>dog</name>", "", r"It has an object '' at x 5 to 16, y 3 to 10\."),
        ("<xmin>5</xmin>", "", r"bndbox/xmin is None, which is no number\."),
        ("<xmin>5</xmin>", "<xmin>left</xmin>", "bndbox/xmin is 'left', which is no number"),
        ("<xmin>5</xmin>", "<xmin>17</xmin>", "It has an object 'dog' at x 17 to 16"),
        ("<xmin>5</xmin>", "<xmin>nan</xmin>", "It has an object 'dog' at x nan to 16"),
        ("<width>40</width>", "", "size/width is None"),
        ("<width>40</width>", "<width>39</width>", "It is of 39×20 pixels, but the photo has 40×20"),
    ],
)
def test_a_broken_annotation_is_one_sentence_that_names_it(tmp_path, found, instead, reason):
    assert found in ANNOTATION
    devkit(tmp_path, ANNOTATION.replace(found, instead, 1))
    picture = pictures(f"voc2007:{tmp_path}")[0]
    with pytest.raises(ValueError, match=rf"The annotation .*000001\.xml cannot be used: {reason}") as error:
        picture.scene(20, "square")
    assert "\n" not in str(error.value)
    assert picture.read(20, "square").shape == (3, 20, 20)


def test_an_annotation_that_was_removed_is_one_sentence(tmp_path):
    devkit(tmp_path)
    picture = pictures(f"voc2007:{tmp_path}")[0]
    (tmp_path / "Annotations" / "000001.xml").unlink()
    with pytest.raises(ValueError, match=r"The annotation .*000001\.xml cannot be used: .*No such file"):
        picture.scene(20, "square")


def test_an_annotation_without_objects_is_a_scene_without_objects(tmp_path):
    start, end = ANNOTATION.index("<object>"), ANNOTATION.index("</annotation>")
    devkit(tmp_path, ANNOTATION[:start] + ANNOTATION[end:])
    scene = pictures(f"voc2007:{tmp_path}")[0].scene(20, "square")
    assert scene.objects == ()
    assert scene.truth("dog").shape == (20, 20)
    assert not scene.truth("dog").any()


VOC_LAYOUTS = {
    "the tar itself": (made.voc_tar, made.VOC_TAR),
    "a folder that holds the tar": (made.voc_tar, ""),
    "VOCdevkit": (made.voc_devkit, "VOCdevkit"),
    "VOC2007": (made.voc_devkit, "VOCdevkit/VOC2007"),
    "torchvision's": (made.voc_devkit, ""),
}


@pytest.mark.parametrize("layout", VOC_LAYOUTS)
def test_voc2007_is_the_same_in_every_layout(tmp_path, layout):
    make, given = VOC_LAYOUTS[layout]
    make(tmp_path, 8)
    found, files = pictures(f"voc2007:{tmp_path / given}"), made.voc_files(8)
    assert [picture.id for picture in found] == [f"{i:06}.jpg" for i in range(1, 9)], "000009.jpg is not in test.txt"
    assert [picture.file.read_bytes() for picture in found] == [files[f"JPEGImages/{p.id}"] for p in found]
    assert [picture.bytes for picture in found] == [len(files[f"JPEGImages/{picture.id}"]) for picture in found]
    for i, picture in enumerate(found[:4], 1):
        objects = made.voc_objects(i)
        classes = sorted({label for label, _, _ in objects})
        assert (picture.label, picture.labels) == ((classes[0], ()) if len(classes) == 1 else (None, tuple(classes)))
        scene = picture.scene(192, "square")  # it has 3×4 pixels for each pixel of the photo
        assert [thing.label for thing in scene.objects] == [label for label, _, _ in objects]
        for thing, (_, (left, top, right, bottom), _) in zip(scene.objects, objects, strict=True):
            rows, columns = thing.mask.any(1).nonzero(), thing.mask.any(0).nonzero()
            assert (rows.min() / 4 + 1, (rows.max() + 1) / 4) == (top, bottom)
            assert (columns.min() / 3 + 1, (columns.max() + 1) / 3) == (left, right)
    assert len(pickle.dumps(found[0])) < 1000


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "tar"])
def test_without_annotations_the_labels_come_from_the_lists(tmp_path, archived):
    files = made.voc_files(8)
    with_boxes = pictures(f"voc2007:{made.write_folder(tmp_path / 'VOC2007', files)}")
    files = {f"VOC2007/{name}": data for name, data in files.items() if not name.startswith("Annotations/")}
    place = made.write_tar(tmp_path / "a.tar", files) if archived else made.write_folder(tmp_path / "without", files)
    without = pictures(f"voc2007:{place}")
    assert [(p.id, p.label, p.labels) for p in without] == [(p.id, p.label, p.labels) for p in with_boxes]
    assert not any(picture.has_truth for picture in without)


def test_each_class_of_a_picture_that_has_several_is_one(tmp_path):
    name = f"voc2007:{made.voc_tar(tmp_path, 4)}"
    found = each_label(pictures(name))
    assert [(picture.id, picture.label) for picture in found] == [
        ("000001.jpg dog", "dog"),
        ("000001.jpg person", "person"),
        ("000002.jpg cat", "cat"),
        ("000002.jpg sofa", "sofa"),
        ("000003.jpg", "bird"),
        ("000004.jpg", "car"),
    ]
    assert not any(picture.labels for picture in found)
    assert each_label(pictures("demo")) == pictures("demo")
    protocol = LabProtocol(explained_class="label")
    assert tiny_setup(name, protocol=protocol).chosen() == found
    assert [p.id for p in tiny_setup(name, protocol=protocol, limit=1, seed=2).chosen()] in (
        ["000001.jpg dog", "000001.jpg person"],
        ["000002.jpg cat", "000002.jpg sofa"],
        ["000003.jpg"],
        ["000004.jpg"],
    ), "the limit counts photos"
    assert [picture.id for picture in tiny_setup(name).chosen()] == [f"{i:06}.jpg" for i in range(1, 5)]


def test_each_class_of_a_picture_is_a_row_that_is_scored_by_its_own_boxes(tmp_path):
    name, classifier = f"voc2007:{made.voc_tar(tmp_path, 4)}", network(made.VOC_CLASSES, "car")
    protocol = LabProtocol(explained_class="label")
    options = {"methods": ["grad_cam"], "metrics": ["energy"], "classifier": classifier, "protocol": protocol}
    records = tiny_run(name, **options).records
    assert list(records["label"]) == list(records["class"]) == ["dog", "person", "cat", "sofa", "bird", "car"]
    scenes = {picture.id: picture.scene(12) for picture in pictures(name)}
    for row in records.itertuples():
        truth = scenes[row.image.split()[0]].truth(row.label)
        image = scenes[row.image.split()[0]].image
        (evidence,) = capture(classifier, image[None], target_layer=classifier.target_layer, targets=[row.target])
        assert row.energy == pytest.approx(localize(grad_cam(evidence), truth)["energy"], abs=1e-3)


def test_a_network_of_imagenets_classes_is_localized_by_the_boxes_of_vocs(tmp_path):
    """Its answer is always "tabby", and every second photo of two classes has a cat."""
    name, classifier = f"voc2007:{made.voc_tar(tmp_path, 8)}", network(IMAGENET, "tabby")
    done = tiny_run(name, methods=["grad_cam"], metrics=["energy", "pointing"], classifier=classifier)
    assert list(done.records["image"]) == ["000002.jpg", "000006.jpg"]
    assert set(done.records["class"]) == {"tabby"}
    assert done.info["skipped"]["000001.jpg"] == "the network names it tabby, which is not in it"
    for row in done.records.itertuples():
        scene = next(picture for picture in pictures(name) if picture.id == row.image).scene(12)
        assert torch.equal(scene.truth("tabby"), scene.truth("cat"))
        assert scene.truth("cat").any()
        (evidence,) = capture(classifier, scene.image[None], target_layer=classifier.target_layer)
        assert row.energy == pytest.approx(localize(grad_cam(evidence), scene.truth("cat"))["energy"], abs=1e-3)


def test_vocs_labels_cannot_be_explained_by_a_network_without_them(tmp_path):
    name, protocol = f"voc2007:{made.voc_tar(tmp_path, 4)}", LabProtocol(explained_class="label")
    with pytest.raises(
        ValueError, match=r"but tiny has no class of the labels of voc2007.* \(bird, car, cat, \.\.\.\)"
    ):
        tiny_run(name, tmp_path / "run", classifier=network(IMAGENET, "tabby"), protocol=protocol)
    assert not (tmp_path / "run").exists()


def test_vocs_classes_are_made_of_imagenets():
    """The 20 classes are those of the challenge; each class of ImageNet is a kind of one of them at most."""
    kinds = voc2007_in_imagenet()
    assert list(kinds) == [
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
        *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ]
    named = [name for names in kinds.values() for name in names]
    assert len(set(named)) == len(named)
    assert set(named) <= set(IMAGENET)
    assert len(set(IMAGENET)) == 1000, "so that a name says which class"
    positions = {label: [IMAGENET.index(name) for name in names] for label, names in kinds.items()}
    # ImageNet's classes are in the order of their ids, so that birds and dogs are next to each other.
    assert positions["dog"] == list(range(151, 269))
    assert positions["bird"] == [*range(7, 25), *range(80, 101), *range(127, 147)]
    assert IMAGENET[134] == "crane bird"
    assert not any(set(names) & set(kinds) for names in kinds.values())


def test_the_built_in_network_has_the_names_of_imagenets_classes(classifier):
    assert list(classifier.classes) == IMAGENET


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "tar"])
def test_a_picture_without_annotation_is_skipped_where_boxes_are_needed(tmp_path, archived):
    files = {f"VOC2007/{name}": data for name, data in made.voc_files(8).items() if name != "Annotations/000006.xml"}
    files["VOC2007/Annotations/000002.xml"] = b"<html>"
    place = made.write_tar(tmp_path / "a.tar", files) if archived else made.write_folder(tmp_path / "voc", files)
    options = {"methods": ["grad_cam"], "classifier": network(IMAGENET, "convertible")}
    boxed = tiny_run(f"voc2007:{place}", metrics=["energy"], **options)
    assert list(boxed.records["image"]) == ["000004.jpg", "000008.jpg"]
    assert boxed.info["skipped"]["000006.jpg"] == "The ground truth of 000006.jpg is unknown."
    assert "000002.xml" in boxed.info["skipped"]["000002.jpg"]
    assert tiny_run(f"voc2007:{place}", metrics=["drop"], **options).records["image"].nunique() == 8


# Broken data, each in a folder and in an archive.


def broken_photos():
    """Return pictures of which some are broken, and the reasons for which these are skipped."""
    files = dict(sorted(made.validation_files(6).items()))
    name = "ILSVRC2012_val_0000000{}.JPEG".format
    files[name(2)] = files[name(2)][:700]
    files[name(3)] = b"<!DOCTYPE html><html><title>Not found</title></html>"
    files[name(4)] = b""
    files[name(5)] = bytes(3000)
    return files, {
        name(2): "truncated",
        name(3): "cannot identify image file: it is a web page",
        name(4): "cannot identify image file: it is empty",
        name(5): "cannot identify image file: it holds only zeros",
    }


def command(*options):
    return main(["run", "--classifier", "runs:eager_tiny", "--methods", "grad_cam", "--metrics", "drop", *options])


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "tar"])
def test_broken_photos_are_skipped_and_the_run_goes_on(tmp_path, archived, capsys):
    files, reasons = broken_photos()
    place = made.write_tar(tmp_path / made.VALIDATION_TAR, files) if archived else made.write_folder(tmp_path, files)
    assert command("--images", f"ilsvrc2012:{place}", "--out", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 images are in ")
    assert len(said) == 5
    for line, (name, reason) in zip(said[1:], reasons.items(), strict=True):
        assert line.startswith(f"skipped {name}: The photo {name if archived else place / name}")
        assert reason in line
        assert " at 0x" not in line, "the same reason in every process"


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])
    return path


def test_the_whole_pictures_of_a_tar_that_was_cut_are_explained(tmp_path, capsys, caplog):
    tar = made.validation_tar(tmp_path, 6)
    (third, fourth) = [p.file for p in sorted(pictures(f"ilsvrc2012:{tar}"), key=lambda p: p.file.offset)][2:4]
    cut(tar, fourth.offset + fourth.size // 2)
    assert command("--images", f"ilsvrc2012:{tar}", "--out", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 images are in ")
    assert f"skipped {fourth.name}: The photo {fourth.name} in {tar} cannot be used: the archive ends after" in said
    assert third.name not in said
    (warning,) = {record.getMessage() for record in caplog.records}
    assert f"{tar} is short or damaged: 4 files of it are found, and {fourth.name} is cut." in warning


def refused(tmp_path, capsys, images):
    """Return the one sentence with which the command stops before it computes."""
    assert command("--images", images, "--out", str(tmp_path / "run")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    return captured.err


def test_the_wrong_archive_is_one_sentence_before_the_run(tmp_path, capsys):
    voc, ilsvrc, devkit = made.voc_tar(tmp_path, 2), made.validation_tar(tmp_path, 3), made.devkit(tmp_path, 2)
    photo = made.write_folder(tmp_path, {"a.jpg": made.photo(1)}) / "a.jpg"
    page = made.write_folder(tmp_path, {"page.tar": b"<!DOCTYPE html>"}) / "page.tar"
    for images, sentence in {
        f"ilsvrc2012:{voc}": f"The archive {voc} holds no ILSVRC2012_val_*.JPEG, as the validation set does, but VOC",
        f"voc2007:{ilsvrc}": f"{ilsvrc} holds no VOC2007/ImageSets/Main/test.txt, as VOCdevkit does, but ILSVRC2012_",
        f"ilsvrc2012:{devkit}": f"{devkit} is not a tar archive: it is compressed by gzip.",
        f"ilsvrc2012:{photo}": f"{photo} is not a tar archive: ",
        f"voc2007:{page}": f"{page} is not a tar archive: it is a web page.",
    }.items():
        assert sentence in refused(tmp_path, capsys, images)


def test_a_download_that_is_not_finished_is_one_sentence(tmp_path, capsys):
    for kind, tar in {"ilsvrc2012": made.validation_tar(tmp_path, 3), "voc2007": made.voc_tar(tmp_path, 3)}.items():
        tar.rename(tmp_path / f"{tar.name}.part")
        sentence = f"only {tar.name}.part, a download that is not finished: finish it.\n"
        assert refused(tmp_path, capsys, f"{kind}:{tmp_path}").endswith(sentence)


def test_a_list_that_is_empty_or_cut_is_one_sentence(tmp_path, capsys):
    folder = made.write_folder(tmp_path / "voc", {"VOC2007/ImageSets/Main/test.txt": b" "})
    assert "holds no picture, because its ImageSets/Main/test.txt is empty" in refused(
        tmp_path, capsys, f"voc2007:{folder}"
    )
    tar = made.write_tar(tmp_path / "a.tar", {"VOC2007/ImageSets/Main/test.txt": b"000001\n" * 100})
    cut(tar, 600)
    said = refused(tmp_path, capsys, f"voc2007:{tar}")
    assert f"The list VOC2007/{VOC_TEST} in {tar} cannot be read: the archive ends after 88 of its 700 bytes." in said


def test_a_folder_without_pictures_is_one_sentence(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert "holds no picture (" in refused(tmp_path, capsys, str(tmp_path))
    assert "holds no ILSVRC2012_val_*.JPEG, as the validation set does, but notes.txt." in refused(
        tmp_path, capsys, f"ilsvrc2012:{tmp_path}"
    )
    assert "There is no folder nowhere, and no archive; give VOCtest_06-Nov-2007.tar" in refused(
        tmp_path, capsys, "voc2007:nowhere"
    )


@pytest.mark.parametrize("kind", ["", "ilsvrc2012:", "voc2007:"])
def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, capsys, monkeypatch, kind):
    """Whatever this user may read: the system's answer is that of another user's folder."""
    (tmp_path / "secret").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    said = refused(tmp_path, capsys, f"{kind}{tmp_path / 'secret'}")
    assert "secret" in said
    assert "ermission denied" in said or kind == "voc2007:"


def test_links_in_a_loop_do_not_stop_a_run(tmp_path, capsys):
    flat(tmp_path / "pictures", 2)
    (tmp_path / "pictures" / "up").symlink_to(tmp_path, target_is_directory=True)
    loop = tmp_path / "pictures" / "loop.jpg"
    loop.symlink_to(loop)
    (tmp_path / "pictures" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert command("--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 images are in ")
    assert f"skipped loop.jpg: There is no photo {loop}: Too many levels of symbolic links.\n" in said
    assert f"skipped gone.png: There is no photo {tmp_path / 'pictures' / 'gone.png'}.\n" in said
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert "There is no folder" in refused(tmp_path / "other", capsys, str(tmp_path / "self"))
    assert "There is no folder" in refused(tmp_path / "other", capsys, f"ilsvrc2012:{tmp_path / 'self'}")


def test_a_name_that_is_not_utf8_is_escaped(tmp_path, capsys):
    names = [b"caf\xe9.png", b"ch\xe2t/broken.png"]
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    try:
        (folder / os.fsdecode(b"ch\xe2t")).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes no such name")
    Image.new("RGB", (16, 16), (9, 90, 200)).save(folder / os.fsdecode(names[0]))
    (folder / os.fsdecode(names[1])).write_bytes(b"<html>")
    assert command("--images", str(folder), "--out", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 images are in ")
    assert r"skipped ch\xe2t/broken.png: The photo " in said
    assert r"donn\xe9es/ch\xe2t/broken.png cannot be used: cannot identify image file: it is a web page" in said
    said.encode("utf-8")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(info["skipped"]) == [r"ch\xe2t/broken.png"]
    records = load(tmp_path / "run").records
    assert list(records["image"]) == [r"caf\xe9.png"]
    chosen = tmp_path / "chosen.txt"
    chosen.write_bytes(names[0])
    assert [picture.id for picture in listed(pictures(str(folder)), chosen)] == [r"caf\xe9.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no folder nowhere; images are demo, scenes, shapes, mosaics or a folder"),
        ("voc2007:", "no folder given"),
        ("EMPTY", "holds no picture"),
        ("ilsvrc2012:EMPTY", "holds no ILSVRC2012_val_"),
        ("voc2007:EMPTY", "holds no VOC2007/ImageSets/Main/test.txt"),
    ],
)
def test_a_set_that_is_missing_is_one_sentence(tmp_path, name, message):
    with pytest.raises(OSError, match=message):
        pictures(name.replace("EMPTY", str(tmp_path)))


def test_a_sample_is_the_same_for_the_same_seed_and_in_order():
    available = [Picture("any", f"{i:03}", None) for i in range(100)]
    one, again, other = (sample(available, 10, seed) for seed in (5, 5, 6))
    assert one == again != other
    assert [p.id for p in one] == sorted({p.id for p in one})
    assert sample(available, None, 0) == sample(available, 500, 0) == available
    with pytest.raises(ValueError, match=r"limit is 2\.5"):
        sample(available, 2.5, 0)


@pytest.mark.slow
def test_the_committed_lists_are_what_seed_0_draws():
    names = [Picture("any", f"ILSVRC2012_val_{i:08}.JPEG", None) for i in range(1, 50001)]
    drawn = [picture.id for picture in sample(names, 2000, 0)]
    assert (LISTS / "ilsvrc2012_val_2000.txt").read_text().split() == drawn
    positions = [Picture("any", str(i), None) for i in range(4952)]
    drawn = [picture.id for picture in sample(positions, 2000, 0)]
    assert (LISTS / "voc2007_test_2000_positions.txt").read_text().split() == drawn


@pytest.fixture
def listing(tmp_path):
    """A folder of three pictures, and a function that applies `listed` to the lines of a list."""
    for i, name in enumerate(("a.png", "more/b.png", "more/c c.png")):
        jpeg(tmp_path / "pictures" / name, colour=(i, 120, 30))
    available = pictures(str(tmp_path / "pictures"))

    def chosen(*lines):
        (tmp_path / "chosen.txt").write_text("\n".join(lines), encoding="utf-8")
        return [picture.id for picture in listed(available, tmp_path / "chosen.txt")]

    chosen.sha256 = {
        picture.id: hashlib.sha256((tmp_path / "pictures" / picture.id).read_bytes()).hexdigest()
        for picture in available
    }
    chosen.folder = tmp_path / "pictures"
    return chosen


def test_a_list_names_pictures_in_its_order(listing):
    assert listing("more/b.png", "a.png") == ["more/b.png", "a.png"]
    assert listing("c c.png", "", "  b.png  ", "") == ["more/c c.png", "more/b.png"], "the file's name is enough"


@pytest.mark.parametrize("mark", [" ", "*"], ids=["text", "binary"])
def test_a_list_of_sha256sum_is_checked(listing, mark):
    lines = [f"{digest} {mark}{name}" for name, digest in listing.sha256.items()]
    assert listing(*lines) == list(listing.sha256)
    assert listing(f"{listing.sha256['more/b.png']} {mark}b.png", "a.png") == ["more/b.png", "a.png"]
    jpeg(listing.folder / "more" / "b.png", colour=(77, 120, 30))
    with pytest.raises(ValueError, match=r"^more/b\.png is not the picture that the list .*chosen\.txt names: its SHA"):
        listing(*lines)
    assert listing("more/b.png") == ["more/b.png"], "without a checksum any content will do"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.png", "d.png"], r"d\.png, which the list .*chosen\.txt names, is not among the 3 pictures\."),
        (["a.png", "less/b.png"], r"less/b\.png, which the list .* is not among"),
        (["a.png", "b.png", "a.png"], r"The list .*chosen\.txt names 3 pictures; one or more are needed, each once\."),
        (["b.png", "more/b.png"], "names 2 pictures; one or more are needed, each once"),
        (["", " "], "names 0 pictures"),
    ],
)
def test_a_list_that_does_not_fit_is_one_sentence(listing, lines, message):
    with pytest.raises(ValueError, match=message):
        listing(*lines)


def test_a_name_that_several_pictures_have_does_not_say_which(tmp_path):
    for name in ("1.png", "a/1.png", "b/2.png", "c/2.png"):
        jpeg(tmp_path / name)
    available = pictures(str(tmp_path))
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("1.png\nb/2.png\n")
    assert [picture.id for picture in listed(available, chosen)] == ["1.png", "b/2.png"]
    chosen.write_text("2.png\n")
    with pytest.raises(
        ValueError, match=r"2\.png, which .* names, can be b/2\.png or c/2\.png: the list must say which"
    ):
        listed(available, chosen)


def test_pictures_without_a_file_can_be_listed_but_not_checked(tmp_path):
    available, chosen = pictures("demo"), tmp_path / "chosen.txt"
    chosen.write_text("chelsea\ncoffee\n")
    assert [picture.id for picture in listed(available, chosen)] == ["chelsea", "coffee"]
    chosen.write_text("0" * 64 + "  chelsea\n")
    with pytest.raises(ValueError, match="chelsea is not the picture"):
        listed(available, chosen)


def test_a_missing_list_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no list .*nowhere\.txt\.$"):
        listed(pictures("demo"), tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match="There is no list"):
        listed(pictures("demo"), tmp_path)
