"""Scenes of drawn shapes, of which everything is known, and shapes_vgg, the small network that names them.

    draw_scene             a scene by its seed, with the exact mask of every object
    shapes_network         convolutions, max-pools, flatten, fully connected: VGG16's architecture, small
    examine                how often it is right, and whether it looks at the object

train_shapes.py trains it.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from unioncam_core import evaluation
from unioncam_lab.images import BACKGROUNDS, Scene, SceneKind, SceneObject, draw_background

WEIGHTS = Path(__file__).parent.parent / "data" / "shapes_vgg" / "weights.safetensors"
SIZE = 96  # side of a scene in pixels
TRAINING_SEEDS = 10**6  # the first; scenes of smaller seeds are never trained on


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Between a point and the next dent the edge of a five-pointed star is straight.
    angle = np.abs((np.arctan2(x, y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    dent = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    return dent[1] * (1 - along) - across * (1 - dent[0]) >= 0


# Whether a point lies in the shape: y points up, and no part of it is further than 1 from the origin.
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
TEXTURES = ("plain", "stripes", "checks", "dots", "noise")


def draw_scene(
    kind: SceneKind, seed: int, size: int = SIZE, *, labels: Sequence[str] | None = None, background: str | None = None
) -> Scene:
    """Shapes of any size, turn, colour and texture on a texture or a sky, among sticks and blobs that are no shape.

    A pixel belongs to an object if its centre lies in the shape; its colour is then the object's alone. Nothing is
    smoothed, so the masks are exact. Objects do not overlap each other or the edge.

    Args:
        kind: one object, two of a class, or one each of two classes.
        seed: the same seed gives the same scene.
        size: side in pixels.
        labels: which of the CLASSES: one, or two for "two classes". Drawn where None.
        background: one of BACKGROUNDS. Drawn where None.
    """
    if kind not in get_args(SceneKind):
        raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, get_args(SceneKind)))}.")
    random = np.random.default_rng([4 + get_args(SceneKind).index(kind), seed])
    drawn = random.choice(CLASSES, 2 if kind == "two classes" else 1, replace=False).tolist()
    drawn_background = str(random.choice(BACKGROUNDS))
    labels, background = list(labels or drawn), background or drawn_background
    if len(labels) != len(drawn) or len(set(labels)) != len(labels) or not set(labels) <= set(CLASSES):
        raise ValueError(f"labels are {labels}; {kind!r} needs {len(drawn)} of {', '.join(CLASSES)}.")
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
    image, ground = (torch.from_numpy(each).permute(2, 0, 1).contiguous() for each in (pixels, ground))
    return Scene(image, tuple(objects), background, ground)


def _places(count: int, smallest: float, largest: float, random: np.random.Generator) -> list[tuple]:
    """Centres and radii in shares of the side: apart from each other and the edge."""
    places = []
    while len(places) < count:
        radius = random.uniform(smallest, largest)
        x, y = random.uniform(radius + 0.01, 0.99 - radius, 2)
        if all(np.hypot(x - other[0], y - other[1]) > radius + other[2] for other in places):
            places.append((x, y, radius))
    return places


def _own_axes(size: int, x: float, y: float, radius: float, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """The centres of the pixels as a shape at (x, y) sees them, y up, in its radii."""
    centres = (np.arange(size) + 0.5) / size
    right, up = (centres[None, :] - x) / radius, (y - centres[:, None]) / radius
    return np.cos(turn) * right + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * right


def _fill(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator):
    """Colour a mask in one of the TEXTURES, of two colours that both differ from what it covers."""
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
    match str(random.choice(TEXTURES)):
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
    """A stick or a blob of any colour, over whatever lies there."""
    (x, y), radius, turn = random.random(2), random.uniform(0.04, 0.12), random.uniform(0, 2 * np.pi)
    right, up = _own_axes(len(pixels), x, y, radius, turn)
    if random.random() < 0.5:
        mask = (np.abs(right) <= 1.5) & (np.abs(up) <= random.uniform(0.12, 0.3))
    else:
        waves, angle = random.uniform(-0.3, 0.3, (2, 3)), np.arctan2(up, right)
        edge = 0.8 + sum(a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(waves.T, 1))
        mask = np.hypot(right, up) <= edge
    pixels[mask] = random.random(3)


def shapes_network() -> nn.Sequential:
    """RGB (N, 3, 96, 96), normalized -> logits (N, 8). The last feature map, `features[-2]`, is 64×12×12."""
    network = nn.Sequential()
    network.features = make_layers([16, "M", 32, "M", 64, 64, "M", 64, 64, "M"])
    network.flatten = nn.Flatten()
    network.classifier = nn.Sequential(nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, len(CLASSES)))
    return network


MEAN, STD = [0.5] * 3, [0.25] * 3  # what its images are normalized with


def labelled(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) and the share of each class in them (N, C): of two classes, a half each."""
    shares = torch.zeros(len(scenes), len(CLASSES))
    for row, scene in zip(shares, scenes, strict=True):
        for thing in scene.objects:
            row[CLASSES.index(thing.label)] += 1 / len(scene.objects)
    return torch.stack([scene.image for scene in scenes]), shares


def _logits(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Logits (N, C) of images (N, 3, H, W). A network is in evaluation mode for it, and afterwards as it was."""
    with evaluation(classifier) if isinstance(classifier, nn.Module) else nullcontext():
        return torch.cat([classifier(part) for part in images.split(64)])


@torch.no_grad()
def examine(classifier: Callable[[Tensor], Tensor], count: int = 1000) -> dict[str, float]:
    """Does it name fresh scenes, and does it look at the object? Percent of `count` scenes each, of one class.

    Returns:
        `right`: scenes as they are. `object painted over`: the same without the object, nothing else changed.
        `background painted over`: the object on the background of another scene, or (`grey`) on plain grey.
        `sure without the object`: how sure it is of its answer when the object is painted over, on average.
        `both of two classes`: scenes of two classes whose two are the first two answers.
    """
    kinds = [kind for kind in get_args(SceneKind) if kind != "two classes"]
    scenes = [draw_scene(kinds[i % 2], i) for i in range(count)]
    labels = torch.tensor([CLASSES.index(scene.objects[0].label) for scene in scenes])
    images, grounds = (torch.stack([getattr(scene, name) for scene in scenes]) for name in ("image", "ground"))
    masks = torch.stack([scene.truth(scene.objects[0].label) for scene in scenes])[:, None]
    # The next scene's background but one, so that its scene is of the same kind and size.
    others = grounds.roll(2, 0)
    shown = {
        "right": images,
        "object painted over": grounds,
        "background painted over": torch.where(masks, images, others),
        "background painted over, grey": torch.where(masks, images, torch.full_like(images, 0.5)),
    }
    found = {}
    for name, pictures in shown.items():
        sure, answers = _logits(classifier, pictures).softmax(1).max(1)
        found[name] = 100 * float((answers == labels).double().mean())
        if name == "object painted over":
            found["sure without the object"] = 100 * float(sure.double().mean())
    scenes = [draw_scene("two classes", i) for i in range(count)]
    images, shares = labelled(scenes)
    answers = _logits(classifier, images).topk(2).indices
    found["both of two classes"] = 100 * float((shares.gather(1, answers) > 0).all(1).double().mean())
    return found
