"""Photos of every kind that a user may have, and scenes of which it is known where the objects are."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from unioncam_lab import images
from unioncam_lab.images import (
    BACKGROUNDS,
    DEMO_PHOTOS,
    compose_scene,
    cutouts,
    demo_photo,
    demo_photos,
    load_photo,
    to_tensor,
)

KINDS = ("one", "two of a class", "two classes")


def halves(width=40, height=20):
    """Left half red, right half blue."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0], array[:, width // 2 :, 2] = 200, 100
    return Image.fromarray(array)


def corners(tensor):
    """RGB in the middle of the left and of the right quarter, 0 to 255."""
    size = tensor.shape[-1]
    return [[round(v * 255) for v in tensor[:, size // 2, x].tolist()] for x in (size // 4, 3 * size // 4)]


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return load_photo(tmp_path / name, 32)


def test_a_photo_is_resized_to_the_square_as_pillow_does(tmp_path):
    random = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    tensor = saved(tmp_path, random, "photo.png")
    expected = np.asarray(random.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / np.float32(255)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor, expected, atol=1e-6)


def test_center_crop_keeps_proportions():
    wide = Image.new("RGB", (120, 40))
    wide.paste((255, 255, 255), (40, 0, 80, 40))
    assert to_tensor(wide, 40, "center-crop").min() == 1
    assert to_tensor(wide, 40, "square").min() == 0


FORMATS = {
    "RGB": ["png", "tiff", "jpg", "webp", "gif", "bmp"],
    "RGBA": ["png", "tiff", "webp", "gif", "bmp"],
    "P": ["png", "tiff", "gif", "bmp"],
    "CMYK": ["tiff", "jpg"],
    "YCbCr": ["tiff", "jpg"],
}


@pytest.mark.parametrize(
    ("mode", "suffix"), [(mode, suffix) for mode, suffixes in FORMATS.items() for suffix in suffixes]
)
def test_colour_survives_every_mode_and_format(tmp_path, mode, suffix):
    tensor = saved(tmp_path, halves().convert(mode), f"photo.{suffix}")
    found = np.array(corners(tensor))
    np.testing.assert_allclose(found, [[200, 0, 0], [0, 0, 100]], atol=8)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
    black_and_white = Image.new("L", (40, 20), 255)
    black_and_white.paste(0, (0, 0, 20, 20))
    assert corners(saved(tmp_path, black_and_white.convert(mode), "photo.png")) == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    values = np.full((20, 40), 65535, np.uint16)
    values[:, :20] = 257 * 100
    assert corners(saved(tmp_path, Image.fromarray(values), f"photo.{suffix}")) == [[100] * 3, [255] * 3]


def test_transparency_is_laid_on_white(tmp_path):
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert saved(tmp_path, image, "photo.png").min() == 1
    palette = halves().quantize(4)
    blue = palette.getpixel((39, 0))
    assert corners(saved(tmp_path, palette, "palette.png", transparency=blue)) == [[200, 0, 0], [255, 255, 255]]


def test_exif_rotation_is_undone(tmp_path):
    upright = halves(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
    tensor = saved(tmp_path, upright.transpose(Image.Transpose.ROTATE_90), "photo.png", exif=exif)
    assert corners(tensor) == [[200, 0, 0], [0, 0, 100]]


def test_unusable_files_get_one_sentence(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    halves(400, 400).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((4, 4), -5, np.int32)).save(tmp_path / "negative.tiff")
    for name, reason in {
        "text.jpg": "cannot identify image file",
        "half.jpg": "truncated",
        "empty.png": "cannot identify image file",
        "float.tiff": "Its values are floating point",
        "negative.tiff": "Its values range from -5 to -5",
    }.items():
        with pytest.raises(ValueError, match=f"The photo .*{name} cannot be used: .*{reason}") as error:
            load_photo(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"There is no photo .*missing\.jpg"):
        load_photo(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match="fit is 'stretch'; it can be 'square' or 'center-crop'"):
        to_tensor(halves(), 32, "stretch")


def test_an_enormous_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    halves().save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb\.png cannot be used: .*exceeds limit"):
        load_photo(tmp_path / "bomb.png")


def test_demo_photos():
    photos = demo_photos(64)
    assert [photo.name for photo in photos] == list(DEMO_PHOTOS)
    for photo in photos:
        assert photo.image.shape == (3, 64, 64)
        assert 0 <= photo.image.min() < 0.2 < 0.8 < photo.image.max() <= 1
        assert photo.source
    with pytest.raises(ValueError, match="There is no demo photo 'dog'; there are coffee"):
        demo_photo("dog")


# Scenes -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_scene_is_its_seeds(kind, seed):
    scene, again = compose_scene(kind, seed), compose_scene(kind, seed)
    assert torch.equal(scene.image, again.image)
    assert not torch.equal(scene.image, compose_scene(kind, seed + 1).image)
    assert scene.image.shape == (3, 224, 224)
    assert 0 <= scene.image.min() <= scene.image.max() <= 1
    assert len(scene.objects) == (1 if kind == "one" else 2)
    assert len({o.label for o in scene.objects}) == (2 if kind == "two classes" else 1)
    for one in scene.objects:
        assert one.mask.shape == (224, 224)
        assert 0.005 < one.mask.float().mean() < 0.8
    if kind != "one":
        assert not (scene.objects[0].mask & scene.objects[1].mask).any()


def test_masks_are_where_the_objects_were_pasted():
    """Outside a mask, apart from its half-transparent rim, the scene is its background; inside it is not."""
    with_koala, with_zebra = (
        compose_scene("one", 3, labels=(label,), background="grass") for label in ("koala", "zebra")
    )
    background = compose_scene("one", 3, labels=("slug",), background="grass")
    outside = ~(with_koala.objects[0].mask | background.objects[0].mask)
    differs = (with_koala.image - background.image).abs().amax(0) > 0.02
    rim = torch.nn.functional.max_pool2d((~outside).float()[None], 5, 1, 2)[0] > 0
    assert not (differs & ~rim).any()
    assert differs[with_koala.objects[0].mask].float().mean() > 0.8
    assert with_zebra.objects[0].label == "zebra"


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", [64, 240])
def test_every_background_and_size(background, size):
    scene = compose_scene("two classes", 1, size, labels=("koala", "strawberry"), background=background)
    assert scene.background == background
    assert [o.label for o in scene.objects] == ["koala", "strawberry"]
    assert scene.image.shape == (3, size, size)
    assert scene.image.std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "three"}, "kind is 'three'; it can be 'one' or 'two of a class'"),
        ({"kind": "one", "labels": ("dog",)}, r"labels are \['dog'\]; 'one' needs such classes of"),
        ({"kind": "one", "labels": ("koala", "zebra")}, "'one' needs"),
        ({"kind": "two classes", "labels": ("koala",)}, "'two classes' needs"),
        ({"kind": "two of a class", "labels": ("koala", "zebra")}, "'two of a class' needs"),
        ({"kind": "one", "background": "sea"}, "background is 'sea'; it can be grass, gravel, brick, sky"),
    ],
)
def test_impossible_scenes_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        compose_scene(seed=0, **arguments)


