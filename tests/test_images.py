"""Tests of images: photos of every kind that a user may have, boxes, and the ground truth."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
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


def steps(*values):
    """A grey photo of 16 bits, with a vertical stripe of each value."""
    return Image.fromarray(np.repeat(np.array([values], np.uint16), 40 // len(values), 1).repeat(20, 0))


def packed_12_bits(*values):
    """A TIFF whose pixels have 12 bits, two of them in three bytes; Pillow reads it, and cannot write it."""
    row = "".join(f"{value:012b}" for value in values)
    pixels = int(row, 2).to_bytes(len(row) // 8, "big") * 20
    entries = {256: len(values), 257: 20, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 20, 279: len(pixels)}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(entries)) + tags + bytes(4)


def png_of_16_bits(colours):
    """A PNG with 16 bits for each colour, from (height, width, 3 or 4); Pillow reads it, and cannot write it."""
    height, width, channels = colours.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


UNSTATED = r"Its largest value is 4095 of 65535, and it does not state which value is white: .*white=4095.*65535\.$"


@pytest.mark.parametrize(
    ("white", "expected"), [(4095, [128, 255]), (65535, [8, 16]), (8190, [64, 128]), (4095.0, [128, 255])]
)
def test_twelve_bits_in_sixteen_are_as_bright_as_the_white_that_is_given(tmp_path, white, expected):
    steps(2048, 4095).save(tmp_path / "scan.png")
    with pytest.raises(ValueError, match=rf"scan\.png cannot be used: {UNSTATED}"):
        load_photo(tmp_path / "scan.png")
    assert corners(load_photo(tmp_path / "scan.png", 32, white=white)) == [[grey] * 3 for grey in expected]


@pytest.mark.parametrize("tag", [281, 341], ids=["MaxSampleValue", "SMaxSampleValue"])
def test_a_tiff_that_states_its_white_is_as_bright_as_that(tmp_path, tag):
    for name, white, scale in (("12.tif", 4095, 1), ("14.tif", 16383, 4)):
        tensor = saved(tmp_path, steps(scale * 1024, scale * 2048), name, tiffinfo={tag: white})
        assert corners(tensor) == [[64] * 3, [128] * 3]
    assert corners(saved(tmp_path, steps(300, 900), "16.tif", tiffinfo={tag: 65535})) == [[1] * 3, [4] * 3]
    assert corners(load_photo(tmp_path / "12.tif", 32, white=2048)) == [[128] * 3, [255] * 3], "what is given wins"


@pytest.mark.parametrize("value", [4000, 255, 1], ids=["its largest value", "less than it has", "one of libtiff's"])
def test_a_tag_that_is_no_white_is_not_believed(tmp_path, value):
    with pytest.raises(ValueError, match="Its largest value is 4000 of 65535, and it does not state which"):
        saved(tmp_path, steps(300, 4000), "scan.tif", tiffinfo={281: value})
    assert corners(saved(tmp_path, steps(257, 25700), "scan.tif", tiffinfo={281: 25700})) == [[1] * 3, [100] * 3]


def test_a_tiff_with_pixels_of_12_bits_is_as_bright_as_they_are(tmp_path):
    (tmp_path / "packed.tif").write_bytes(packed_12_bits(*[1024] * 20, *[2048] * 20))
    assert corners(load_photo(tmp_path / "packed.tif", 32)) == [[64] * 3, [128] * 3]


def test_only_16_bits_that_stay_dark_need_a_white(tmp_path):
    assert corners(saved(tmp_path, steps(0, 4096), "bright.png")) == [[0] * 3, [16] * 3]
    assert corners(saved(tmp_path, steps(0, 0), "black.png")) == [[0] * 3, [0] * 3], "black whatever is white"
    with pytest.raises(ValueError, match="Its largest value is 1 of 65535"):
        saved(tmp_path, steps(0, 1), "dark.png")


@pytest.mark.parametrize(
    ("white", "message"),
    [
        (2000, r"Its values range from 300 to 4000; 0 to 2000 is expected\."),
        (0, "white is 0; it is the value of white, above 0"),
        ("4095", "white is '4095'; it is the value of white"),
        (float("nan"), "white is nan; it is the value of white"),
    ],
)
def test_a_wrong_white_is_one_sentence(white, message):
    with pytest.raises(ValueError, match=message):
        to_tensor(steps(300, 4000), 32, white=white)


def test_a_photo_of_8_bits_has_no_white(tmp_path):
    halves().save(tmp_path / "photo.png")
    with pytest.raises(
        ValueError, match=r"photo\.png cannot be used: white is 4095, but only a grey photo of more than"
    ):
        load_photo(tmp_path / "photo.png", white=4095)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_12_bits_in_16_are_refused(tmp_path, alpha):
    """Pillow reads the upper 8 of the 16 bits: of 12 bits in the lower part it leaves 4, nearly black."""
    colours = np.zeros((20, 40, 3 + alpha), np.uint16)
    colours[:, :20, 0], colours[:, 20:, 2], colours[..., 3:] = 65535, 257 * 100, 65535
    (tmp_path / "colours.png").write_bytes(png_of_16_bits(colours))
    assert corners(load_photo(tmp_path / "colours.png", 32)) == [[255, 0, 0], [0, 0, 100]]
    colours[..., :3] //= 16
    (tmp_path / "colours.png").write_bytes(png_of_16_bits(colours))
    refused = r"colours\.png cannot be used: Its colours have 16 bits, .* stay below 4096: save it with 8 bits"
    with pytest.raises(ValueError, match=refused):
        load_photo(tmp_path / "colours.png")


@pytest.mark.parametrize(
    ("largest", "stated", "why"),
    [
        (16383, 16383, "it states that 16383 is white"),
        (4095, 4095, "it states that 4095 is white"),
        (4095, None, "its values stay below 4096"),
        (4095, 1, "its values stay below 4096"),
        (4096, None, None),
        (16383, 255, None),
        (4095, 65535, None),
    ],
)
def test_colours_of_16_bits_need_the_white_of_16_bits(tmp_path, largest, stated, why):
    colours, tags = np.full((20, 40, 3), largest, np.uint16), [(281, "H", 3, (stated,) * 3)] if stated else []
    tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb", extratags=tags)
    if why is None:
        assert corners(load_photo(tmp_path / "colours.tif", 32)) == [[largest // 256] * 3] * 2
    else:
        with pytest.raises(ValueError, match=rf"colours\.tif cannot be used: .* the upper 8, but {why}: save it"):
            load_photo(tmp_path / "colours.tif")


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
