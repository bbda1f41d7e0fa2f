"""Tests of Fusion-CAM against a computation by hand, other libraries, and properties of any maps and betas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from reference import bilinear, probability, to_unit
from tiny import TinyCNN, all_finite, explain

from fusioncam import FusionCAM, fuse, fusion_cam
from unioncam_core import Evidence, Network, Protocol, Scorer, min_max, region_cam, region_weights, union_cam

FIELDS = (
    "denoised", "region", "united", "beta_denoising", "beta_region", "beta_united",
    "shares", "second_shares", "similarity", "cam",
)  # fmt: skip


def vivid(seed):
    """A tiny network with low probabilities for a black image and high ones for others, so that betas are large."""
    model = TinyCNN(seed)
    with torch.no_grad():
        model.fc.weight *= 40
        for layer in (model.conv1, model.conv2, model.fc):
            layer.bias.zero_()
    return model


def logit(model, image, c):
    with torch.no_grad():
        return model(torch.as_tensor(image)[None])[0, c].item()


def parts(first, second):
    """Return two contributions as shares of their sum. A negative one counts as 0; for two zeros the second is 1."""
    first, second = max(first, 0), max(second, 0)
    return (first / (first + second), second / (first + second)) if first + second > 0 else (0.0, 1.0)


def fusion_by_hand(model, image, c, theta):
    """Every step in its order. The gradient is the weights of the fully connected layer."""
    with torch.no_grad():
        A = model.features(image[None])[0].numpy()
    I0, (K, h, w), (_, H, W_) = image.numpy(), A.shape, image.shape
    W = model.fc.weight[c].detach().numpy().reshape(A.shape)
    grad_cam = np.zeros((h, w))
    for k in range(K):
        grad_cam += sum(W[k, i, j] for i in range(h) for j in range(w)) / (h * w) * A[k]
    grad_cam = to_unit(bilinear(np.maximum(grad_cam, 0), H, W_))
    threshold = np.percentile(grad_cam, theta)
    denoised = np.array([[v if v >= threshold else 0.0 for v in line] for line in grad_cam])

    live = [k for k in range(K) if A[k].max() > A[k].min()]
    logits = np.array([logit(model, to_unit(bilinear(A[k], H, W_)) * I0, c) for k in live])
    exponentials = np.exp(logits - logits.max())
    total = sum(e / exponentials.sum() * A[k] for e, k in zip(exponentials, live, strict=True))
    region = to_unit(bilinear(np.maximum(total, 0), H, W_))

    black = probability(model, np.zeros_like(I0), c)
    beta_denoising = probability(model, denoised * I0, c) - black
    beta_region = probability(model, region * I0, c) - black
    shares = parts(beta_denoising, beta_region)
    united = to_unit(shares[0] * denoised + shares[1] * region)
    beta_united = probability(model, united * I0, c) - black
    second = parts(beta_united, shares[1])  # against the region map's share, not against its beta
    similarity, fused = np.empty((H, W_)), np.empty((H, W_))
    for i in range(H):
        for j in range(W_):
            one, other = second[0] * united[i, j], second[1] * region[i, j]
            s = similarity[i, j] = min(max(1 - abs(one - other), 0), 1)
            fused[i, j] = s * max(one, other) + (1 - s) * (one + other) / 2
    betas = beta_denoising, beta_region, beta_united
    return denoised, region, united, *betas, shares, second, similarity, to_unit(fused)


@pytest.mark.parametrize("theta", [0, 10, 37.5, 70, 100])
@pytest.mark.parametrize("seed", range(6))
def test_every_step_by_hand(images, seed, theta):
    model = vivid(seed)
    for image, evidence in zip(images, explain(model, images), strict=True):
        steps = fusion_cam(evidence, theta)
        for field, expected in zip(FIELDS, fusion_by_hand(model, image, evidence.target, theta), strict=True):
            np.testing.assert_allclose(getattr(steps, field), expected, atol=1e-12, err_msg=field)


def test_every_sign_of_the_betas_by_hand(images):
    """If the image speaks against the class, its maps contribute less than black. Each sign must occur."""
    signs = set()
    for seed in range(6):
        model = vivid(seed)
        for evidence in explain(model, images[:1], targets=[[0, 1, 2, 3, 4]]):
            steps, expected = fusion_cam(evidence), fusion_by_hand(model, images[0], evidence.target, 10)
            for field, value in zip(FIELDS, expected, strict=True):
                np.testing.assert_allclose(getattr(steps, field), value, atol=1e-12, err_msg=field)
            signs.add((steps.beta_denoising > 0, steps.beta_region > 0))
    assert signs == {(True, True), (True, False), (False, True), (False, False)}


def test_either_map_is_the_larger_one_somewhere(images):
    """The cases above test the maximum only if each map is the larger one somewhere."""
    larger = set()
    for seed in range(6):
        for evidence in explain(vivid(seed), images):
            steps = fusion_cam(evidence)
            first, second = steps.second_shares[0] * steps.united, steps.second_shares[1] * steps.region
            larger |= set((first > second).flatten().tolist())
    assert larger == {True, False}


def test_the_second_share_is_against_the_first_one_not_against_beta_region(images):
    """Step 5 compares a contribution with a share; with the region map's beta it would give another number."""
    evidence, *_ = explain(vivid(4), images)
    steps = fusion_cam(evidence)
    assert min(steps.beta_denoising, steps.beta_region, steps.beta_united) > 0
    assert steps.second_shares[0] == pytest.approx(steps.beta_united / (steps.beta_united + steps.shares[1]))
    assert abs(steps.second_shares[0] - steps.beta_united / (steps.beta_united + steps.beta_region)) > 0.01


