"""Scenes of photographed objects pasted on a background, with the exact mask of every object."""

import csv
from functools import cache
from typing import get_args

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageOps

from unioncam_lab import DATA
from unioncam_lab.images import Scene, SceneKind, SceneObject

CUTOUTS = DATA / "cutouts"
# Grey textures of scikit-image (CC0) and the colour each is multiplied by; "sky" is drawn.
GROUNDS = {"grass": (0.75, 1.0, 0.45), "gravel": (1.0, 0.93, 0.82), "brick": (1.25, 0.9, 0.75)}
BACKGROUNDS = (*GROUNDS, "sky")


@cache
def cutouts() -> dict[str, Image.Image]:
    """ImageNet class -> photographed object with an alpha channel, from data/cutouts."""
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

    A pixel belongs to an object if the opacity of the resized cut-out is at least one half there. Objects do not
    overlap.

    Args:
        kind: what is in the scene.
        seed: the same seed gives the same scene.
        size: side of the scene in pixels.
        labels: classes of `cutouts()`, one for each object or one for all; sampled if None.
        background: one of BACKGROUNDS; sampled if None.

    Raises:
        ValueError: `kind` or `background` is unknown, or `labels` do not fit the kind.
    """
    if kind not in get_args(SceneKind):
        raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, get_args(SceneKind)))}.")
    random = np.random.default_rng([get_args(SceneKind).index(kind), seed])
    sampled = random.choice(sorted(cutouts()), 1 if kind != "two classes" else 2, replace=False).tolist()
    sampled_background = str(random.choice(BACKGROUNDS))
    labels, background = list(labels or sampled), background or sampled_background
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
    image, ground = (torch.from_numpy(array).permute(2, 0, 1).clamp(0, 1).contiguous() for array in (pixels, ground))
    return Scene(image, tuple(objects), background, ground)


def draw_background(name: str, random: np.random.Generator, size: int) -> np.ndarray:
    """One of the BACKGROUNDS as RGB (size, size, 3), float32; the caller must clip values above 1."""
    if name == "sky":
        return _sky(random, size)
    if name not in GROUNDS:
        raise ValueError(f"background is {name!r}; it can be {', '.join(BACKGROUNDS)}.")
    texture = _texture(name)
    x, y = random.integers(0, texture.shape[0] - 320, 2)
    grey = Image.fromarray(texture[y : y + 320, x : x + 320]).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(grey, dtype=np.float32)[..., None] / 255 * np.float32(GROUNDS[name])


@cache
def _texture(name: str) -> np.ndarray:
    return getattr(skimage.data, name)()


def _sky(random: np.random.Generator, size: int) -> np.ndarray:
    """A blue that grows pale towards the horizon, with clouds of noise at five scales."""
    height = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    blue = (1 - height) * np.float32([0.25, 0.5, 0.85]) + height * np.float32([0.75, 0.87, 0.97])
    clouds = np.zeros((size, size), dtype=np.float32)
    for octave in range(5):
        noise = random.random((3 * 2**octave, 2 * 2**octave), dtype=np.float32)
        clouds += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) / 2**octave
    cover = np.clip(clouds - clouds.mean(), 0, None)
    cover = (cover / cover.max())[..., None] * 0.9
    return blue * (1 - cover) + cover * np.float32([0.98, 0.98, 1.0])
