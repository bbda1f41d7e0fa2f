"""The metrics against a plain loop, against torchcam, by hand, and by their properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric

from unioncam_core import Protocol, capture
from unioncam_lab import metrics
from unioncam_lab.baselines import fake_cam, grad_cam
from unioncam_lab.images import blur, demo_photo
from unioncam_lab.metrics import METRICS, auc, drop, evaluate, increase, perturbation, ranks


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
    for metric in METRICS:
        for alone, row in zip([evaluate(evidence, [cam], [metric])[0] for cam in cams], together, strict=True):
            for name, value in alone.items():
                assert row[name] == pytest.approx(value)


def test_equal_maps_are_scored_once(tiny, evidence, cams):
    seen = []
    network = evidence.scorer.network
    counting = replace(evidence, score=lambda images: seen.append(len(images)) or network(images))
    single = evaluate(counting, cams[:1])
    once = sum(seen)
    seen.clear()
    assert evaluate(counting, [cams[0], cams[0].clone(), cams[0]]) == single * 3
    assert sum(seen) == once


def test_an_engine_streams_what_a_loop_would(classifier):
    (evidence,) = capture(classifier, demo_photo("coffee", 64).image[None], target_layer=classifier.target_layer)
    plain = replace(evidence, score=lambda images: classifier(images))
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
    assert (result["drop"], result["increase"]) == (0, False)


def test_deletion_shows_what_the_protocols_masks_show(classifier):
    protocol = Protocol(mask_space="normalized")
    images = demo_photo("coffee", 64).image[None]
    (evidence,) = capture(classifier, images, target_layer=classifier.target_layer, protocol=protocol)
    end = perturbation(evidence, grad_cam(evidence), "deletion")[8]
    torch.testing.assert_close(end, classifier.mean[0].expand(3, 64, 64))


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


def test_a_wrong_metric_is_one_sentence(evidence):
    with pytest.raises(ValueError, match="no metric 'iou'; there are drop, increase, insertion, deletion"):
        metrics.check_metrics(["drop", "iou"])
    with pytest.raises(ValueError, match="No metric is given"):
        evaluate(evidence, [torch.rand(12, 12)], [])
    with pytest.raises(IndexError, match="no image 99"):
        perturbation(evidence, torch.rand(12, 12), "insertion")[99]
