"""Tests of Equations 1-8 against computations by hand, other libraries, and properties of any network."""

import doctest
import inspect
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from reference import algorithm_1, bilinear, probability
from tiny import TinyCNN, all_finite, explain, state
from torch import nn
from torchcam.methods import ScoreCAM as TorchcamScoreCAM

import fusioncam
import unioncam_core
from fusioncam import FusionCAM, fusion_cam
from unioncam_core import (
    Evidence,
    Network,
    Protocol,
    Scorer,
    UnionCAM,
    capture,
    contribution,
    denoise,
    denoised_cam,
    min_max,
    pixel_weights,
    region_cam,
    region_weights,
    union_cam,
)
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.methods import score_cam
from unioncam_lab.metrics import drop, increase

EXPLAINERS = [UnionCAM, FusionCAM]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")),
]


@pytest.mark.parametrize("theta", [0, 10, 37.5, 70, 100])
@pytest.mark.parametrize("seed", range(4))
def test_algorithm_1_by_hand(images, seed, theta):
    model = TinyCNN(seed)
    for image, evidence in zip(images, explain(model, images, targets=[0, 1, 2]), strict=True):
        steps = union_cam(evidence, theta)
        A, c = model.features(image[None])[0].detach().numpy(), evidence.target
        W = model.fc.weight[c].detach().numpy().reshape(A.shape)  # the fully connected layer's weights are the gradient
        by_hand = algorithm_1(A, W, image.numpy(), partial(probability, model, c=c), theta)
        assert steps.selected == by_hand.pop("selected")
        for name, value in by_hand.items():
            np.testing.assert_allclose(getattr(steps, name), value, atol=1e-12)


def test_both_maps_get_selected_by_hand(images):
    """The cases above test Eq. 8 only if it selects each map at least once."""
    chosen = {union_cam(e).selected for seed in range(4) for e in explain(TinyCNN(seed), images, targets=[0, 1, 2])}
    assert chosen == {"united", "region"}


@pytest.mark.parametrize("seed", range(4))
def test_table_4s_base_sums_both_maps_without_weights(images, seed):
    for evidence in explain(TinyCNN(seed), images, targets=[0, 1, 2]):
        steps, weighted = union_cam(evidence, theta=0, weighted=False), union_cam(evidence, theta=0)
        torch.testing.assert_close(steps.united, min_max(steps.denoised + steps.region))
        assert steps.beta_united == pytest.approx(contribution(evidence, steps.united))
        assert (steps.beta_denoising, steps.beta_region) == (weighted.beta_denoising, weighted.beta_region)
        assert steps.selected == ("united" if steps.beta_united > steps.beta_region else "region")


def test_capture_by_hand(tiny, images):
    for image, evidence in zip(images, explain(tiny, images), strict=True):
        logits = tiny(image[None])[0]
        assert evidence.target == int(logits.argmax())
        assert evidence.probability == pytest.approx(probability(tiny, image, evidence.target), abs=1e-12)
        black = probability(tiny, torch.zeros_like(image), evidence.target)
        assert evidence.black_score == pytest.approx(black, abs=1e-12)
        torch.testing.assert_close(evidence.activations, tiny.features(image[None])[0])
        torch.testing.assert_close(evidence.gradients.flatten(), tiny.fc.weight[evidence.target].detach())


def test_denoise_by_hand():
    W = torch.tensor([[[-2.0, -1, 0], [1, 2, 3], [4, 5, 6]]])
    assert denoise(W, 0).tolist() == W.tolist()
    assert denoise(W, 50).tolist() == [[[0, 0, 0], [0, 2, 3], [4, 5, 6]]]
    assert denoise(W, 100).tolist() == [[[0, 0, 0], [0, 0, 0], [0, 0, 6]]]
    # The positive values 1 ... 6 have their 60th percentile at 4.
    assert denoise(W, 60, positive=True).tolist() == [[[0, 0, 0], [0, 0, 0], [4, 5, 6]]]
    assert denoise(-W.abs(), 10, positive=True).count_nonzero() == 0


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    theta=st.floats(0, 100),
    positive=st.booleans(),
)
def test_denoise_is_numpys_percentile(values, theta, positive):
    W = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    denoised = denoise(W, theta, positive).flatten().numpy()
    ranked = [v for v in values if v > 0] if positive else values
    threshold = np.percentile(ranked, theta) if ranked else np.inf
    for value, kept in zip(values, denoised, strict=True):
        if abs(value - threshold) > 1e-6:
            assert kept == (value if value > threshold and (value > 0 or not positive) else 0)