def test_cutouts_are_named_by_the_network_on_a_plain_ground(classifier):
    assert 20 <= len(cutouts()) <= 30
    for label, cutout in cutouts().items():
        assert cutout.mode == "RGBA"
        assert max(cutout.size) <= 400
        plain = Image.new("RGBA", (224, 224), (128, 128, 128, 255))
        cutout = cutout.resize(
            [round(180 / max(cutout.size) * side) for side in cutout.size], Image.Resampling.BILINEAR
        )
        plain.alpha_composite(cutout, ((224 - cutout.width) // 2, (224 - cutout.height) // 2))
        (name, probability), *_ = classifier.predict(to_tensor(plain))
        assert (name, probability >= 0.49) == (label, True)


def test_most_scenes_with_one_object_are_recognised(classifier):
    scenes = [compose_scene("one", seed) for seed in range(40)]
    right = [classifier.predict(scene.image, 1)[0][0] == scene.objects[0].label for scene in scenes]
    assert sum(right) >= 30


def jpeg(path, size=(40, 30), colour=(90, 120, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_demo_photos_are_a_set_of_pictures():
    found = images.pictures("demo")
    assert [picture.id for picture in found] == list(images.DEMO_PHOTOS)
    assert found[0].label == "espresso"
    assert torch.equal(found[2].read(64, "square"), images.demo_photo("chelsea", 64).image)


def test_composed_scenes_are_a_set_of_pictures():
    found = images.pictures("scenes")
    assert len(found) == 300
    assert found[100].id == "two of a class 0"
    assert torch.equal(found[201].read(64, "square"), images.compose_scene("two classes", 1, 64).image)


def test_scenes_and_mosaics_know_where_their_objects_are():
    for name, count in (("scenes", 300), ("shapes", 300), ("mosaics", 200)):
        found = images.pictures(name)
        assert len({picture.id for picture in found}) == count
        scene = found[150].scene(96)
        assert torch.equal(scene.image, found[150].read(96, "square"))
        assert all(torch.equal(scene.truth(o.label) & o.mask, o.mask) for o in scene.objects)
        assert not scene.truth("nothing").any()
    assert images.pictures("demo")[0].scene is None
    both = images.compose_scene("two of a class", 0, 64)
    assert torch.equal(both.truth(both.objects[0].label), both.objects[0].mask | both.objects[1].mask)


def test_a_composed_scene_knows_what_it_covers():
    scene = images.compose_scene("one", 5, 96, labels=("koala",), background="sky")
    assert torch.equal(scene.ground, images.compose_scene("one", 5, 96, labels=("zebra",), background="sky").ground)
    differs = (scene.image != scene.ground).any(0)
    assert differs[scene.truth("koala")].float().mean() > 0.95
    assert differs.float().mean() < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_a_mosaic_is_four_photos_each_in_its_cell(seed):
    photos = images.pictures("demo")
    mosaic, again = (images.compose_mosaic(photos, seed, 64) for _ in range(2))
    assert torch.equal(mosaic.image, again.image)
    named = {photo.label or photo.id: photo for photo in photos}
    assert len({thing.label for thing in mosaic.objects}) == 4
    assert torch.equal(sum(thing.mask.int() for thing in mosaic.objects), torch.ones(64, 64, dtype=torch.int32))
    for thing, (y, x) in zip(mosaic.objects, ((0, 0), (0, 32), (32, 0), (32, 32)), strict=True):
        assert torch.equal(mosaic.image[:, y : y + 32, x : x + 32], named[thing.label].read(32, "square"))
        assert thing.mask[y, x]
        assert thing.mask[y + 31, x + 31]
        assert thing.mask.sum() == 32 * 32


def test_a_mosaic_of_too_little_is_one_sentence():
    photos = images.pictures("demo")
    with pytest.raises(ValueError, match="A mosaic needs 4 classes and an even size; there are 3 classes, size 64"):
        images.compose_mosaic(photos[:3], 0, 64)
    with pytest.raises(ValueError, match="there are 7 classes, size 65"):
        images.compose_mosaic(photos, 0, 65)


def test_labels_are_read_from_names_and_folders(tmp_path):
    for name in ("n01440764_great_white_shark.jpg", "mine.jpg", "zebra/1.jpg", "zebra/n02391049_zebra.jpg"):
        jpeg(tmp_path / name)
    found = {picture.id: picture.label for picture in images.pictures(str(tmp_path))}
    assert found == {
        "mine.jpg": None,
        "n01440764_great_white_shark.jpg": "great white shark",
        "zebra/1.jpg": "zebra",
        "zebra/n02391049_zebra.jpg": "zebra",
    }
    for name in ("a", "b", "c"):
        jpeg(tmp_path / name / "1.jpg")
    (mosaic, *_) = images.pictures(f"mosaics:{tmp_path}")
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
    found = images.pictures(str(tmp_path))
    assert [picture.id for picture in found] == ["b.jpg", "more/a.png"]
    assert found[0].read(32, "square").shape == (3, 32, 32)
    assert found[0].bytes == (tmp_path / "b.jpg").stat().st_size


@pytest.mark.parametrize("nested", [False, True])
def test_an_ilsvrc2012_validation_folder_is_read_as_it_is(tmp_path, nested):
    for i in (3, 1, 2):
        name = f"ILSVRC2012_val_{i:08}.JPEG"
        jpeg(tmp_path / (f"n0000000{4 - i}" if nested else ".") / name)
    found = images.pictures(f"ilsvrc2012:{tmp_path}")
    assert [picture.id[-6:] for picture in found] == ["1.JPEG", "2.JPEG", "3.JPEG"]
    assert [picture.label for picture in found] == (["n00000003", "n00000002", "n00000001"] if nested else [None] * 3)
    assert found[0].read(32, "center-crop").shape == (3, 32, 32)


@pytest.mark.parametrize("below", ["", "VOC2007", "VOCdevkit/VOC2007"])
def test_a_vocdevkit_is_read_as_it_is(tmp_path, below):
    root = tmp_path / below
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("000001\n000004\n")
    for name in ("000001", "000002", "000004"):
        jpeg(root / "JPEGImages" / f"{name}.jpg")
    found = images.pictures(f"voc2007:{tmp_path}")
    assert [picture.id for picture in found] == ["000001.jpg", "000004.jpg"]
    assert found[1].read(32, "square").shape == (3, 32, 32)


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
        images.pictures(name.replace("EMPTY", str(tmp_path)))


def test_a_sample_is_the_same_for_the_same_seed_and_in_order():
    available = [images.Picture(f"{i:03}", None) for i in range(100)]
    one, again, other = (images.sample(available, 10, seed) for seed in (5, 5, 6))
    assert one == again != other
    assert [p.id for p in one] == sorted({p.id for p in one})
    assert images.sample(available, None, 0) == images.sample(available, 500, 0) == available
    with pytest.raises(ValueError, match=r"limit is 2\.5"):
        images.sample(available, 2.5, 0)


def test_the_committed_lists_are_what_seed_0_draws():
    lists = images.CUTOUTS.parent / "lists"
    names = [images.Picture(f"ILSVRC2012_val_{i:08}.JPEG", None) for i in range(1, 50001)]
    drawn = [picture.id for picture in images.sample(names, 2000, 0)]
    assert (lists / "ilsvrc2012_val_2000.txt").read_text().split() == drawn
    positions = [images.Picture(str(i), None) for i in range(4952)]
    drawn = [picture.id for picture in images.sample(positions, 2000, 0)]
    assert (lists / "voc2007_test_2000_positions.txt").read_text().split() == drawn


# Lists ------------------------------------------------------------------------


@pytest.fixture
def listing(tmp_path):
    """A folder of three pictures, and what `listed` makes of the lines of a list."""
    for i, name in enumerate(("a.png", "more/b.png", "more/c c.png")):
        jpeg(tmp_path / "pictures" / name, colour=(i, 120, 30))
    available = images.pictures(str(tmp_path / "pictures"))

    def listed(*lines):
        (tmp_path / "chosen.txt").write_text("\n".join(lines), encoding="utf-8")
        return [picture.id for picture in images.listed(available, tmp_path / "chosen.txt")]

    listed.sha256 = {
        picture.id: hashlib.sha256((tmp_path / "pictures" / picture.id).read_bytes()).hexdigest()
        for picture in available
    }
    listed.folder = tmp_path / "pictures"
    return listed


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
    available = images.pictures(str(tmp_path))
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("1.png\nb/2.png\n")
    assert [picture.id for picture in images.listed(available, chosen)] == ["1.png", "b/2.png"]
    chosen.write_text("2.png\n")
    with pytest.raises(
        ValueError, match=r"2\.png, which .* names, can be b/2\.png or c/2\.png: the list must say which"
    ):
        images.listed(available, chosen)


def test_pictures_without_a_file_can_be_listed_but_not_checked(tmp_path):
    available, chosen = images.pictures("demo"), tmp_path / "chosen.txt"
    chosen.write_text("chelsea\ncoffee\n")
    assert [picture.id for picture in images.listed(available, chosen)] == ["chelsea", "coffee"]
    chosen.write_text("0" * 64 + "  chelsea\n")
    with pytest.raises(ValueError, match="chelsea is not the picture"):
        images.listed(available, chosen)


def test_a_missing_list_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no list .*nowhere\.txt\.$"):
        images.listed(images.pictures("demo"), tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match="There is no list"):
        images.listed(images.pictures("demo"), tmp_path)
