"""Tests of images: photos of every kind that a user may have, boxes, and the ground truth."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unioncam_lab.images import (
    DEMO_PHOTOS,
    Picture,
    Scene,
    SceneObject,
    box_mask,
    demo_photo,
    load_photo,
    photo_size,
    to_tensor,
    visible_part,
)


def halves(width=40, height=20):
    """A photo whose left half is red and whose right half is blue."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0], array[:, width // 2 :, 2] = 200, 100
    return Image.fromarray(array)


def corners(tensor):
    """Return RGB, 0 to 255, in the middle of the left and of the right quarter."""
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


@pytest.mark.parametrize("size", [(70, 41), (41, 70), (33, 33), (32, 32)])
def test_center_crop_is_pillows(size):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    expected = np.asarray(ImageOps.fit(photo, (32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal((to_tensor(photo, 32, "center-crop") * 255).round().numpy(), expected)


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
    for name in DEMO_PHOTOS:
        photo = demo_photo(name, 64)
        assert photo.name == name
        assert photo.image.shape == (3, 64, 64)
        assert 0 <= photo.image.min() < 0.2 < 0.8 < photo.image.max() <= 1
        assert photo.source
    with pytest.raises(ValueError, match="There is no demo photo 'dog'; there are coffee"):
        demo_photo("dog")


def test_the_visible_part_is_the_whole_or_the_middle():
    assert visible_part(50, 20, "square") == (0, 0, 50, 20)
    assert visible_part(50, 20, "center-crop") == (15, 0, 35, 20)
    assert visible_part(20, 51, "center-crop") == (0, 15.5, 20, 35.5)
    with pytest.raises(ValueError, match="fit is 'stretch'"):
        visible_part(50, 20, "stretch")


@pytest.mark.parametrize("fit", ["square", "center-crop"])
def test_a_box_is_where_pillow_would_put_it(fit):
    """The box is drawn in the photo, which is resized by taking the nearest pixel.

    The sizes are powers of two, so that Pillow's positions are exact too.
    """
    random = np.random.default_rng(0)
    for _ in range(200):
        width, height = random.integers(1, 60, 2).tolist()
        size = 2 ** int(random.integers(7))
        left, top = int(random.integers(width)), int(random.integers(height))
        right, bottom = int(random.integers(left, width)) + 1, int(random.integers(top, height)) + 1
        drawn = Image.new("L", (width, height))
        drawn.paste(255, (left, top, right, bottom))
        part = visible_part(width, height, fit)
        expected = np.asarray(drawn.resize((size, size), Image.Resampling.NEAREST, part)) > 0
        np.testing.assert_array_equal(box_mask((left, top, right, bottom), width, height, size, fit), expected)


def test_the_size_of_a_photo_is_that_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        halves(40, 20).save(tmp_path / "photo.jpg", exif=exif)
        assert photo_size(tmp_path / "photo.jpg") == ((40, 20) if orientation < 5 else (20, 40))
        with Image.open(tmp_path / "photo.jpg") as photo:
            assert ImageOps.exif_transpose(photo).size == photo_size(tmp_path / "photo.jpg")


def test_the_ground_truth_of_a_class_is_the_union_of_its_objects():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, 0], masks[1, :, 0], masks[2, 3, 3] = True, True, True
    objects = [SceneObject(label, mask) for label, mask in zip(("dog", "dog", "cat"), masks, strict=True)]
    scene = Scene(torch.zeros(3, 4, 4), tuple(objects), "photo")
    assert torch.equal(scene.truth("dog"), masks[0] | masks[1])
    assert torch.equal(scene.truth("cat"), masks[2])
    assert not scene.truth("bird").any()
    assert Scene(torch.zeros(3, 4, 4), (), "photo").truth("dog").shape == (4, 4)


def test_a_picture_reads_what_it_was_given():
    calls = []
    picture = Picture("any", "one", None, read_scene=lambda size, fit: calls.append((size, fit)) or "scene")
    assert picture.has_truth
    assert calls == []
    assert picture.scene(8, "center-crop") == "scene"
    assert calls == [(8, "center-crop")]
    assert picture.bytes == 0