@pytest.mark.parametrize("n", range(2, 102))
def test_a_percentile_that_falls_on_a_value_keeps_it(n):
    """7 % of 100 steps is 7.000000000000001 in floating point: Eq. 1's >= would drop the value it should keep."""
    W = torch.arange(n, dtype=torch.float64).view(1, 1, n)
    for theta in range(0, 101):
        if theta * (n - 1) % 100 == 0:
            assert int((denoise(W + 1, theta) > 0).sum()) == n - theta * (n - 1) // 100


def test_pixel_weights_sum_to_one_however_small_the_gradient():
    W = torch.tensor([[[1e-38, -1.0], [3e-38, 0]], [[2.0, 2], [2, 2]], [[-1.0, -2], [0, -3]]])
    weights = pixel_weights(W)
    torch.testing.assert_close(weights[0], torch.tensor([[0.25, 0], [0.75, 0]]))
    assert weights.sum((1, 2)).tolist() == pytest.approx([1, 1, 0], abs=1e-6)


def test_theta_10_changes_nothing_where_its_percentile_is_not_positive(images):
    """ReLU (Eq. 2) removes what a percentile <= 0 removes: Eq. 1 is then without effect on the map."""
    evidence, *_ = explain(TinyCNN(channels=24), images)
    assert evidence.gradients.flatten(1).quantile(0.1, dim=1).max() <= 0
    assert torch.equal(denoised_cam(evidence, 10), denoised_cam(evidence, 0))
    assert not torch.allclose(denoised_cam(evidence, 90), denoised_cam(evidence, 0), atol=1e-3)


def test_activations_and_gradients_are_pytorch_grad_cams(tiny, images):
    with GradCAM(tiny, [tiny.conv2]) as reference:
        reference(images, [ClassifierOutputTarget(c) for c in (0, 1, 2)])
        activations = reference.activations_and_grads.activations[0]
        gradients = reference.activations_and_grads.gradients[0]
    for i, evidence in enumerate(explain(TinyCNN(inplace=False), images, layer="conv2", targets=[0, 1, 2])):
        torch.testing.assert_close(evidence.gradients, gradients[i])
        torch.testing.assert_close(evidence.activations.relu(), activations[i].relu())