def test_the_percentile_is_of_the_map_and_not_of_each_channel(images):
    evidence, *_ = explain(TinyCNN(2), images)
    whole = fusion_cam(evidence, 0).denoised
    for theta in (10, 40, 90):
        cut = fusion_cam(evidence, theta).denoised
        np.testing.assert_array_equal(cut, np.where(whole >= np.percentile(whole, theta), whole, 0))
        assert (whole - cut).max() <= np.percentile(whole, theta), "no pixel loses more than the threshold"
    assert (cut == 0).float().mean() == pytest.approx(0.9, abs=0.01)


def test_the_two_maps_are_grad_cam_and_score_cam(images):
    """There is no upsampling, in which the libraries differ."""
    model, targets = TinyCNN(stride=1), [0, 1, 2]
    steps = [fusion_cam(evidence, theta=0) for evidence in explain(model, images, targets=targets)]
    for field, library in (("denoised", GradCAM), ("region", ScoreCAM)):
        with library(model, [model.relu2]) as theirs:
            expected = theirs(images, [ClassifierOutputTarget(c) for c in targets])
        np.testing.assert_allclose(torch.stack([getattr(s, field) for s in steps]), expected, atol=1e-5)


unit = st.floats(0, 1)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=40).map(lambda p: torch.tensor(p, dtype=torch.float64).T)


@given(pairs)
def test_the_fusion_lies_between_the_mean_and_the_larger_value(pair):
    first, second = pair
    similarity, fused = fuse(first, second)
    mean, larger = (first + second) / 2, torch.maximum(first, second)
    assert 0 <= similarity.min() <= similarity.max() <= 1
    assert (fused >= mean - 1e-15).all()
    assert (fused <= larger + 1e-15).all()


@given(pairs)
def test_the_fusion_is_the_larger_value_less_half_the_squared_difference(pair):
    """s max + (1 - s) mean with s = 1 - |d| and mean = max - |d| / 2."""
    first, second = pair
    _, fused = fuse(first, second)
    difference = (first - second).abs()
    torch.testing.assert_close(fused, torch.maximum(first, second) - difference**2 / 2, atol=1e-15, rtol=0)
    added = fused - (first + second) / 2
    torch.testing.assert_close(added, (1 - difference) * difference / 2, atol=1e-15, rtol=0)
    assert added.max() <= 1 / 8 + 1e-15


@given(pairs)
def test_the_fusion_does_not_ask_which_map_is_first(pair):
    first, second = pair
    for one, other in zip(fuse(first, second), fuse(second, first), strict=True):
        assert torch.equal(one, other)


@given(st.lists(unit, min_size=1, max_size=40))
def test_maps_that_agree_exactly_stay_as_they_are(values):
    cam = torch.tensor(values, dtype=torch.float64)
    similarity, fused = fuse(cam, cam.clone())
    assert (similarity == 1).all()
    assert torch.equal(fused, cam)


@given(unit, unit, unit)
def test_more_of_either_map_never_lowers_the_fusion(low, high, other):
    low, high = sorted((low, high))
    cams = torch.tensor([low, high], dtype=torch.float64)
    _, fused = fuse(cams, torch.full_like(cams, other))
    assert fused[0] <= fused[1] + 1e-15


