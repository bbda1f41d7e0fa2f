"""Tests of the training on drawn shapes, and of whether shapes_vgg uses the object."""

import json

import pytest
import torch
from safetensors.torch import load_file

from unioncam_lab import DATA
from unioncam_lab.classifiers import SHAPES_MEAN, SHAPES_STD, SHAPES_WEIGHTS, load_classifier
from unioncam_lab.shapes import draw_scene
from unioncam_lab.train_shapes import NETWORKS, TRAINING_SEEDS, examine, lit, train, training_scenes

KINDS = ["one", "two of a class", "two classes"]


@pytest.mark.slow
def test_it_names_fresh_scenes_and_looks_at_the_object():
    found = examine(load_classifier("shapes_vgg", device="cpu"), 300)
    assert found["right"] >= 97
    assert found["object painted over"] < 30
    assert found["sure without the object"] < 60
    assert found["background painted over"] > 90
    assert found["background painted over, grey"] > 90
    record = json.loads((SHAPES_WEIGHTS.parent / "training.json").read_text())
    of_record = record["percent of 1000 fresh scenes"]
    assert of_record["right"] >= 97
    for name, percent in found.items():
        assert percent == pytest.approx(of_record[name], abs=6)
    assert SHAPES_WEIGHTS.stat().st_size < 4e6
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes_vit"])
def test_the_networks_of_timm_have_learned_what_their_record_says(name):
    network, file = NETWORKS[name]().eval(), DATA / name / "weights.safetensors"
    network.load_state_dict(load_file(file))
    found = examine(lambda images: network((images - SHAPES_MEAN[0]) / SHAPES_STD[0]), 200)
    record = json.loads((file.parent / "training.json").read_text())
    assert found["right"] == pytest.approx(record["percent of 1000 fresh scenes"]["right"], abs=8)
    assert found["right"] > 75 > 2 * found["object painted over"]
    assert record["settings"]["network"] == name
    assert file.stat().st_size < 1.5e6


@pytest.mark.slow
def test_training_learns_and_is_the_same_every_time():
    (network, losses), (again, _) = (train(96, 3, 32) for _ in range(2))
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not network.training


def test_an_unknown_network_is_refused_before_a_scene_is_drawn():
    with pytest.raises(ValueError, match="no network 'resnet'; there are shapes_vgg, shapes_vit"):
        train(network="resnet")


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