def test_region_map_with_softmax_weights_is_score_cam(images):
    """Without upsampling, in which the libraries differ, all versions of Score-CAM are equal."""
    model = TinyCNN(stride=1)
    protocol = Protocol(region_weights="softmax")
    ours = torch.stack([region_cam(e) for e in explain(model, images, targets=[0, 1, 2], protocol=protocol)])
    with ScoreCAM(model, [model.relu2]) as score_cam:
        theirs = score_cam(images, [ClassifierOutputTarget(c) for c in (0, 1, 2)])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for i, cam in enumerate(ours):
        with TorchcamScoreCAM(model, "relu2", input_shape=(3, 12, 12)) as extractor:
            model(images[[i]])
            torch.testing.assert_close(cam, extractor(class_idx=i)[0][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "targets", [None, [ClassifierOutputTarget(3), ClassifierOutputTarget(0), ClassifierOutputTarget(1)]]
)
def test_the_call_is_pytorch_grad_cams(tiny, images, targets):
    ours = UnionCAM(model=tiny, target_layers=[tiny.relu2])(input_tensor=images, targets=targets)
    with GradCAM(model=tiny, target_layers=[tiny.relu2]) as grad_cam:
        theirs = grad_cam(input_tensor=images, targets=targets)
    assert ours.shape == theirs.shape == (3, 12, 12)
    assert ours.dtype == np.float32
    steps = [union_cam(e) for e in explain(tiny, images, targets=targets)]
    np.testing.assert_allclose(ours, np.float32([s.cam.numpy() for s in steps]), atol=1e-6)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_several_target_layers_are_averaged(tiny, images, explainer):
    first, second = (explainer(tiny, [layer])(images) for layer in ("relu1", "relu2"))
    both = explainer(tiny, [tiny.relu1, "relu2"])(images)
    np.testing.assert_allclose(both, min_max(torch.from_numpy(first + second)), atol=1e-6)
    np.testing.assert_array_equal(explainer(tiny, tiny.relu2)(images), second)
    with explainer(model=tiny, target_layers=[tiny.relu2]) as cam:
        np.testing.assert_array_equal(cam(images), second)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    channels=st.integers(1, 12),
    side=st.integers(1, 17),
    stride=st.integers(1, 4),
    classes=st.integers(2, 6),
    theta=st.floats(0, 100),
    protocol=st.builds(
        Protocol,
        class_score=st.sampled_from(["probability", "logit"]),
        gradient_of=st.sampled_from(["logit", "probability"]),
        region_weights=st.sampled_from(["score", "softmax", "increase"]),
        percentile_over=st.sampled_from(["channel", "positive", "map"]),
        relu=st.booleans(),
        clamp_beta=st.booleans(),
    ),
)
def test_steps_hold_their_promises(seed, channels, side, stride, classes, theta, protocol):
    model = TinyCNN(seed, channels, side, classes, stride=stride)
    image = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (evidence,) = explain(model, image, protocol=protocol)
    steps = union_cam(evidence, theta)
    for cam in (steps.denoised, steps.region, steps.united, steps.cam):
        assert cam.shape == (side, side)
        assert 0 <= cam.min() <= cam.max() <= 1
    for cam, beta in (
        (steps.denoised, steps.beta_denoising),
        (steps.region, steps.beta_region),
        (steps.united, steps.beta_united),
    ):
        score = probability(model, cam * image[0], evidence.target)
        if protocol.class_score == "logit":
            score = float(model((cam * image[0])[None])[0, evidence.target].detach())
        assert beta == pytest.approx(score - evidence.black_score, abs=1e-9)
    assert steps.cam is (steps.united if steps.selected == "united" else steps.region)
    if steps.selected == "united":
        assert steps.beta_united > steps.beta_region


def left_of_the_class(evidence, cam):
    """Return f^c(map ∘ I0), from which average drop and average increase are computed."""
    return contribution(evidence, cam) + evidence.black_score


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    image_seed=st.integers(0, 2**31),
    channels=st.integers(1, 12),
    classes=st.integers(2, 6),
    theta=st.floats(0, 100),
    weighted=st.booleans(),
    protocol=st.builds(
        Protocol,
        region_weights=st.sampled_from(["score", "softmax", "increase"]),
        percentile_over=st.sampled_from(["channel", "positive", "map"]),
        clamp_beta=st.booleans(),
    ),
)
@example(2, 1, 6, 5, 10, True, Protocol())
def test_with_like_weights_union_cam_never_leaves_less_of_the_class_than_score_cam(
    seed, image_seed, channels, classes, theta, weighted, protocol
):
    """This is a theorem about Eq. 8: the region map is Score-CAM's map, and Eq. 8 keeps the better of it and the union.

    So no image's drop is larger and no image's increase smaller, whatever the network and however bad the denoised map.
    """
    model = TinyCNN(seed, channels, classes=classes)
    image = torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(image_seed))
    (evidence,) = explain(model, image, protocol=protocol)
    steps, plain = union_cam(evidence, theta, weighted), score_cam(evidence, protocol.region_weights)
    torch.testing.assert_close(plain, steps.region, atol=1e-12, rtol=0)
    ours, theirs = left_of_the_class(evidence, steps.cam), left_of_the_class(evidence, plain)
    assert ours >= theirs - 1e-12
    assert drop(evidence.probability, ours) <= drop(evidence.probability, theirs) + 1e-9
    assert increase(evidence.probability, ours + 1e-12) >= increase(evidence.probability, theirs)