@pytest.mark.parametrize(
    ("first", "second", "similarity", "fused"),
    [
        (0, 0, 1, 0),
        (1, 1, 1, 1),
        (0, 1, 0, 0.5),
        (0.5, 0, 0.5, 0.375),
        (0.25, 0.75, 0.5, 0.625),
        (0.3, 0.4, 0.9, 0.395),
    ],
)
def test_the_rule_in_numbers(first, second, similarity, fused):
    result = fuse(torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64))
    np.testing.assert_allclose(torch.cat(result), [similarity, fused])


def test_values_that_are_more_than_one_apart_are_averaged():
    """Only maps that are not scaled can differ by more than one."""
    similarity, fused = fuse(torch.tensor([3.0, -2.0]), torch.tensor([1.0, 0.5]))
    assert similarity.tolist() == [0, 0]
    assert fused.tolist() == [2, -0.75]


beta = st.one_of(st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1e-9, -1e-9, 1.0, -1.0]), st.floats(-1, 1))


def scripted(evidence, *scores):
    """Return the evidence with given scores for the next three masked images; black scores 0."""
    script = iter(scores)
    scripted = Network(lambda _: torch.tensor([next(script)], dtype=torch.float64))
    other = replace(evidence, score=Scorer(scripted, 0), black_score=0.0)
    other.regions[other.region_key] = evidence.region_output
    return other


@pytest.fixture(scope="module")
def asked():
    image = torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (evidence,) = explain(TinyCNN(1), image)
    assert evidence.region_output is not None
    return evidence


@pytest.mark.slow
@given(beta, beta, beta)
def test_shares_sum_to_one_whatever_the_betas(asked, denoising, region, united):
    steps = fusion_cam(scripted(asked, denoising, region, united))
    assert (steps.beta_denoising, steps.beta_region, steps.beta_united) == (denoising, region, united)
    for shares in (steps.shares, steps.second_shares):
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        assert min(shares) >= 0
    assert (denoising <= 0) <= (steps.shares[0] == 0)
    assert (region <= 0 < denoising) <= (steps.shares == (1, 0))
    assert (max(denoising, region) <= 0) <= (steps.shares == (0, 1))
    assert (united <= 0) <= (steps.second_shares == (0, 1))
    if min(denoising, region) > 1e-6:
        assert steps.shares[0] / steps.shares[1] == pytest.approx(denoising / region)
        if united > 1e-6:
            assert steps.second_shares[0] / steps.second_shares[1] == pytest.approx(united / steps.shares[1])
    for cam in (steps.united, steps.similarity, steps.cam):
        assert cam.isfinite().all()
        assert 0 <= cam.min() <= cam.max() <= 1


def test_where_nothing_contributes_the_region_map_is_fused_with_nothing(asked):
    """The region map has all the weight, but the rule still averages it with an empty map: R - R²/2."""
    steps = fusion_cam(scripted(asked, -0.1, -0.2, -0.3))
    assert torch.equal(steps.united, steps.region)
    assert (steps.shares, steps.second_shares) == ((0, 1), (0, 1))
    torch.testing.assert_close(steps.similarity, 1 - steps.region)
    torch.testing.assert_close(steps.cam, 2 * steps.region - steps.region**2)


def test_where_the_region_map_does_not_contribute_the_denoised_map_is_fused_with_nothing(asked):
    steps = fusion_cam(scripted(asked, 0.3, -0.2, 0.3))
    assert torch.equal(steps.united, steps.denoised)
    assert (steps.shares, steps.second_shares) == ((1, 0), (1, 0))
    torch.testing.assert_close(steps.cam, 2 * steps.denoised - steps.denoised**2)


def test_equal_contributions_weigh_alike(asked):
    steps = fusion_cam(scripted(asked, 0.2, 0.2, 0.5))
    assert (steps.shares, steps.second_shares) == ((0.5, 0.5), (0.5, 0.5))
    torch.testing.assert_close(steps.united, min_max(steps.denoised + steps.region))
    assert steps.similarity.min() >= 0.5, "neither map can exceed its share, so they cannot be further apart"


