"""Tests of composed scenes: their masks, backgrounds and errors, and whether the network recognizes them."""

import pytest
import torch
from PIL import Image

from unioncam_lab.images import to_tensor
from unioncam_lab.scenes import BACKGROUNDS, compose_scene, cutouts

KINDS = ("one", "two of a class", "two classes")


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_most_scenes_with_one_object_are_recognised(classifier):
    scenes = [compose_scene("one", seed) for seed in range(40)]
    right = [classifier.predict(scene.image, 1)[0][0] == scene.objects[0].label for scene in scenes]
    assert sum(right) >= 30


def test_a_composed_scene_knows_what_it_covers():
    scene = compose_scene("one", 5, 96, labels=("koala",), background="sky")
    assert torch.equal(scene.ground, compose_scene("one", 5, 96, labels=("zebra",), background="sky").ground)
    differs = (scene.image != scene.ground).any(0)
    assert differs[scene.truth("koala")].float().mean() > 0.95
    assert differs.float().mean() < 0.9