def test_with_unlike_weights_score_cam_leaves_more_of_the_class_for_some_images_and_less_for_others(images):
    """The theorem does not apply to Score-CAM with softmax and UnionCAM with probability, as both are published."""
    gained = []
    for seed in range(12):
        for evidence in explain(TinyCNN(seed), images):
            plain = left_of_the_class(evidence, score_cam(evidence, "softmax"))
            gained.append(left_of_the_class(evidence, union_cam(evidence).cam) - plain)
    assert min(gained) < -1e-6
    assert max(gained) > 1e-6


@pytest.mark.parametrize("method", [union_cam, fusion_cam])
@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_double_precision_rounded(images, device, method):
    double, single = TinyCNN(3), TinyCNN(3).float().to(device)
    for exact, rounded in zip(explain(double, images), explain(single, images.float()), strict=True):
        assert rounded.activations.device.type == device
        torch.testing.assert_close(method(rounded).cam.cpu().double(), method(exact).cam, atol=1e-4, rtol=0)


def test_a_batch_is_its_images_and_their_classes(tiny, images):
    together = explain(tiny, images, targets=[[0, 3], 1, [2, 4, 0]])
    assert [e.target for e in together] == [0, 3, 1, 2, 4, 0]
    alone = [explain(tiny, images[[i]], targets=[c])[0] for i, c in ((0, 0), (0, 3), (1, 1), (2, 2), (2, 4), (2, 0))]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.gradients, other.gradients)
        assert one.probability == pytest.approx(other.probability)
        torch.testing.assert_close(union_cam(one).cam, union_cam(other).cam)


@pytest.mark.parametrize("targets", [torch.tensor([0, 1, 2]), np.array([0, 1, 2]), (0, 1, 2)])
def test_targets_may_be_arrays(tiny, images, targets):
    assert [e.target for e in explain(tiny, images, targets=targets)] == [0, 1, 2]


def test_an_image_of_another_size_than_square():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.LazyLinear(4))
    images = torch.rand(2, 3, 30, 21)
    model(images)
    assert UnionCAM(model, [model[1]])(images).shape == (2, 30, 21)


def test_region_weights_by_hand(tiny, images):
    evidence, *_ = explain(tiny, images)
    masks = evidence.masks(list(range(6)))
    logits = torch.stack([tiny((mask * evidence.image)[None])[0, evidence.target] for mask in masks]).detach()
    scores = torch.tensor([probability(tiny, mask * evidence.image, evidence.target) for mask in masks])
    scores, logits = scores.where(evidence.live, 0), logits.where(evidence.live, -torch.inf)
    torch.testing.assert_close(region_weights(evidence), scores)
    softmax = replace(evidence, protocol=Protocol(region_weights="softmax"))
    torch.testing.assert_close(region_weights(softmax), logits.softmax(0))
    increase = replace(evidence, protocol=Protocol(region_weights="increase"))
    torch.testing.assert_close(region_weights(increase), (scores - evidence.black_score).where(evidence.live, 0))


def test_gradient_of_the_probability_is_p_times_one_minus_p_and_the_other_logits(tiny, images):
    """d p_c / d A = p_c (d logit_c / d A - sum_j p_j d logit_j / d A)."""
    evidence, *_ = explain(tiny, images, protocol=Protocol(gradient_of="probability"))
    p = tiny(images[:1]).softmax(1)[0].detach()
    weights = tiny.fc.weight.detach()
    expected = p[evidence.target] * (weights[evidence.target] - p @ weights)
    torch.testing.assert_close(evidence.gradients.flatten(), expected)


def test_logit_as_class_score(tiny, images):
    evidence, *_ = explain(tiny, images, protocol=Protocol(class_score="logit"))
    assert evidence.black_score == pytest.approx(tiny(images[:1] * 0)[0, evidence.target].item())
    cam = torch.rand(12, 12, dtype=torch.float64)
    expected = tiny((cam * images[0])[None])[0, evidence.target] - evidence.black_score
    assert contribution(evidence, cam) == pytest.approx(expected.item())