def test_equal_maps_keep_their_order():
    """One channel with a positive gradient is both maps, and their union."""
    A = torch.rand(1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    image = torch.ones(3, 5, 5, dtype=torch.float64)
    brightness = Network(lambda images: torch.stack([images.mean((1, 2, 3)), 0.2 * images[:, 0, 0, 0]], 1))
    score = Scorer(brightness, 0)(image[None]).item()
    steps = fusion_cam(Evidence(image, 0, A, torch.ones_like(A), score, 0.5, Scorer(brightness, 0)), theta=0)
    expected = min_max(A)[0]
    for cam in (steps.denoised, steps.region, steps.united):
        torch.testing.assert_close(cam, expected)
    assert steps.beta_denoising == pytest.approx(steps.beta_region)
    larger, smaller = max(steps.second_shares) * expected, min(steps.second_shares) * expected
    torch.testing.assert_close(steps.cam, min_max(larger - (larger - smaller) ** 2 / 2))
    assert torch.equal(steps.cam.flatten().argsort(), expected.flatten().argsort())
    # Multiplied with unequal shares, two equal maps differ most where both are 1.
    assert steps.similarity.argmin() == expected.argmax()


def test_one_constant_channel_among_others(tiny, images):
    with torch.no_grad():
        tiny.conv2.bias += 1
        tiny.conv2.weight[[1, 4]] = 0
        tiny.conv2.bias[1], tiny.conv2.bias[4] = 0.7, -1
    evidence, *_ = explain(tiny, images)
    assert evidence.live.tolist() == [True, False, True, True, False, True]
    steps = fusion_cam(evidence)
    assert all_finite(steps)
    others = replace(
        evidence, activations=evidence.activations[[0, 2, 3, 5]], gradients=evidence.gradients[[0, 2, 3, 5]]
    )
    torch.testing.assert_close(steps.region, region_cam(others, "softmax"))


@pytest.mark.parametrize("bias", [-1, 0.7], ids=["dead", "constant"])
@pytest.mark.parametrize("region_weights", ["softmax", "score", "increase"])
def test_constant_channels_alone_make_empty_maps(tiny, images, bias, region_weights):
    with torch.no_grad():
        tiny.conv2.weight.zero_()
        tiny.conv2.bias.fill_(bias)
    evidence, *_ = explain(tiny, images)
    steps = fusion_cam(evidence, region_weights=region_weights)
    assert all_finite(steps)
    for cam in (steps.denoised, steps.region, steps.united, steps.cam):
        assert cam.count_nonzero() == 0
    assert (steps.similarity == 1).all()


def test_a_gradient_without_positive_mean_leaves_the_region_map(tiny, images):
    with torch.no_grad():
        tiny.fc.weight[2] = -tiny.fc.weight[2].abs()
    evidence, *_ = explain(tiny, images[:1], targets=[2])
    steps = fusion_cam(evidence)
    assert steps.denoised.count_nonzero() == 0
    assert steps.beta_denoising == pytest.approx(0, abs=1e-12)
    assert all_finite(steps)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    channels=st.integers(1, 12),
    side=st.integers(1, 17),
    stride=st.integers(1, 4),
    theta=st.floats(0, 100),
    region_weights=st.sampled_from(["softmax", "score", "increase"]),
    protocol=st.builds(
        Protocol,
        class_score=st.sampled_from(["probability", "logit"]),
        gradient_of=st.sampled_from(["logit", "probability"]),
        relu=st.booleans(),
    ),
)
def test_steps_hold_their_promises(seed, channels, side, stride, theta, region_weights, protocol):
    model = TinyCNN(seed, channels, side, stride=stride)
    image = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (evidence,) = explain(model, image, protocol=protocol)
    steps = fusion_cam(evidence, theta, region_weights)
    assert all_finite(steps)
    for cam in (steps.denoised, steps.region, steps.united, steps.similarity, steps.cam):
        assert cam.shape == (side, side)
        assert 0 <= cam.min() <= cam.max() <= 1
    first, second = steps.second_shares[0] * steps.united, steps.second_shares[1] * steps.region
    torch.testing.assert_close(steps.similarity, fuse(first, second)[0])
    torch.testing.assert_close(steps.cam, min_max(fuse(first, second)[1]))
    # No value of a map exceeds its share, so two values are never further apart than the larger share.
    assert steps.similarity.min() >= 1 - max(steps.second_shares) - 1e-12


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), theta=st.floats(0, 100))
def test_the_union_resembles_the_region_map_at_least_as_much_as_the_denoised_map_does(seed, theta):
    """It contains the region map, so step 6 compares maps that are at least as similar as those of steps 1 and 2."""
    model = TinyCNN(seed)
    image = torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    steps = fusion_cam(explain(model, image)[0], theta)
    maps = np.stack([cam.flatten() for cam in (steps.denoised, steps.united, steps.region)])
    assume((maps.std(1) > 0).all())
    correlations = np.corrcoef(maps)
    assert correlations[1, 2] >= correlations[0, 2] - 1e-9


