"""Tests of the drawn scenes, pixel by pixel."""

import numpy as np
import pytest
import torch

from unioncam_lab import shapes
from unioncam_lab.shapes import CLASSES, SHAPES, draw_scene

KINDS = ["one", "two of a class", "two classes"]
# Their areas by the formulas of plane geometry.
AREAS = {
    "disc": np.pi * 0.9**2,
    "ring": np.pi * (0.95**2 - 0.52**2),
    "square": 1.4**2,
    "triangle": 3 * 3**0.5 / 4,
    "star": 5 * 0.42 * np.sin(np.pi / 5),
    "cross": 4 * 0.52 * 0.92 - 0.52**2,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_shape_has_its_area_and_fits_its_radius(name):
    axis = (np.arange(2000) + 0.5) / 1000 - 1
    inside = SHAPES[name](axis[None, :], -axis[:, None])
    assert np.hypot(axis[None, :], axis[:, None])[inside].max() <= 1
    if name in AREAS:
        assert inside.sum() / 1e6 == pytest.approx(AREAS[name], abs=2e-3)


def test_a_star_has_points_and_dents():
    for turn in range(5):
        point, dent = 2 * np.pi / 5 * turn, 2 * np.pi / 5 * (turn + 0.5)
        for radius, angle, inside in (
            (0.99, point, True),
            (1.01, point, False),
            (0.41, dent, True),
            (0.43, dent, False),
        ):
            assert SHAPES["star"](radius * np.sin(angle), radius * np.cos(angle)) == inside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_masks_are_exact(kind, seed):
    scene, again = draw_scene(kind, seed), draw_scene(kind, seed)
    assert torch.equal(scene.image, again.image)
    assert 0 <= scene.image.min() <= scene.image.max() <= 1
    objects = torch.stack([thing.mask for thing in scene.objects])
    assert objects.sum(0).max() == 1  # none overlaps another
    changed = (scene.image != scene.ground).any(0)
    assert torch.equal(changed, objects.any(0))  # nothing else was touched, and nothing of them was left
    assert not torch.cat([objects[:, [0, -1]].flatten(), objects[:, :, [0, -1]].flatten()]).any()
    assert len({thing.label for thing in scene.objects}) == (2 if kind == "two classes" else 1)


def test_a_pixel_is_an_objects_if_its_centre_is():
    """The rule is recomputed pixel by pixel for an upright square and for one turned by a little over 90 degrees."""
    for turn in (0.0, 1.7):
        mask = SHAPES["square"](*shapes._own_axes(32, 0.4, 0.55, 0.25, turn))
        for row in range(32):
            for column in range(32):
                x, y = (column + 0.5) / 32 - 0.4, 0.55 - (row + 0.5) / 32
                u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
                assert mask[row, column] == (abs(u) <= 0.7 * 0.25 and abs(v) <= 0.7 * 0.25)


def test_labels_and_backgrounds_can_be_chosen():
    scene = draw_scene("two classes", 1, 64, labels=("star", "ring"), background="brick")
    assert [thing.label for thing in scene.objects] == ["star", "ring"]
    assert scene.background == "brick"
    assert scene.image.shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "three"}, "kind is 'three'; it can be 'one' or"),
        ({"kind": "one", "labels": ("hexagon",)}, r"labels are \['hexagon'\]; 'one' needs 1 of disc"),
        ({"kind": "two classes", "labels": ("disc", "disc")}, "'two classes' needs 2 of"),
        ({"kind": "one", "background": "sea"}, "background is 'sea'"),
    ],
)
def test_wrong_scenes_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        draw_scene(seed=0, **options)