@pytest.mark.slow
def test_masking_the_normalized_tensor(classifier):
    image = torch.rand(1, 3, 64, 64)
    (evidence,) = explain(classifier, image, classifier.target_layer, protocol=Protocol(mask_space="normalized"))
    cam = torch.rand(64, 64)
    with torch.no_grad():
        masked = classifier.network(cam * (image - classifier.mean) / classifier.std).softmax(1)[0, evidence.target]
        black = classifier.network(torch.zeros_like(image)).softmax(1)[0, evidence.target]
    assert evidence.black_score == pytest.approx(float(black), abs=1e-6)
    assert contribution(evidence, cam) == pytest.approx(float(masked - black), abs=1e-5)


def test_percentile_of_the_maps_pixels(tiny, images):
    evidence, *_ = explain(tiny, images, protocol=Protocol(percentile_over="map"))
    whole, cut = denoised_cam(evidence, 0), denoised_cam(evidence, 40)
    threshold = np.percentile(whole, 40)
    np.testing.assert_array_equal(cut, np.where(whole >= threshold, whole, 0))


def test_without_scaling_maps_stay_as_they_are(tiny, images):
    evidence, *_ = explain(tiny, images, protocol=Protocol(map_scale="none"))
    torch.testing.assert_close(
        evidence.masks([0])[0], torch.from_numpy(bilinear(evidence.activations[0].numpy(), 12, 12))
    )
    maps = UnionCAM(tiny, ["relu2"], protocol=Protocol(map_scale="none"))(images)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_negative_evidence_is_set_to_zero_or_kept(tiny, images):
    (kept,) = explain(tiny, images[:1], protocol=Protocol(relu=False, map_scale="none"))
    centred = kept.activations - kept.activations.mean((1, 2), keepdim=True)
    kept = replace(kept, activations=centred, gradients=torch.rand_like(centred))
    cut = replace(kept, protocol=Protocol(map_scale="none"))
    total = (pixel_weights(denoise(kept.gradients, 10)) * kept.activations).sum(0)
    assert total.min() < 0
    np.testing.assert_allclose(denoised_cam(kept), bilinear(total.numpy(), 12, 12))
    np.testing.assert_allclose(denoised_cam(cut), bilinear(total.relu().numpy(), 12, 12))
    total = sum(w * channel for w, channel in zip(kept.region_scores, kept.activations, strict=True))
    assert total.min() < 0
    np.testing.assert_allclose(region_cam(kept), bilinear(total.numpy(), 12, 12), atol=1e-12)
    np.testing.assert_allclose(region_cam(cut), bilinear(total.relu().numpy(), 12, 12), atol=1e-12)


def test_negative_contributions_can_count_as_zero(images):
    """For an image that speaks against its class, both maps contribute less than the black image."""
    seeds = range(12)
    evidences = [e for seed in seeds for e in explain(TinyCNN(seed), images[:1], targets=[[0, 1, 2, 3, 4]])]
    measured = [union_cam(e) for e in evidences]
    clamped = [union_cam(replace(e, protocol=Protocol(clamp_beta=True))) for e in evidences]
    both_negative = [max(s.beta_denoising, s.beta_region) < 0 for s in measured]
    assert any(both_negative)
    for steps, clamp, negative in zip(measured, clamped, both_negative, strict=True):
        weights = max(steps.beta_denoising, 0), max(steps.beta_region, 0)
        torch.testing.assert_close(clamp.united, min_max(weights[0] * steps.denoised + weights[1] * steps.region))
        if negative:
            assert clamp.selected == "region"


@pytest.mark.parametrize(("option", "value"), [("class_score", "softmax"), ("relu", "yes"), ("clamp_beta", None)])
def test_protocol_refuses_what_it_does_not_know(option, value):
    with pytest.raises(ValueError, match=f"Protocol.{option} is {value!r}; it can be"):
        Protocol(**{option: value})