def test_with_score_weights_the_region_map_is_union_cams(tiny, images):
    for evidence in explain(tiny, images):
        assert torch.equal(fusion_cam(evidence, region_weights="score").region, union_cam(evidence).region)
        assert torch.equal(fusion_cam(evidence).region, region_cam(evidence, "softmax"))
        assert not torch.allclose(fusion_cam(evidence).region, union_cam(evidence).region, atol=1e-3)


def test_softmax_weights_are_scores_times_what_the_network_says_in_all(tiny, images):
    """exp(logit_c) = f^c · Σ_j exp(logit_j): over channels, the softmax is the score weighted by that sum."""
    evidence, *_ = explain(tiny, images)
    everything = torch.zeros_like(evidence.region_scores)
    everything[evidence.live] = evidence.region_output.logsumexp(1).exp()
    product = evidence.region_scores * everything
    torch.testing.assert_close(region_weights(evidence, "softmax"), product / product.sum())


@pytest.mark.parametrize("bad", ["mean", "Softmax", 1])
def test_other_region_weights_are_refused_in_one_sentence_before_anything_is_scored(tiny, images, bad):
    asked = []
    (evidence,) = explain(tiny, images[:1], score=lambda masked: asked.append(len(masked)) or tiny(masked))
    with pytest.raises(ValueError, match=f"region_weights is {bad!r}; it can be 'score' or 'softmax'") as caught:
        fusion_cam(evidence, region_weights=bad)
    assert "\n" not in str(caught.value)
    assert asked == [1], "the black image alone"


def test_softmax_weights_need_logits(tiny, images):
    (evidence,) = explain(tiny, images[:1], targets=[2], score=lambda masked: tiny(masked).softmax(1)[:, 2])
    with pytest.raises(ValueError, match="softmax' needs logits, not f"):
        fusion_cam(evidence)
    (reference,) = explain(tiny, images[:1], targets=[2])
    expected = fusion_cam(reference, region_weights="score").cam
    torch.testing.assert_close(fusion_cam(evidence, region_weights="score").cam, expected)


def test_both_methods_share_one_masked_pass(tiny, images):
    asked = []
    (evidence,) = explain(tiny, images[:1], score=lambda masked: asked.append(len(masked)) or tiny(masked))
    first = union_cam(evidence)
    assert sum(asked) == 1 + int(evidence.live.sum()) + 3, "black, every live channel, three maps"
    asked.clear()
    steps = fusion_cam(evidence)
    assert asked == [1, 1, 1], "its three maps"
    asked.clear()
    fusion_cam(evidence, theta=50, region_weights="score")
    assert asked == [1, 1, 1]
    alone, *_ = explain(tiny, images[:1])
    torch.testing.assert_close(steps.cam, fusion_cam(alone).cam)
    assert torch.equal(first.cam, union_cam(evidence).cam), "neither method changes what the other reads"


@pytest.mark.parametrize("targets", [None, [3, 0, 1], [ClassifierOutputTarget(c) for c in (3, 0, 1)]])
def test_the_call_stacks_the_maps(tiny, images, targets):
    maps = FusionCAM(model=tiny, target_layers=[tiny.relu2])(input_tensor=images, targets=targets)
    assert maps.shape == (3, 12, 12)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    steps = [fusion_cam(evidence) for evidence in explain(tiny, images, targets=targets)]
    np.testing.assert_allclose(maps, np.float32([s.cam.numpy() for s in steps]), atol=1e-6)


def test_the_call_passes_theta_and_another_scorer_on(tiny, images):
    asked = []
    cam = FusionCAM(tiny, ["relu2"], theta=60, score=lambda masked: asked.append(len(masked)) or tiny(masked))
    expected = [fusion_cam(evidence, 60).cam.numpy() for evidence in explain(tiny, images)]
    np.testing.assert_allclose(cam(images), np.float32(expected), atol=1e-6)
    assert asked
    assert not np.allclose(cam(images), FusionCAM(tiny, ["relu2"])(images), atol=1e-3)


def test_the_class_takes_the_region_weights_too(tiny, images):
    (evidence,) = explain(tiny, images[:1])
    for kind in ("softmax", "score"):
        maps = FusionCAM(tiny, [tiny.relu2], region_weights=kind)(images[:1])
        np.testing.assert_allclose(maps[0], fusion_cam(evidence, region_weights=kind).cam.numpy(), atol=1e-6)
    # A score that returns f^c alone has no logits for a softmax.
    alone = FusionCAM(tiny, [tiny.relu2], score=lambda batch: tiny(batch).softmax(1)[:, 0], region_weights="score")
    assert alone(images[:1], targets=[0]).shape == (1, 12, 12)
