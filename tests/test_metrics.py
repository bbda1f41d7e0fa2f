"""Tests of the metrics against a plain loop, torchcam, computations by hand, and their properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from others import Other, picture
from pytorch_grad_cam.metrics import arcc
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric
from torchmetrics.classification import BinaryJaccardIndex

from unioncam_core import Network, NonFiniteScore, Protocol, Scorer, UnionCAM, capture
from unioncam_lab import metrics
from unioncam_lab.images import blur, demo_photo
from unioncam_lab.methods import fake_cam, find_method, grad_cam
from unioncam_lab.metrics import FAITHFULNESS, auc, drop, evaluate, increase, perturbation, ranks


@pytest.fixture
def evidence(tiny, images):
    return capture(tiny, images[:1], target_layer=tiny.relu2, targets=[2])[0]


@pytest.fixture
def cams():
    generator = torch.Generator().manual_seed(7)
    maps = torch.rand(3, 12, 12, dtype=torch.float64, generator=generator)
    maps[1, :, 6:] = 0  # half of it in one tie
    return list(maps)


def test_drop_and_increase_by_hand():
    assert drop(0.8, 0.6) == pytest.approx(25)
    assert drop(0.6, 0.8) == 0
    assert drop(0.0, 0.5) == 0
    assert increase(0.6, 0.8)
    assert not increase(0.6, 0.6)


def test_drop_and_increase_equal_torchcam(tiny, images):
    evidences = capture(tiny, images, target_layer=tiny.relu2)
    with GradCAM(tiny, "relu2") as extractor:
        theirs = ClassificationMetric(extractor, lambda logits: logits.softmax(1))
        rows = []
        for evidence in evidences:
            scores = tiny(evidence.image[None])
            cam = extractor(evidence.target, scores)[0]
            # Upsampled as torchcam's metric does it: after scaling.
            cam = torch.nn.functional.interpolate(cam[None], (12, 12), mode="bilinear", align_corners=False)[0, 0]
            rows += evaluate(evidence, [cam.double()], ["drop", "increase"])
            theirs.update(evidence.image[None])
        summary = theirs.summary()
    assert np.mean([row["drop"] for row in rows]) == pytest.approx(100 * summary["avg_drop"], abs=1e-6)
    assert np.mean([row["increase"] for row in rows]) == summary["conf_increase"]


@pytest.mark.parametrize("step", [1, 7, 50, 144, 500])
@pytest.mark.parametrize("metric", ["insertion", "deletion"])
def test_curves_equal_a_loop_step_by_step(tiny, images, evidence, cams, metric, step):
    for cam, result in zip(cams, evaluate(evidence, cams, [metric], step), strict=True):
        image = images[0]
        current = blur(image).clone() if metric == "insertion" else image.clone()
        order = sorted(range(144), key=lambda i: (-cam.flatten()[i].item(), i))
        curve = [tiny(current[None]).softmax(1)[0, 2].item()]
        while order:
            for i in order[:step]:
                current[:, i // 12, i % 12] = image[:, i // 12, i % 12] if metric == "insertion" else 0
            order = order[step:]
            curve.append(tiny(current[None]).softmax(1)[0, 2].item())
        np.testing.assert_allclose(result[f"{metric}_curve"], curve, atol=1e-12)
        area = (sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)
        assert result[metric] == pytest.approx(100 * area)


def test_a_curve_of_224_pixels_has_28_steps(evidence):
    large = replace(evidence, image=torch.rand(3, 224, 224))
    assert len(perturbation(large, torch.rand(224, 224), "insertion")) == 29


def test_all_metrics_in_one_stream_equal_each_alone(evidence, cams):
    together = evaluate(evidence, cams)
    for metric in FAITHFULNESS:
        for alone, row in zip([evaluate(evidence, [cam], [metric])[0] for cam in cams], together, strict=True):
            for name, value in alone.items():
                assert row[name] == pytest.approx(value)


def test_equal_maps_are_scored_once(tiny, evidence, cams):
    seen = []
    network = evidence.score.network
    counting = replace(evidence, score=Scorer(Network(lambda x: seen.append(len(x)) or network(x)), evidence.target))
    single = evaluate(counting, cams[:1])
    once = sum(seen)
    seen.clear()
    assert evaluate(counting, [cams[0], cams[0].clone(), cams[0]]) == single * 3
    assert sum(seen) == once


def test_an_engine_streams_what_a_loop_would(classifier):
    (evidence,) = capture(classifier, demo_photo("coffee", 64).image[None], target_layer=classifier.target_layer)
    plain = replace(evidence, score=Scorer(Network(classifier), evidence.target))
    cam = grad_cam(evidence)
    ours, loop = evaluate(evidence, [cam])[0], evaluate(plain, [cam])[0]
    np.testing.assert_allclose(ours["insertion_curve"], loop["insertion_curve"], atol=1e-5)
    np.testing.assert_allclose(ours["deletion_curve"], loop["deletion_curve"], atol=1e-5)
    assert ours["drop"] == pytest.approx(loop["drop"], abs=1e-3)


def test_the_probability_is_judged_even_where_the_protocol_explains_the_logit(tiny, images):
    (evidence,) = capture(tiny, images[:1], target_layer=tiny.relu2, protocol=Protocol(class_score="logit"))
    (result,) = evaluate(evidence, [torch.ones(12, 12, dtype=torch.float64)])
    assert result["probability"] == pytest.approx(evidence.probability)
    assert result["masked_probability"] == pytest.approx(evidence.probability)
    assert result["drop"] == pytest.approx(0, abs=1e-9)


def test_deletion_shows_what_the_protocols_masks_show(classifier):
    protocol = Protocol(mask_space="normalized")
    images = demo_photo("coffee", 64).image[None]
    (evidence,) = capture(classifier, images, target_layer=classifier.target_layer, protocol=protocol)
    end = perturbation(evidence, grad_cam(evidence), "deletion")[8]
    torch.testing.assert_close(end, classifier.mean[0].expand(3, 64, 64))


@pytest.mark.slow
def test_fake_cam_is_praised_for_its_drop_and_found_out_by_deletion(classifier):
    (evidence,) = capture(classifier, demo_photo("chelsea").image[None], target_layer=classifier.target_layer)
    fake, real = evaluate(evidence, [fake_cam(evidence), grad_cam(evidence)])
    assert fake["drop"] < 1 < real["drop"]
    assert fake["deletion"] > real["deletion"]


floats = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (5, 6), elements=floats))
def test_ranks_are_a_permutation_in_falling_order(values):
    found = ranks(torch.from_numpy(values)).flatten()
    assert sorted(found.tolist()) == list(range(30))
    ordered = values.flatten()[found.argsort().numpy()]
    assert (np.diff(ordered) <= 0).all()
    # Of equal pixels the earlier comes first.
    assert all(found[i] < found[j] for i in range(30) for j in range(i + 1, 30) if values.flat[i] == values.flat[j])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_area_lies_between_the_extremes_and_reverses(curve):
    assert min(curve) - 1e-9 <= auc(curve) <= max(curve) + 1e-9
    assert auc(curve) == pytest.approx(auc(curve[::-1]))


def test_the_area_of_a_line_is_its_middle():
    assert auc([0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx(0.5)
    assert auc([1.0, 0.0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("cam", "message"),
    [(torch.rand(5, 5), r"A map is \[5, 5\]"), (torch.full((12, 12), torch.nan), "NaN or infinite at 144 pixels")],
)
def test_a_wrong_map_is_one_sentence(evidence, cam, message):
    with pytest.raises(ValueError, match=message):
        evaluate(evidence, [cam])


# Every public function that takes a map: (evidence, map) -> a value.
TAKE_A_MAP = {
    "ranks": lambda evidence, cam: metrics.ranks(cam),
    "perturbation": lambda evidence, cam: perturbation(evidence, cam, "insertion")[2],
    "evaluate": lambda evidence, cam: evaluate(evidence, [cam])[0],
    "explain_again": lambda evidence, cam: metrics.explain_again(
        evidence, evidence.score.network, [find_method("fake_cam")], [cam], []
    ),
    "complexity": lambda evidence, cam: metrics.complexity(cam),
    "coherency": lambda evidence, cam: metrics.coherency(fake_cam(evidence), cam),
    "coherency, first": lambda evidence, cam: metrics.coherency(cam, fake_cam(evidence)),
    "similarity": lambda evidence, cam: metrics.similarity(grad_cam(evidence), cam),
    "similarity, first": lambda evidence, cam: metrics.similarity(cam, grad_cam(evidence)),
    "pointing_game": lambda evidence, cam: metrics.pointing_game(cam, OBJECT),
    "energy": lambda evidence, cam: metrics.energy(cam, OBJECT),
    "iou": lambda evidence, cam: metrics.iou(cam, OBJECT),
    "best_iou": lambda evidence, cam: metrics.best_iou(cam, OBJECT),
    "recall": lambda evidence, cam: metrics.recall(cam, OBJECT),
    "localize": lambda evidence, cam: metrics.localize(cam, OBJECT),
}
OBJECT = torch.zeros(12, 12, dtype=torch.bool)
OBJECT[3:8, 2:9] = True


@pytest.mark.parametrize("function", TAKE_A_MAP)
def test_a_map_can_be_an_array(evidence, cams, function):
    expected = TAKE_A_MAP[function](evidence, cams[0])
    array = cams[0].numpy()
    read_only = array.copy()
    read_only.setflags(write=False)
    for form in (array, array[::-1, ::-1].copy()[::-1, ::-1], read_only, np.asfortranarray(array), array.tolist()):
        found = TAKE_A_MAP[function](evidence, form)
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("function", TAKE_A_MAP)
def test_a_map_that_is_not_finite_is_refused(evidence, cams, function, bad):
    cam = cams[0].clone()
    cam[2, 3:5] = bad
    for form in (cam, cam.numpy()):
        with pytest.raises(ValueError, match=r"^A map is NaN or infinite at 2 pixels; it must be finite\.$"):
            TAKE_A_MAP[function](evidence, form)


@pytest.mark.parametrize("function", [name for name in TAKE_A_MAP if name not in ("ranks", "complexity")])
def test_a_map_of_another_size_is_refused(evidence, function):
    with pytest.raises(ValueError, match=r"\[12, 11\]"):
        TAKE_A_MAP[function](evidence, np.ones((12, 11)))


@pytest.mark.parametrize("function", TAKE_A_MAP)
def test_a_batch_of_maps_is_refused(evidence, function):
    with pytest.raises(ValueError, match=r"A map is \[1, 12, 12\]; "):
        TAKE_A_MAP[function](evidence, np.ones((1, 12, 12)))


def test_the_one_calls_map_is_what_the_metrics_take(tiny, images):
    cam = UnionCAM(tiny, [tiny.relu2])(images[:1], [2])[0]
    found = metrics.localize(cam, OBJECT.numpy())
    assert found["energy"] == pytest.approx(100 * cam[3:8, 2:9].sum() / cam.sum())
    assert found["iou"] == pytest.approx(100 * (cam[3:8, 2:9] >= 0.5).sum() / ((cam >= 0.5) | OBJECT.numpy()).sum())
    assert metrics.complexity(cam) == pytest.approx(cam.mean())


@pytest.mark.parametrize(
    "form",
    [
        OBJECT.numpy(), OBJECT.double(), OBJECT.int(), OBJECT.numpy().astype(np.uint8) * 255, OBJECT.numpy().tolist(),
        OBJECT.numpy().astype(np.uint16),
    ],
)  # fmt: skip
def test_a_mask_is_what_is_not_0(cams, form):
    assert metrics.localize(cams[0], form) == metrics.localize(cams[0], OBJECT)
    assert metrics.recall(cams[0], form) == (cams[0][3:8, 2:9] >= 0.5).double().mean()


def test_a_mask_of_several_values_is_refused(cams):
    mask = OBJECT.double()
    mask[4, 4], mask[5, 5] = 0.25, 0.5
    with pytest.raises(ValueError, match=r"The mask holds 3 values other than 0, such as 0\.25 and 0\.5; mask > 0\.5 "):
        metrics.energy(cams[0], mask)
    with pytest.raises(ValueError, match="A mask is NaN or infinite at 1 pixels"):
        metrics.recall(cams[0], mask.masked_fill(mask == 0.25, torch.nan))
    with pytest.raises(ValueError, match=r"with 0 pixels; .* the mask must have the map's size and mark a pixel"):
        metrics.recall(cams[0], torch.zeros(12, 12))


def shown_probability(network, kind, target):
    """What the probability of class c is, by hand: a plain function of images."""

    def probability(images):
        with torch.no_grad():
            y = network(images)
        if kind == "one output":
            p = 1 / (1 + (-y[:, 0]).exp())
            return p if target == 1 else 1 - p
        if kind == "several labels":
            return 1 / (1 + (-y[:, target]).exp())
        return y[:, target].exp() / y.exp().sum(1)

    return probability


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("one output", "probability"), ("one output", "logit"), ("one output", "sigmoid"),
        ("several labels", "sigmoid"), ("several classes", "probability"), ("several classes", "logit"),
    ],
)  # fmt: skip
def test_the_probability_of_any_kind_of_network_is_judged(kind, score, target):
    """Drop, insertion and deletion equal a plain loop, with the probability that belongs to the network."""
    network = Other(outputs=1 if kind == "one output" else 4)
    image, cam, protocol = picture(), picture(1, seed=3)[0], Protocol(class_score=score)
    (evidence,) = capture(network, image[None], target_layer="maps", targets=[target], protocol=protocol)
    (found,) = evaluate(evidence, [cam], step=40)
    probability = shown_probability(network, kind, target)
    before, after = (float(probability(x[None])) for x in (image, cam * image))
    assert 0 < before < 1
    assert found["probability"] == pytest.approx(before)
    assert found["drop"] == pytest.approx(100 * max(0, before - after) / before)
    assert found["increase"] == (before < after)
    order = cam.flatten().argsort(descending=True)
    for metric, start, end in (("insertion", blur(image), image), ("deletion", image, 0 * image)):
        curve = []
        for count in (0, 40, 80, 120, 144):
            mixed = start.clone().flatten(1)
            mixed[:, order[:count]] = end.flatten(1)[:, order[:count]]
            curve.append(float(probability(mixed.view_as(image)[None])))
        np.testing.assert_allclose(found[f"{metric}_curve"], curve, atol=1e-12)


def test_a_functions_own_value_is_judged():
    network, image = Other(), picture()

    def margin(outputs):
        return outputs[2] - outputs[0]

    (evidence,) = capture(network, image[None], target_layer="maps", targets=[margin])
    (found,) = evaluate(evidence, [picture(1, seed=3)[0]], ["drop"])
    masked = picture(1, seed=3) * image
    with torch.no_grad():
        values = [float(margin(network(x[None])[0])) for x in (image, masked)]
    assert [found["probability"], found["masked_probability"]] == pytest.approx(values)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_can_have_any_number_of_channels(channels):
    network, image = Other(channels), picture(channels)
    (evidence,) = capture(network, image[None], target_layer="maps", targets=[3])
    cam = grad_cam(evidence)
    (found,) = evaluate(evidence, [cam], step=48)
    order = sorted(range(144), key=lambda i: (-cam.flatten()[i].item(), i))
    mixed, curve = image.clone(), []
    for count in range(0, 145, 48):
        for i in order[max(0, count - 48) : count]:
            mixed[:, i // 12, i % 12] = 0
        curve.append(network(mixed[None]).softmax(1)[0, 3].item())
    np.testing.assert_allclose(found["deletion_curve"], curve, atol=1e-12)
    assert found["insertion_curve"][0] == pytest.approx(network(blur(image)[None]).softmax(1)[0, 3].item())
    network.target_layer = network.maps
    (row,) = metrics.explain_again(evidence, network, [find_method("grad_cam")], [cam], ["stability"])
    (flipped,) = capture(network, image[None].flip(3), target_layer="maps", targets=[3])
    assert row["stability_flip"] == pytest.approx(100 * metrics.similarity(cam, grad_cam(flipped).flip(1)))


@pytest.mark.parametrize(
    ("metric", "number", "name"),
    [
        ("drop", 1, "the image masked by the map"),
        ("insertion", 1, "the blurred image"),
        ("insertion", 3, "the image with 48 pixels inserted"),
        ("deletion", 1, "the wholly deleted image"),
        ("deletion", 4, "the image with 72 pixels deleted"),
    ],
)
def test_a_score_that_is_not_finite_names_its_image(evidence, cams, metric, number, name):
    """The image itself is the first of the stream, and the other end of a curve is the second."""

    class Broken(Network):
        def stream(self, make, count):
            outputs = super().stream(make, count)
            outputs[number] = torch.nan
            return outputs

    broken = replace(evidence, score=replace(evidence.score, network=Broken(evidence.score.network)))
    with pytest.raises(NonFiniteScore, match=f"NaN or infinite .*for {name}"):
        evaluate(broken, cams[:1], [metric], step=24)


def test_noise_is_in_proportion_to_the_range_of_the_pixels():
    image = picture(3)
    noisy = metrics.TRANSFORMS["noise"].change(image)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(noisy, (image + 0.05 * noise).clamp(0, 1), atol=0, rtol=0)
    normalized = 6 * image - 3
    low, high = normalized.min(), max(1.0, normalized.max())
    expected = (normalized + 0.05 * (high - low) * noise).clamp(low, high)
    torch.testing.assert_close(metrics.TRANSFORMS["noise"].change(normalized), expected)
    assert (metrics.TRANSFORMS["noise"].change(normalized) < 0).double().mean() > 0.4, "what is dark stays so"


def test_a_class_is_explained_again_with_what_reshapes_the_layers_output():
    plain, network, image = Other(), Other(last=True), picture()
    network.target_layer, plain.target_layer = "maps", "maps"
    network.reshape_transform = lambda output: output.movedim(-1, 1)
    rows = []
    for each in (plain, network):
        reshape = getattr(each, "reshape_transform", None)
        (evidence,) = capture(each, image[None], target_layer="maps", reshape_transform=reshape)
        methods = [find_method("grad_cam"), find_method("LayerCAM", each)]
        maps = [method.explain(evidence).cam for method in methods]
        networks = [[(each, methods)]]
        rows.append(metrics.explain_again(evidence, each, methods, maps, networks=networks))
    for row, expected in zip(rows[1], rows[0], strict=True):
        assert row["coherency"] == pytest.approx(expected["coherency"])
        assert row["stability"] == pytest.approx(expected["stability"])
        assert row["sanity"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("metric", "at", "what"),
    [
        ("adcc", 0, "the masked image"),
        ("stability", 1, "the image under flip"),
        ("sanity", 0, "the image by a network with shuffled layers"),
    ],
)
def test_a_score_that_is_not_finite_says_what_was_explained_again(evidence, tiny, monkeypatch, metric, at, what):
    calls = []

    def broken(*arguments, **options):
        calls.append(arguments)
        if len(calls) > at:
            raise NonFiniteScore("It is NaN.")
        return capture(*arguments, **options)

    tiny.target_layer = "relu2"
    monkeypatch.setattr(metrics, "capture", broken)
    method = find_method("grad_cam")
    with pytest.raises(NonFiniteScore, match=rf"^When {what} is explained again: It is NaN\.$"):
        metrics.explain_again(evidence, tiny, [method], [grad_cam(evidence)], [metric], [[(tiny, [method])]])


def test_a_wrong_metric_is_one_sentence(evidence):
    with pytest.raises(ValueError, match="no metric 'nss'; there are drop, increase, insertion, deletion"):
        metrics.check_metrics(["drop", "nss"])
    with pytest.raises(ValueError, match="No metric is given"):
        evaluate(evidence, [torch.rand(12, 12)], [])
    with pytest.raises(IndexError, match="no image 99"):
        perturbation(evidence, torch.rand(12, 12), "insertion")[99]


CAM = torch.tensor([[0.0, 0.2, 0.4], [0.6, 1.0, 0.2], [0.0, 0.4, 0.2]], dtype=torch.float64)
MASK = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)


def test_localization_by_hand():
    found = metrics.localize(CAM, MASK)
    assert found["pointing"] == 100
    assert found["energy"] == pytest.approx(100 * (0.4 + 1.0 + 0.2) / 3.0)
    assert found["iou"] == pytest.approx(100 * 1 / 4)  # marked: 0.6 and 1.0
    # Down to 1.0: 1 of 3; 0.6: 1 of 4; 0.4: 2 of 5; 0.2: 3 of 7.
    assert found["best_iou"] == pytest.approx(100 * 3 / 7)
    assert metrics.iou(CAM, MASK, 0.4) == pytest.approx(2 / 5)


def test_pointing_shares_out_what_is_equally_salient():
    assert metrics.pointing_game(
        torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1, 0], [1, 0]]).bool()
    ) == pytest.approx(2 / 3)
    assert metrics.pointing_game(CAM, ~MASK) == 0


def test_an_empty_map_finds_nothing():
    found = metrics.localize(torch.zeros(3, 3), MASK)
    assert (found["pointing"], found["energy"], found["iou"]) == (0, 0, 0)
    assert found["best_iou"] == pytest.approx(100 * 3 / 9)  # the threshold 0 marks everything
    with pytest.raises(ValueError, match=r"The mask is \[3, 3\] with 0 pixels"):
        metrics.localize(CAM, torch.zeros_like(MASK))
    with pytest.raises(ValueError, match=r"the map is \[3, 3\]"):
        metrics.localize(CAM, torch.ones(2, 3).bool())


@pytest.mark.parametrize("seed", range(3))
def test_iou_equals_torchmetrics_at_every_threshold(seed):
    generator = torch.Generator().manual_seed(seed)
    cam, mask = torch.rand(9, 7, generator=generator), torch.rand(9, 7, generator=generator) > 0.6
    thresholds = [0.0, *sorted(cam.flatten().tolist())[:-1]]
    theirs = [float(BinaryJaccardIndex(threshold)(cam, mask.int())) for threshold in thresholds]
    assert metrics.best_iou(cam, mask) == pytest.approx(max(theirs), abs=1e-6)
    for threshold in (0.25, 0.5, 0.75):
        assert metrics.iou(cam, mask, threshold) == pytest.approx(
            float(BinaryJaccardIndex(threshold)(cam, mask.int())), abs=1e-6
        )


def test_pointing_and_energy_equal_quantus():
    """Quantus brings a second OpenCV, so the project does not install it: pip install --no-deps quantus."""
    quantus = pytest.importorskip("quantus", reason="quantus is not installed")
    generator = torch.Generator().manual_seed(1)
    cams, masks = torch.rand(6, 1, 9, 7, generator=generator), torch.rand(6, 1, 9, 7, generator=generator) > 0.6
    data = {"x_batch": np.zeros((6, 3, 9, 7)), "y_batch": np.zeros(6, int), "model": torch.nn.Identity()}
    data |= {"a_batch": cams.numpy(), "s_batch": masks.numpy()}
    plain = {"abs": False, "normalise": False, "disable_warnings": True}
    ours = [metrics.localize(cam[0], mask[0]) for cam, mask in zip(cams, masks, strict=True)]
    assert quantus.PointingGame(**plain)(**data) == [row["pointing"] == 100 for row in ours]
    theirs = quantus.RelevanceMassAccuracy(**plain)(**data)
    assert [row["energy"] / 100 for row in ours] == pytest.approx(theirs)


@pytest.mark.slow
@settings(deadline=None)
@given(arrays.arrays(np.float64, (4, 5), elements=st.floats(0, 1)), arrays.arrays(bool, (4, 5)).filter(np.any))
def test_localization_is_bounded_and_perfect_for_the_mask_itself(cam, mask):
    mask = torch.from_numpy(mask)
    for value in metrics.localize(torch.from_numpy(cam), mask).values():
        assert 0 <= value <= 100 + 1e-9
    assert set(metrics.localize(mask.double(), mask).values()) == {100}
    found = metrics.localize(torch.from_numpy(cam), mask)
    assert found["best_iou"] >= found["iou"] - 1e-9


def test_complexity_and_coherency_equal_pytorch_grad_cam(cams):
    stack = torch.stack(cams).numpy()
    np.testing.assert_allclose([metrics.complexity(cam) for cam in cams], arcc.Complexity()(stack))
    theirs = (arcc.batch_pearson_coherency(stack, stack[::-1]) + 1) / 2
    ours = [metrics.coherency(cam, other) for cam, other in zip(cams, cams[::-1], strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert metrics.coherency(cams[0], torch.ones(12, 12)) == 0.5


def test_adcc_by_hand():
    assert metrics.adcc(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert metrics.adcc(0.2, 1.0, 0.6) == pytest.approx(3 / (1 / 0.8 + 1 + 1 / 0.4))
    assert metrics.adcc(1.0, 1.0, 0.0) == metrics.adcc(0.0, 0.0, 0.0) == metrics.adcc(0, 1, 1) == 0


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_adcc_lies_between_the_worst_part_and_thrice_it(parts):
    worst = min(1 - parts[0], parts[1], 1 - parts[2])
    assert worst - 1e-9 <= metrics.adcc(*parts) <= 3 * worst + 1e-9


def test_similarity_is_of_ranks(cams):
    assert metrics.similarity(cams[0], cams[0] ** 3) == pytest.approx(1)
    assert metrics.similarity(cams[0], 1 - cams[0]) == pytest.approx(-1)
    assert metrics.similarity(cams[0], torch.zeros(12, 12)) == 0
    assert metrics.similarity(torch.zeros(12, 12), torch.zeros(12, 12)) == 1
    small = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 3.0], [2.0, 4.0]])
    assert metrics.similarity(*small) == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * (16 - 1)))


def test_a_network_forgets_from_the_top(tiny):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    copies = metrics.randomize_layers(tiny, 3)
    assert [share for share, _ in copies] == pytest.approx([1 / 3, 2 / 3, 1])
    for (_, copy), changed in zip(copies, (["fc"], ["fc", "conv2"], ["fc", "conv2", "conv1"]), strict=True):
        for name, value in copy.state_dict().items():
            assert torch.equal(value, before[name]) == (name.partition(".")[0] not in changed)
            assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


@pytest.mark.parametrize("name", metrics.TRANSFORMS)
def test_a_map_that_follows_the_image_is_stable(name):
    transform, image = metrics.TRANSFORMS[name], demo_photo("chelsea", 96).image
    changed = transform.change(image)
    assert changed.shape == image.shape
    assert not torch.equal(changed, image)
    one, other = transform.compare(image[0], changed[0])
    assert one.shape == other.shape
    assert metrics.similarity(one, other) > (0.8 if name == "noise" else 1 - 1e-9)
    assert 0 <= changed.min() <= changed.max() <= 1


def test_retest_asks_every_method_again(tiny, images):
    tiny.target_layer = tiny.relu2
    images = torch.nn.functional.interpolate(images, (12, 12))
    (evidence,) = capture(tiny, images[:1], target_layer=tiny.relu2, targets=[4])
    methods = [find_method(name) for name in ("grad_cam", "union_cam", "fake_cam")]
    maps = [found.cam for found in (method.explain(evidence) for method in methods)]
    networks = [[(network, methods) for _, network in metrics.randomize_layers(tiny, 3, seed)] for seed in range(2)]
    rows = metrics.explain_again(evidence, tiny, methods, maps, networks=networks)
    masked = evidence.masked(maps[0][None])
    (again,) = capture(tiny, masked, target_layer=tiny.relu2, targets=[4])
    assert rows[0]["coherency"] == pytest.approx(100 * metrics.coherency(maps[0], grad_cam(again)))
    (flipped,) = capture(tiny, images[:1].flip(3), target_layer=tiny.relu2, targets=[4])
    assert rows[0]["stability_flip"] == pytest.approx(100 * metrics.similarity(maps[0], grad_cam(flipped).flip(1)))
    for row, cam, explain in zip(rows, maps, (method.explain for method in methods), strict=True):
        rho = []  # of each seed's networks, from the one that forgot its top to the one that forgot all
        for seed in networks:
            for network, _ in seed:
                (forgotten,) = capture(network, images[:1], target_layer="relu2", targets=[4])
                again = explain(forgotten)
                rho.append(100 * metrics.similarity(cam, again.cam))
        assert row["sanity_rho"] == pytest.approx(rho)
        assert row["sanity_curve"] == pytest.approx([(abs(rho[i]) + abs(rho[i + 3])) / 2 for i in range(3)])
    assert min(rows[0]["sanity_rho"]) < 0, "else the size would say no more than the number"
    assert rows[2]["sanity_curve"] == [100] * 3
    assert rows[2]["stability_noise"] == 100
    assert rows[1]["sanity"] == pytest.approx(np.mean(rows[1]["sanity_curve"]))
    assert set(metrics.explain_again(evidence, tiny, methods, maps, ["stability"])[0]) == {
        "stability", "stability_shift", "stability_flip", "stability_noise",
    }  # fmt: skip
    assert not any(network._forward_hooks for seed in networks for network, _ in seed)


@pytest.mark.parametrize(
    ("rho", "curve"),
    [
        ([[1, 1], [1, 1], [1, 1]], [100, 100]),
        ([[-1, -1], [1, 1], [-1, -1]], [100, 100]),  # its own negative shows the same: nothing was forgotten
        ([[1, 0.5], [-0.5, 0], [0, -0.1]], [50, 20]),
    ],
)
def test_forgetting_counts_the_size_of_the_correlation_over_all_seeds(tiny, images, monkeypatch, rho, curve):
    tiny.target_layer = tiny.relu2
    (evidence,) = capture(tiny, images[:1], target_layer=tiny.relu2, targets=[2])
    method, values = find_method("grad_cam"), iter(np.ravel(rho).tolist())
    monkeypatch.setattr(metrics, "similarity", lambda *_: next(values))
    networks = [[(tiny, [method])] * 2] * 3
    (row,) = metrics.explain_again(evidence, tiny, [method], [grad_cam(evidence)], ["sanity"], networks)
    assert row["sanity_rho"] == pytest.approx((100 * np.ravel(rho)).tolist())
    assert row["sanity_curve"] == pytest.approx(curve)
    assert row["sanity"] == pytest.approx(np.mean(curve))


def test_recall_is_the_share_of_the_object_that_is_marked():
    cam = torch.tensor([[0.0, 0.5, 1.0], [0.4, 0.6, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert metrics.recall(cam, mask) == 0.5
    assert metrics.recall(cam, mask, threshold=0.4) == 0.75
    assert metrics.recall(torch.ones(2, 3), mask) == 1, "a map that shows all is complete, so look at its IoU too"