@pytest.mark.parametrize("returns", ["logits", "class score"])
def test_another_scorer_judges_the_masked_images(tiny, images, returns):
    asked = []

    def score(masked):
        asked.append(len(masked))
        logits = tiny(masked)
        return logits if returns == "logits" else logits.softmax(1)[:, 2]

    evidence, *_ = explain(tiny, images[:1], targets=[2], score=score)
    reference, *_ = explain(tiny, images[:1], targets=[2])
    torch.testing.assert_close(union_cam(evidence).cam, union_cam(reference).cam)
    assert not evidence.region_scores.requires_grad
    assert sum(asked) == 1 + int(evidence.live.sum()) + 3, "black, every live channel, three maps"
    if returns == "class score":
        with pytest.raises(ValueError, match="softmax' needs logits"):
            region_cam(replace(evidence, protocol=Protocol(region_weights="softmax")))


@pytest.mark.parametrize("method", [union_cam, fusion_cam])
def test_evidence_can_be_made_by_hand(tiny, images, method):
    captured, *_ = explain(tiny, images)
    made = Evidence(
        image=images[0],
        target=captured.target,
        activations=captured.activations,
        gradients=captured.gradients,
        probability=captured.probability,
        black_score=captured.black_score,
        score=Scorer(Network(tiny), captured.target),
    )
    torch.testing.assert_close(method(made).cam, method(captured).cam)
    alone = replace(made, score=Scorer(Network(lambda masked: tiny(masked).softmax(1)[:, captured.target]), 0))
    torch.testing.assert_close(union_cam(alone).cam, union_cam(captured).cam)


def test_constant_channels_are_never_scored(tiny, images):
    with torch.no_grad():
        tiny.conv2.bias += 1
        tiny.conv2.weight[[1, 4]] = 0
        tiny.conv2.bias[1], tiny.conv2.bias[4] = 0.7, -1
    evidence, *_ = explain(tiny, images)
    assert evidence.live.tolist() == [True, False, True, True, False, True]
    assert evidence.region_scores[[1, 4]].tolist() == [0, 0]
    calls = []
    counting = replace(evidence, score=Scorer(Network(lambda x: calls.append(len(x)) or evidence.score(x)), 0))
    torch.testing.assert_close(counting.region_scores, evidence.region_scores)
    assert sum(calls) == 4
    assert all_finite(union_cam(evidence))


def test_zero_gradient(tiny, images):
    with torch.no_grad():
        tiny.fc.weight[2] = 0
    evidence, *_ = explain(tiny, images[:1], targets=[2])
    steps = union_cam(evidence)
    assert steps.denoised.count_nonzero() == 0
    assert all_finite(steps)
    torch.testing.assert_close(steps.united, steps.region if steps.beta_region > 0 else min_max(-steps.region))


@pytest.mark.parametrize("method", [union_cam, fusion_cam])
@pytest.mark.parametrize("theta", [0, 10, 100])
def test_black_image(tiny, theta, method):
    evidence, *_ = explain(tiny, torch.zeros(1, 3, 12, 12, dtype=torch.float64))
    steps = method(evidence, theta)
    assert all_finite(steps)
    assert (steps.beta_denoising, steps.beta_region, steps.beta_united) == (0, 0, 0)
    if method is union_cam:
        assert steps.selected == "region"
    else:
        assert (steps.shares, steps.second_shares) == ((0, 1), (0, 1))


@pytest.mark.parametrize("method", [union_cam, fusion_cam])
def test_feature_map_of_one_pixel(method):
    evidence, *_ = explain(TinyCNN(side=3, stride=3), torch.rand(1, 3, 3, 3, dtype=torch.float64))
    assert evidence.activations.shape[1:] == (1, 1)
    steps = method(evidence)
    assert all_finite(steps)
    assert steps.cam.count_nonzero() == 0


