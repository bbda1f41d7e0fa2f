"""Scenes of drawn shapes, with the exact mask of every object."""

from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import torch

from unioncam_lab.images import Scene, SceneKind, SceneObject
from unioncam_lab.scenes import BACKGROUNDS, draw_background

SIZE = 96  # side of a scene in pixels


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Between a point and the next dent the edge of a five-pointed star is straight.
    angle = np.abs((np.arctan2(x, y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    dent = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    return dent[1] * (1 - along) - across * (1 - dent[0]) >= 0


# Whether a point lies in the shape: y points up, and no point of a shape is farther than 1 from the origin.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: np.hypot(x, y) <= 0.9,
    "ring": lambda x, y: (np.hypot(x, y) <= 0.95) & (np.hypot(x, y) >= 0.52),
    "crescent": lambda x, y: (np.hypot(x, y) <= 0.98) & (np.hypot(x - 0.45, y) >= 0.8),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.7,
    "triangle": lambda x, y: (y >= -0.5) & (np.abs(x) * 3**0.5 <= 1 - y),
    "star": _star,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.26) & (np.maximum(np.abs(x), np.abs(y)) <= 0.92),
    "heart": lambda x, y: (1.2 * x) ** 2 + (1.25 * (y + 0.1) - 0.75 * np.sqrt(np.abs(1.2 * x))) ** 2 <= 0.72,
}
CLASSES = list(SHAPES)
FILLS = ("plain", "stripes", "checks", "dots", "noise")


def draw_scene(
    kind: SceneKind, seed: int, size: int = SIZE, *, labels: Sequence[str] | None = None, background: str | None = None
) -> Scene:
    """Shapes of random size, rotation, colours and fill on a texture or a sky, among sticks and blobs of no class.

    A pixel belongs to an object if its centre lies in the shape, and then it has the object's colour alone: nothing is
    smoothed, so the masks are exact. Objects overlap neither each other nor the edge of the scene.

    Args:
        kind: one object, two of a class, or one each of two classes.
        seed: the same seed gives the same scene.
        size: side of the scene in pixels.
        labels: one of the CLASSES, or two for "two classes"; sampled if None.
        background: one of BACKGROUNDS; sampled if None.

    Raises:
        ValueError: `kind` or `background` is unknown, or `labels` do not fit the kind.
    """
    if kind not in get_args(SceneKind):
        raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, get_args(SceneKind)))}.")
    random = np.random.default_rng([4 + get_args(SceneKind).index(kind), seed])
    sampled = random.choice(CLASSES, 2 if kind == "two classes" else 1, replace=False).tolist()
    sampled_background = str(random.choice(BACKGROUNDS))
    labels, background = list(labels or sampled), background or sampled_background
    if len(labels) != len(sampled) or len(set(labels)) != len(labels) or not set(labels) <= set(CLASSES):
        raise ValueError(f"labels are {labels}; {kind!r} needs {len(sampled)} of {', '.join(CLASSES)}.")
    labels = labels * 2 if kind == "two of a class" else labels
    pixels = draw_background(background, random, size) * random.uniform(0.6, 1.1, 3)
    pixels = np.clip(pixels, 0, 1).astype(np.float32)
    for _ in range(random.integers(3, 9)):
        _draw_distractor(pixels, random)
    ground, objects = pixels.copy(), []
    largest = 0.32 if kind == "one" else 0.22
    for label, (x, y, radius) in zip(labels, _places(len(labels), 0.14, largest, random), strict=True):
        mask = SHAPES[label](*_own_axes(size, x, y, radius, random.uniform(0, 2 * np.pi)))
        _fill(pixels, mask, random)
        objects.append(SceneObject(label, torch.from_numpy(mask)))
    image, ground = (torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in (pixels, ground))
    return Scene(image, tuple(objects), background, ground)


def _places(count: int, smallest: float, largest: float, random: np.random.Generator) -> list[tuple]:
    """Centres and radii of circles that overlap neither each other nor the edge, in units of the side."""
    places = []
    while len(places) < count:
        radius = random.uniform(smallest, largest)
        x, y = random.uniform(radius + 0.01, 0.99 - radius, 2)
        if all(np.hypot(x - other[0], y - other[1]) > radius + other[2] for other in places):
            places.append((x, y, radius))
    return places


def _own_axes(size: int, x: float, y: float, radius: float, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """The centres of the pixels in the coordinates of a shape at (x, y): y points up, the unit is its radius."""
    centres = (np.arange(size) + 0.5) / size
    right, up = (centres[None, :] - x) / radius, (y - centres[:, None]) / radius
    return np.cos(turn) * right + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * right


def _fill(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator):
    """Fill a mask with one of the FILLS, in two colours that both differ from the mean colour under the mask."""
    covered = pixels[mask].mean(0)
    colours = []
    while len(colours) < 2:
        colour = random.random(3)
        if np.linalg.norm(colour - covered) > 0.35:
            colours.append(colour)
    period, turn = random.uniform(5, 12), random.uniform(0, np.pi)
    row, column = np.nonzero(mask)
    u = (np.cos(turn) * column + np.sin(turn) * row) / period % 1
    v = (np.cos(turn) * row - np.sin(turn) * column) / period % 1
    match str(random.choice(FILLS)):
        case "plain":
            second = np.zeros(len(row), bool)
        case "stripes":
            second = u < 0.5
        case "checks":
            second = (u < 0.5) ^ (v < 0.5)
        case "dots":
            second = np.hypot(u - 0.5, v - 0.5) < 0.3
        case "noise":
            second = random.random(len(row)) < 0.4
    pixels[mask] = np.where(second[:, None], colours[1], colours[0])


def _draw_distractor(pixels: np.ndarray, random: np.random.Generator):
    """Draw a stick or a blob of random colour over what is there."""
    (x, y), radius, turn = random.random(2), random.uniform(0.04, 0.12), random.uniform(0, 2 * np.pi)
    right, up = _own_axes(len(pixels), x, y, radius, turn)
    if random.random() < 0.5:
        mask = (np.abs(right) <= 1.5) & (np.abs(up) <= random.uniform(0.12, 0.3))
    else:
        waves, angle = random.uniform(-0.3, 0.3, (2, 3)), np.arctan2(up, right)
        edge = 0.8 + sum(a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(waves.T, 1))
        mask = np.hypot(right, up) <= edge
    pixels[mask] = random.random(3)
