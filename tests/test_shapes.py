"""The drawn scenes, pixel by pixel, and whether the network trained on them looks at the object."""

import json

import numpy as np
import pytest
import torch

from unioncam_lab import shapes
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.shapes import CLASSES, SHAPES, TRAINING_SEEDS, WEIGHTS, draw_scene, examine
from unioncam_lab.train_shapes import lit, train, training_scenes

KINDS = ["one", "two of a class", "two classes"]
# Their areas, by the formulas of school.
AREAS = {
    "disc": np.pi * 0.9**2,
    "ring": np.pi * (0.95**2 - 0.52**2),
    "square": 1.4**2,
    "triangle": 3 * 3**0.5 / 4,
    "star": 5 * 0.42 * np.sin(np.pi / 5),
    "cross": 4 * 0.52 * 0.92 - 0.52**2,
}


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
    """The rule, recomputed a pixel at a time for an upright square and for one turned by a right angle and a bit."""
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


def test_it_names_fresh_scenes_and_looks_at_the_object():
    found = examine(load_classifier("shapes_vgg", device="cpu"), 300)
    assert found["right"] >= 97
    assert found["object painted over"] < 30
    assert found["sure without the object"] < 60
    assert found["background painted over"] > 90
    assert found["background painted over, grey"] > 90
    record = json.loads((WEIGHTS.parent / "training.json").read_text())
    of_record = record["percent of 1000 fresh scenes"]
    assert of_record["right"] >= 97
    for name, percent in found.items():
        assert percent == pytest.approx(of_record[name], abs=6)
    assert WEIGHTS.stat().st_size < 4e6
    assert record["settings"]["count"] < TRAINING_SEEDS


def test_it_has_the_architecture_for_which_denoising_matters():
    classifier = load_classifier("shapes_vgg", device="cpu")
    assert isinstance(classifier.target_layer, torch.nn.ReLU)
    image = draw_scene("one", 0).image[None]
    activations = []
    with torch.enable_grad():
        hook = classifier.target_layer.register_forward_hook(lambda _, __, output: activations.append(output))
        logits = classifier(image)
        hook.remove()
        (gradient,) = torch.autograd.grad(logits.max(), activations)
    assert gradient.shape == (1, 64, 12, 12)
    assert (gradient.amax((2, 3)) > gradient.amin((2, 3))).all()  # it varies within a channel
    assert 0.7 < (gradient == 0).float().mean() < 0.85  # behind a max-pool three places in four have none


def test_training_learns_and_is_the_same_every_time():
    (network, losses), (again, _) = (train(96, 3, 32) for _ in range(2))
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not network.training


def test_of_five_training_scenes_one_shows_nothing_and_one_nothing_else():
    images, shares = training_scenes(10)
    assert shares.sum(1).tolist() == pytest.approx([1] * 10)
    for i in range(10):
        scene = draw_scene(KINDS[i % 3], TRAINING_SEEDS + i)
        objects = torch.stack([thing.mask for thing in scene.objects]).any(0)
        if i % 5 == 3:
            assert torch.equal(images[i], scene.ground)
            assert shares[i].tolist() == [1 / 8] * 8
            continue
        assert torch.equal(images[i][:, objects], scene.image[:, objects])
        assert (shares[i] > 0).sum() == (2 if i % 3 == 2 else 1)
        around = images[i][:, ~objects]
        if i % 5 == 4:
            assert (around == around[:, :1]).all()
            assert (around == 0).all() == (i == 4)
        else:
            assert torch.equal(images[i], scene.image)


def test_light_dims_and_never_hides():
    torch.manual_seed(0)
    images = torch.rand(50, 3, 16, 16).clamp(min=0.01)
    ratio = lit(images) / images
    assert 0.1 <= ratio.min() < 0.3
    assert 0.9 < ratio.max() <= 1
    assert torch.allclose(ratio[:, 0], ratio[:, 2], atol=1e-5)