class Awkward(nn.Module):
    """Batch normalization, dropout, in-place ReLUs, one ReLU used three times, frozen and trainable parameters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.drop, self.fc = nn.Conv2d(4, 6, 3), nn.Dropout(0.5), nn.Linear(6 * 8 * 8, 5)
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        x = self.relu(self.norm(self.conv1(images)))
        x = self.relu(self.conv2(x))
        return self.fc(self.drop(self.relu(x + 0.1).flatten(1)))


@pytest.fixture
def awkward():
    model = Awkward()
    model.train()
    model.norm.eval()
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.full_like(model.fc.weight, 7.0)
    return model


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("layer", ["relu", "conv2", "norm"])
def test_the_model_is_left_as_it_was(awkward, layer, explainer):
    images = torch.rand(2, 3, 12, 12)
    before = state(awkward)
    maps = explainer(awkward, [layer])(images)
    assert state(awkward) == before
    with pytest.raises(ValueError, match="theta is 101"):
        explainer(awkward, [layer], theta=101)(images)
    assert state(awkward) == before
    np.testing.assert_array_equal(explainer(awkward.eval(), [layer])(images), maps)


@pytest.mark.parametrize(
    "bad",
    [
        {"target_layer": "fc"},
        {"target_layer": "unused"},
        {"target_layer": "conv2", "targets": [99, 0]},
        {"target_layer": "conv2", "score": lambda images: 1 / 0},
    ],
)
def test_the_model_is_left_as_it_was_after_an_error(awkward, bad):
    images = torch.rand(2, 3, 12, 12)
    before = state(awkward)
    with pytest.raises((ValueError, ZeroDivisionError)):
        capture(awkward, images, **bad)
    assert state(awkward) == before


def test_in_place_relu_does_not_reach_the_captured_map(images):
    for layer in ("conv1", "conv2", "relu2"):
        one, other = (explain(TinyCNN(inplace=inplace), images, layer)[0] for inplace in (True, False))
        torch.testing.assert_close(one.activations, other.activations)
        torch.testing.assert_close(one.gradients, other.gradients)
        torch.testing.assert_close(union_cam(one).cam, union_cam(other).cam)


def test_frozen_parameters_and_switched_off_gradients(images):
    expected = UnionCAM(TinyCNN(), ["relu2"])(images)
    frozen = TinyCNN().requires_grad_(False)
    np.testing.assert_allclose(UnionCAM(frozen, ["relu2"])(images), expected, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(UnionCAM(frozen, ["relu2"])(images), expected, atol=1e-6)
    with torch.inference_mode():
        np.testing.assert_allclose(UnionCAM(frozen, ["relu2"])(images + 0), expected, atol=1e-6)


def test_the_callers_image_is_neither_changed_nor_kept(tiny, images):
    original = images.clone()
    evidence, *_ = explain(tiny, images)
    images.zero_()
    torch.testing.assert_close(evidence.image, original[0])


@pytest.mark.slow
def test_fifty_explanations_leave_no_memory_behind():
    classifier = load_classifier("shapes_vgg", device="cpu")
    cam, process = UnionCAM(classifier, [classifier.target_layer]), psutil.Process()
    images = torch.rand(60, 1, 3, 96, 96)
    for image in images[:10]:
        cam(image)
    before = process.memory_info().rss
    for image in images[10:]:
        cam(image)
    grown = (process.memory_info().rss - before) / 2**20
    print(f"resident memory grew by {grown:.1f} MiB")
    assert grown < 50


IMAGE = torch.rand(2, 3, 12, 12, dtype=torch.float64)


class Wrapped(TinyCNN):
    """A tiny network with a wrong output, or with a part that is not used."""

    def __init__(self, output):
        super().__init__()
        self.output, self.unused, self.aside = output, nn.Conv2d(3, 3, 1).double(), nn.Conv2d(3, 3, 1).double()

    def forward(self, images):
        self.aside(images)
        return self.output(super().forward(images))


@pytest.mark.parametrize(
    ("model", "images", "options", "error", "sentence"),
    [
        (TinyCNN(), IMAGE, {"layer": "layer4"}, ValueError, "TinyCNN has no layer 'layer4'; its last .*relu2, fc"),
        (TinyCNN(), IMAGE, {"layer": nn.ReLU()}, ValueError, "TinyCNN has no layer <class .*ReLU'>; its last ones"),
        (Wrapped(lambda x: x), IMAGE, {"layer": "unused"}, ValueError, "layer unused was not reached"),
        (Wrapped(lambda x: x), IMAGE, {"layer": "aside"}, ValueError, "does not depend on the layer aside"),
        (TinyCNN(), IMAGE, {"layer": "fc"}, ValueError, r"fc gives \[2, 5\] for .*, not N×K×h×w: see resh"),
        (Wrapped(lambda x: (x, x)), IMAGE, {}, ValueError, "model returns tuple for 2 images; logits N×C"),
        (Wrapped(lambda x: x[0]), IMAGE, {}, ValueError, r"model returns .*\[5\]\) for 2 images; logits N×C"),
        (Wrapped(lambda x: x.softmax(1)), IMAGE, {}, ValueError, "ends in a softmax or a sigmoid; without that layer"),
        (Wrapped(lambda x: x[:, :1].sigmoid().squeeze()), IMAGE, {}, ValueError, "ends in a softmax or a sigmoid"),
        (Wrapped(lambda x: x / 0), IMAGE, {}, ValueError, "logits hold NaN or infinite"),
        (TinyCNN(), IMAGE, {"targets": [0, 5]}, ValueError, "target 5 is out of range: .* classes 0 to 4"),
        (TinyCNN(), IMAGE, {"targets": [0, -1]}, ValueError, "target -1 is out of range"),
        (TinyCNN(), IMAGE, {"targets": [0]}, ValueError, r"targets is \[0\]; one target for each of the 2 images"),
        (TinyCNN(), IMAGE, {"targets": 3}, ValueError, "targets is 3; one target for each of the 2 images"),
        (TinyCNN(), IMAGE, {"targets": [0, "cat"]}, TypeError, "A target is 'cat'; it must be a class index"),
        (TinyCNN(), IMAGE, {"targets": [0, []]}, TypeError, r"A target is \[\]"),
        (TinyCNN(), IMAGE, {"targets": [0, True]}, TypeError, "A target is True"),
        (TinyCNN(), IMAGE[0], {}, ValueError, r"images are Tensor \[3, 12, 12\]; N×channels×H×W is needed"),
        (TinyCNN(), IMAGE[:0], {}, ValueError, r"images are Tensor \[0, 3, 12, 12\]"),
        (TinyCNN(), IMAGE.numpy(), {}, ValueError, r"images are ndarray \[2, 3, 12, 12\]; N×"),
        (TinyCNN(), (IMAGE * 255).byte(), {}, TypeError, "images are torch.uint8; floating point"),
        (TinyCNN(), IMAGE.float(), {}, TypeError, "images are torch.float32 and the model is torch.float64"),
        (TinyCNN(), IMAGE.where(IMAGE > 0.01, torch.nan), {}, ValueError, r"\d+ values of the images are NaN"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(model, images, options, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        explain(model, images, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [denoised_cam, union_cam, fusion_cam])
@pytest.mark.parametrize("theta", [-1, 100.5, float("nan")])
def test_theta_is_a_percentile(tiny, images, theta, method):
    evidence, *_ = explain(tiny, images)
    with pytest.raises(ValueError, match=f"theta is {theta}; a percentile lies between 0 and 100"):
        method(evidence, theta)


def test_a_map_has_the_images_size(tiny, images):
    evidence, *_ = explain(tiny, images)
    with pytest.raises(ValueError, match=r"The map is \[6, 6\]; it must have the image's size \[12, 12\]"):
        contribution(evidence, torch.rand(6, 6))


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_missing_layer_is_refused_when_the_explainer_is_made(tiny, explainer):
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        explainer(tiny, ["nowhere"])


def test_the_mean_colour_must_be_known(tiny, images):
    with pytest.raises(ValueError, match="mask_space='normalized' needs a classifier with its mean colour"):
        explain(tiny, images, protocol=Protocol(mask_space="normalized"))


@pytest.mark.parametrize("module", [unioncam_core, fusioncam], ids=lambda module: module.__name__)
def test_every_public_function_has_an_example_that_runs(module):
    """The examples of a module share their names: its own docstring defines what the others explain."""
    names, printed = dict(vars(module)), []
    tests = [
        test for test in doctest.DocTestFinder(exclude_empty=False).find(module) if "." in test.name or test.examples
    ]
    own = {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert own <= {test.name for test in tests if test.examples}
    for test in sorted(tests, key=lambda test: test.name):
        test.globs = names
        doctest.DocTestRunner().run(test, out=printed.append, clear_globs=False)
    assert not printed, "".join(printed)
