"""Tests of the methods against other libraries and plain loops in double precision, and of their names."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from others import Other, picture
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget, ClassifierOutputTarget
from tiny import TinyCNN
from torchcam.methods import GradCAM as TorchcamGradCAM
from torchcam.methods import GradCAMpp

from fusioncam import fusion_cam
from unioncam_core import Network, NonFiniteScore, Protocol, capture, min_max, region_cam, union_cam, weighted_cam
from unioncam_lab import methods
from unioncam_lab.images import blur, demo_photo
from unioncam_lab.methods import (
    BETAS,
    METHODS,
    center_blob,
    fake_cam,
    find_method,
    find_title,
    grad_cam,
    grad_cam_plus_plus,
    group_cam,
    plain_sum,
    random_map,
    reread,
    score_cam,
)


@pytest.fixture(scope="module")
def photo(classifier):
    (evidence,) = capture(classifier, demo_photo("chelsea").image[None], target_layer=classifier.target_layer)
    return evidence


@pytest.fixture
def evidence(tiny, images):
    return capture(tiny, images[:1], target_layer=tiny.relu2, targets=[3])[0]


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "theirs"), [(grad_cam, GradCAM), (grad_cam_plus_plus, GradCAMPlusPlus)])
@pytest.mark.parametrize("target", [None, 5, 282])
def test_gradient_methods_equal_pytorch_grad_cam(classifier, ours, theirs, target):
    image = demo_photo("chelsea").image[None]
    targets = None if target is None else [target]
    (evidence,) = capture(classifier, image, target_layer=classifier.target_layer, targets=targets)
    with theirs(classifier, [classifier.target_layer]) as cam:
        expected = cam(image, [ClassifierOutputTarget(evidence.target)])[0]
    np.testing.assert_allclose(ours(evidence).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("ours", "theirs"), [(grad_cam, GradCAM), (grad_cam_plus_plus, GradCAMPlusPlus)])
def test_methods_equal_pytorch_grad_cam_where_gradients_vary(images, ours, theirs, seed):
    tiny = TinyCNN(seed).float()
    (evidence,) = capture(tiny, images[:1].float(), target_layer=tiny.relu2, targets=[1])
    with theirs(tiny, [tiny.relu2]) as cam:
        expected = cam(images[:1].float(), [ClassifierOutputTarget(1)])[0]
    # Theirs is scaled before it is upsampled.
    np.testing.assert_allclose(ours(evidence).numpy(), (expected - expected.min()) / np.ptp(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (grad_cam, TorchcamGradCAM),
        # Its division by alpha's denominator writes to a copy and is lost: what is left are third powers.
        (lambda evidence: weighted_cam(evidence, evidence.gradients.relu().pow(3).sum((1, 2))), GradCAMpp),
    ],
)
def test_methods_equal_torchcam(tiny, images, ours, theirs):
    (evidence,) = capture(tiny, images[:1], target_layer=tiny.relu2, targets=[1])
    with theirs(tiny, "relu2") as cam:
        expected = cam(1, tiny(images[:1]), normalized=False)[0]
    expected = min_max(torch.nn.functional.interpolate(expected[None].double(), (12, 12), mode="bilinear"))[0, 0]
    torch.testing.assert_close(ours(evidence), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("denominator", ["activations", "products"])
def test_grad_cam_plus_plus_is_equation_19(evidence, denominator):
    w, a = evidence.gradients.numpy(), evidence.activations.numpy()
    weights = []
    for wk, ak in zip(w, a, strict=True):
        total = 0.0
        for g in wk.flat:
            products = ak.sum() * g**3 if denominator == "activations" else (ak * wk**3).sum()
            alpha = g**2 / (2 * g**2 + products) if g > 0 else 0
            total += alpha * max(g, 0)
        weights.append(total)
    expected = torch.from_numpy(np.maximum(np.einsum("k,khw->hw", weights, a), 0))
    expected = torch.nn.functional.interpolate(expected[None, None], (12, 12), mode="bilinear")[0, 0]
    torch.testing.assert_close(grad_cam_plus_plus(evidence, denominator, eps=0), min_max(expected))


def test_the_two_forms_of_grad_cam_plus_plus_differ_only_where_gradients_vary(evidence, photo):
    assert (grad_cam_plus_plus(evidence) - grad_cam_plus_plus(evidence, "products")).abs().max() > 1e-3
    torch.testing.assert_close(grad_cam_plus_plus(photo), grad_cam_plus_plus(photo, "products"), atol=1e-4, rtol=0)


def test_score_cam_is_a_loop_over_channels(tiny, images, evidence):
    logits, live = [], []
    for k, channel in enumerate(evidence.activations):
        mask = torch.nn.functional.interpolate(channel[None, None], (12, 12), mode="bilinear")[0, 0]
        if mask.max() > mask.min():
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            logits.append(tiny(mask * images[:1])[0, 3].item())
            live.append(k)
    weights = np.exp(logits) / np.exp(logits).sum()
    cam = sum(w * evidence.activations[k] for w, k in zip(weights, live, strict=True)).relu()
    cam = torch.nn.functional.interpolate(cam[None, None], (12, 12), mode="bilinear")[0, 0]
    torch.testing.assert_close(score_cam(evidence), min_max(cam))


@pytest.mark.parametrize("theta", [None, 70])
def test_group_cam_is_a_loop_over_groups(tiny, images, evidence, theta):
    image = images[0]
    blurred = blur(image)
    baseline = tiny(blurred[None]).softmax(1)[0, 3]
    weighted = evidence.gradients.mean((1, 2), keepdim=True) * evidence.activations
    cam = torch.zeros(12, 12, dtype=torch.float64)
    for channels in ([0, 1], [2, 3], [4, 5]):
        group = sum(weighted[k] for k in channels).relu()
        if theta is not None:
            group = group.where(group >= np.percentile(group, theta), 0)
        mask = torch.nn.functional.interpolate(group[None, None], (12, 12), mode="bilinear")[0, 0]
        if mask.max() > mask.min():
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            mixed = mask * image + (1 - mask) * blurred
            cam += (tiny(mixed[None]).softmax(1)[0, 3] - baseline).detach() * mask
    torch.testing.assert_close(group_cam(evidence, groups=3, theta=theta), min_max(cam.relu()))


def test_group_cam_with_a_group_for_each_channel_at_most(evidence):
    torch.testing.assert_close(group_cam(evidence, groups=6), group_cam(evidence, groups=100))
    with pytest.raises(ValueError, match="groups is 0"):
        group_cam(evidence, groups=0)


def test_the_blurred_image_is_a_gaussian_of_51_pixels():
    """The Gaussian is computed by hand in one dimension, reflected at the border without repeating it."""
    image = torch.rand(3, 60, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = np.exp(-(np.arange(-25, 26) ** 2) / (2 * 50**2))
    kernel /= kernel.sum()
    padded = np.pad(image.numpy(), ((0, 0), (25, 25), (25, 25)), mode="reflect")
    rows = sum(k * padded[:, i : i + 60, :] for i, k in enumerate(kernel))
    expected = sum(k * rows[:, :, i : i + 70] for i, k in enumerate(kernel))
    np.testing.assert_allclose(blur(image).numpy(), expected, atol=1e-12)


def test_fake_cam_hides_one_pixel(evidence):
    cam = fake_cam(evidence)
    assert cam.shape == (12, 12)
    assert (cam == 0).sum() == 1
    assert (cam == 1).sum() == 143


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_map(evidence, name):
    cam = METHODS[name](evidence).cam
    assert cam.shape == (12, 12)
    assert cam.min() == 0
    assert cam.max() == 1


@pytest.mark.parametrize("name", METHODS)
def test_dead_channels_make_a_finite_map(tiny, images, name):
    with torch.no_grad():
        tiny.conv2.weight.zero_()
        tiny.conv2.bias.fill_(-1)
    (evidence,) = capture(tiny, images[:1], target_layer=tiny.relu2)
    cam = METHODS[name](evidence).cam
    assert cam.isfinite().all()


def test_a_method_is_found_by_its_name_and_options(evidence, classifier):
    method = find_method("group_cam:groups=2:theta=70")
    assert (find_title(method.name), method.needs_regions) == ("Group-CAM (groups=2, θ = 70)", False)
    assert torch.equal(method.explain(evidence).cam, group_cam(evidence, 2, 70))
    assert find_method("score_cam").needs_regions
    softmax, plain = (find_method(f"union_cam{option}").explain(evidence) for option in (":region_weights=softmax", ""))
    expected = union_cam(reread(evidence, region_weights="softmax"))
    assert torch.equal(softmax.cam, expected.cam)
    assert softmax.betas == {name: getattr(expected, name) for name in BETAS}
    assert softmax.selected == expected.selected
    assert abs(softmax.betas["beta_region"] - plain.betas["beta_region"]) > 1e-7
    for kind in ("softmax", "score"):
        fused = find_method(f"fusion_cam:region_weights={kind}").explain(evidence)
        assert torch.equal(fused.cam, fusion_cam(evidence, region_weights=kind).cam)
        assert fused.selected is None
    assert find_method("grad_cam").explain(evidence).betas == {}


def test_ones_own_method_takes_part_by_its_name(evidence, monkeypatch):
    for registry in ("METHODS", "TITLES", "NEED_REGIONS"):
        monkeypatch.setattr(methods, registry, getattr(methods, registry).copy())

    @methods.method("Positive channels")
    def positive_channels(evidence, least=0.0):
        return weighted_cam(evidence, (evidence.gradients.mean((1, 2)) > least).to(evidence.activations))

    own = find_method("positive_channels:least=0.001")
    assert find_title(own.name) == "Positive channels (least=0.001)"
    assert torch.equal(own.explain(evidence).cam, positive_channels(evidence, 0.001))
    assert not own.needs_regions


def test_a_method_of_pytorch_grad_cam_takes_part_and_leaves_no_trace(classifier, photo):
    for parameter in classifier.parameters():
        parameter.grad = None
    method = find_method("LayerCAM", classifier)
    cam = method.explain(photo).cam
    with LayerCAM(classifier, [classifier.target_layer]) as theirs:
        expected = theirs(photo.image[None], [ClassifierOutputTarget(photo.target)])[0]
    np.testing.assert_allclose(cam.numpy(), expected, atol=1e-5)
    classifier.zero_grad()
    method.explain(photo)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not classifier.target_layer._forward_hooks
    assert (find_title(method.name), method.needs_regions) == ("LayerCAM", False)


def test_a_reading_shares_the_scores_of_masked_images(evidence):
    evidence.region_scores  # noqa: B018
    other = reread(evidence, relu=False)
    assert other.region_output is evidence.region_output
    assert other.protocol == Protocol(relu=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradcam", "no method 'gradcam'; there are grad_cam, .*GradCAM"),
        ("union_cam:theta", "'theta' in 'union_cam:theta' is no option"),
        ("union_cam:phi=3", "union_cam has no option 'phi'; it has theta, weighted, relu"),
        ("LayerCAM:theta=3", "takes no option here, but theta was given"),
        ("LayerCAM", "the classifier must be given"),
        ("BaseCAM", "no method 'BaseCAM'"),
    ],
)
def test_a_wrong_name_is_one_sentence(name, message):
    with pytest.raises(ValueError, match=message):
        find_method(name)


def test_wrong_values_are_one_sentence(evidence):
    with pytest.raises(ValueError, match="denominator is 'sum'"):
        grad_cam_plus_plus(evidence, "sum")
    with pytest.raises(ValueError, match="region_weights is 'mean'"):
        region_cam(evidence, "mean")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("score_cam", "Score-CAM"),
        ("score_cam:weights=score", "Score-CAM (probability)"),
        ("fusion_cam:region_weights=softmax", "Fusion-CAM (softmax)"),
        ("union_cam:theta=0:weighted=False", "UnionCAM (θ = 0, unweighted)"),
        ("group_cam:groups=16", "Group-CAM (groups=16)"),
        ("center_blob", "Centred blob"),
    ],
)
def test_a_title_says_what_differs(name, title):
    assert find_title(name) == title


def test_every_named_option_is_one_that_its_method_has():
    for option in methods.OPTION_TITLES:
        method = {"weights": "score_cam", "eps": "grad_cam_plus_plus"}.get(option.partition("=")[0], "union_cam")
        find_method(f"{method}:{option}")


@pytest.mark.parametrize("weights", ["score", "softmax", "increase"])
def test_score_cam_takes_the_weights_of_a_region_map(evidence, weights):
    cam = find_method(f"score_cam:weights={weights}").explain(evidence)
    torch.testing.assert_close(cam.cam, region_cam(evidence, weights))


def test_a_random_map_is_the_images_own_noise(tiny, images):
    one, same, other_class, other_image = capture(
        tiny, images[[0, 0, 1]], target_layer=tiny.relu2, targets=[2, [2, 4], 2]
    )
    cam = random_map(one)
    assert (float(cam.min()), float(cam.max())) == (0, 1)
    assert torch.equal(random_map(same), cam)
    assert torch.equal(random_map(other_class), cam)
    assert (random_map(other_image) - cam).abs().max() > 0.1
    # As coarse as other maps: two pixels of one place of the feature maps are close, two of different ones are not.
    assert cam.shape == (12, 12)
    noise = torch.nn.functional.avg_pool2d(cam[None, None], 2)[0, 0]
    assert noise.std() > 0.1
    assert (cam - torch.nn.functional.interpolate(noise[None, None], (12, 12), mode="bilinear")).abs().mean() < 0.1


@pytest.mark.parametrize("size", [(12, 12), (9, 15), (224, 96)])
def test_a_centred_blob_is_a_gaussian_of_a_quarter_of_the_side(evidence, size):
    height, width = size
    cam = center_blob(replace(evidence, image=torch.zeros(3, height, width, dtype=torch.float64)))
    assert (cam.shape, float(cam.min()), float(cam.max())) == (size, 0, 1)
    torch.testing.assert_close(cam, cam.flip(0))
    torch.testing.assert_close(cam, cam.flip(1))
    assert cam[(height - 1) // 2, (width - 1) // 2] == 1
    assert cam[0, 0] == 0
    y, x = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)  # in sides of the image
    expected = np.exp(-(x**2 + y**2) / (2 * 0.25**2))
    np.testing.assert_allclose(cam, (expected - expected.min()) / np.ptp(expected), atol=1e-12)


def test_a_plain_sum_adds_all_feature_maps_whatever_the_class(tiny, images):
    one, other = capture(tiny, images[:1], target_layer=tiny.relu2, targets=[[1, 3]])
    total = sum(channel for channel in one.activations)
    total = torch.nn.functional.interpolate(total[None, None], (12, 12), mode="bilinear")[0, 0]
    torch.testing.assert_close(plain_sum(one), min_max(total))
    torch.testing.assert_close(plain_sum(other), plain_sum(one))


def test_controls_ask_the_network_nothing(evidence):
    unasked = replace(evidence, score=None)
    for name in methods.CONTROLS:
        assert find_method(name).explain(unasked).cam.shape == (12, 12)


@pytest.mark.parametrize(("name", "theirs"), [("GradCAM", GradCAM), ("LayerCAM", LayerCAM), ("ScoreCAM", ScoreCAM)])
@pytest.mark.parametrize("target", [0, 1])
def test_pytorch_grad_cam_explains_either_class_of_one_output(name, theirs, target):
    network, image = Other(outputs=1), picture()
    network.target_layer = network.maps
    (evidence,) = capture(network, image[None], target_layer="maps", targets=[target])
    with theirs(network, [network.maps]) as cam:
        expected = cam(image[None], [BinaryClassifierOutputTarget(target)])[0]
        other = cam(image[None], [BinaryClassifierOutputTarget(1 - target)])[0]
    found = find_method(name, network).explain(evidence).cam
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - other).max() > 1e-3, "the two classes have different maps"


def test_pytorch_grad_cam_explains_a_function_and_outputs_in_an_object():
    plain, network, image = Other(), Other(names=True), picture()
    network.target_layer = "maps"

    def margin(outputs):
        return outputs[2] - outputs[0]

    (evidence,) = capture(network, image[None], target_layer="maps", targets=[margin])
    with GradCAM(plain, [plain.maps]) as cam:
        expected = cam(image[None], [margin])[0]
        single = cam(image[None], [ClassifierOutputTarget(2)])[0]
    np.testing.assert_allclose(find_method("GradCAM", network).explain(evidence).cam, expected, atol=1e-6)
    assert np.abs(expected - single).max() > 0.01


def test_pytorch_grad_cam_gets_what_reshapes_the_layers_output():
    network, image = Other(last=True), picture()
    network.target_layer, network.reshape_transform = network.maps, lambda output: output.movedim(-1, 1)
    (evidence,) = capture(
        network, image[None], target_layer="maps", targets=[1], reshape_transform=network.reshape_transform
    )
    with GradCAM(plain := Other(), [plain.maps]) as cam:
        expected = cam(image[None], [ClassifierOutputTarget(1)])[0]
    np.testing.assert_allclose(find_method("GradCAM", network).explain(evidence).cam, expected, atol=1e-6)


def test_noise_of_the_image_is_told_apart_outside_0_to_1_too():
    network = Other(2)
    images = torch.stack([6 * picture(2) - 3, 6 * picture(2) - 3 + 1 / 300, picture(2)])
    normalized, brighter, usual = capture(network, images, target_layer="maps")
    assert torch.equal(random_map(normalized), random_map(normalized))
    assert (random_map(normalized) - random_map(brighter)).abs().max() > 0.1
    seed = zlib.crc32((255 * usual.image).round().to(torch.uint8).numpy().tobytes())  # as in all records
    noise = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(random_map(usual), min_max(usual.upsampled(noise[None])[0]))


@pytest.mark.parametrize("channels", [1, 4])
def test_group_cam_is_a_loop_over_groups_of_any_images(channels):
    network, image = Other(channels, outputs=1), picture(channels)
    (evidence,) = capture(network, image[None], target_layer="maps", targets=[1])
    blurred, cam = blur(image), torch.zeros(12, 12, dtype=torch.float64)
    weighted = evidence.gradients.mean((1, 2), keepdim=True) * evidence.activations
    with torch.no_grad():
        for k in range(5):
            mask = torch.nn.functional.interpolate(weighted[k].relu()[None, None], (12, 12), mode="bilinear")[0, 0]
            if mask.max() > mask.min():
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                mixed = mask * image + (1 - mask) * blurred
                cam += (network(mixed[None]).sigmoid() - network(blurred[None]).sigmoid())[0] * mask
    assert cam.max() > 0
    torch.testing.assert_close(group_cam(evidence), min_max(cam.relu()))


@pytest.mark.parametrize(("number", "name"), [(0, "the blurred image"), (2, "its blurred one by group 1")])
def test_group_cams_scores_that_are_not_finite_name_their_image(evidence, number, name):
    def broken(images):
        outputs = evidence.score.network(images)
        outputs[number] = torch.inf
        return outputs

    with pytest.raises(NonFiniteScore, match=f"for .*{name}"):
        group_cam(replace(evidence, score=replace(evidence.score, network=Network(broken))), groups=3)


def test_ones_own_method_can_return_an_array(evidence, monkeypatch):
    for registry in ("METHODS", "TITLES", "NEED_REGIONS"):
        monkeypatch.setattr(methods, registry, getattr(methods, registry).copy())

    @methods.method("Array")
    def as_array(evidence):
        return grad_cam(evidence).numpy()

    assert torch.equal(methods.METHODS["as_array"](evidence).cam, grad_cam(evidence))
