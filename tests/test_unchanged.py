"""Tests that no public function changes a given network: neither its state nor its engine."""

import pytest
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tiny import TinyClassifier, state
from torch import nn

from fusioncam import FusionCAM
from unioncam_core import UnionCAM, capture
from unioncam_lab.classifiers import LabProtocol, as_classifier, from_model
from unioncam_lab.engine import Engine, accelerate
from unioncam_lab.experiment import Setup, explain_picture, run
from unioncam_lab.methods import find_method
from unioncam_lab.metrics import explain_again, randomize_layers
from unioncam_lab.report import write_report
from unioncam_lab.shapes import CLASSES
from unioncam_lab.train_shapes import examine

pytestmark = pytest.mark.usefixtures("one_thread")


class Learning(TinyClassifier):
    """A network in the middle of training: batch normalization, dropout, a frozen layer, gradients, a random state."""

    classes, input_size = CLASSES, 24

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.5))
        self.fc.append(nn.Linear(6 * 16, len(CLASSES)))
        self.train()
        self.relu1.eval()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.conv1.weight.requires_grad_(False)
        self.conv2.bias.grad = torch.ones_like(self.conv2.bias)

    def features(self, images):
        return self.relu2(self.conv2(self.relu1(self.norm(self.conv1(images)))))

    def forward(self, images):
        return self.fc(self.features(images))


@pytest.fixture
def model():
    return accelerate(Learning(), "eager", chunk=3, threads=1)


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def report(model, folder):
    run(Setup("shapes", model, ["grad_cam"], ["drop"], limit=2), out=folder)
    assert write_report(folder, model, count=1).exists()


def again(model, images):
    methods = [find_method("grad_cam"), find_method("LayerCAM", model)]
    (evidence,) = capture(model, images[:1], target_layer="relu2")
    networks = [[(copy, methods) for _, copy in randomize_layers(model, stages=2)]]
    assert len(explain_again(evidence, model, methods, [images[0, 0]] * 2, networks=networks)) == 2


def layer_cam(model, images):
    (evidence,) = capture(model, images[:1], target_layer="relu2")
    assert find_method("LayerCAM", model).explain(evidence).cam.shape == (24, 24)


def opened(model):
    with Setup("shapes", model, ["union_cam"], ["sanity"], precision="bf16", threads=2).open() as laboratory:
        assert explain_picture(laboratory, laboratory.setup.available()[0])["rows"]


USES = {
    "capture": lambda model, images, _: capture(model, images, target_layer="relu2", targets=[0, [1, 2]]),
    "UnionCAM": lambda model, images, _: UnionCAM(model, ["relu2"])(images, [ClassifierOutputTarget(0)] * 2),
    "FusionCAM": lambda model, images, _: FusionCAM(model, ["conv2"])(images),
    "Engine": lambda model, images, _: Engine(model, "openvino", progress=False)(images),
    "Laboratory": lambda model, *_: opened(model),
    "run": lambda model, _, folder: run(Setup("shapes", model, ["union_cam", "LayerCAM"], limit=2), out=folder),
    "write_report": lambda model, _, folder: report(model, folder),
    "explain_again": lambda model, images, _: again(model, images),
    "randomize_layers": lambda model, *_: randomize_layers(model),
    "a method of pytorch-grad-cam": lambda model, images, _: layer_cam(model, images),
    "examine": lambda model, *_: examine(model, 4),
    "as_classifier": lambda model, images, _: as_classifier(model).predict(images[0]),
    "from_model": lambda model, images, _: from_model(model, "relu2", input_size=24, mean=0.5).predict(images[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_a_network_is_left_as_it_was(model, images, tmp_path, use):
    settings = ("backend", "precision", "chunk", "progress", "threads")
    own, pixels = model.gradient_free, images.clone()
    before, attributes, asked = state(model), set(vars(model)), [getattr(own, name) for name in settings]
    USES[use](model, images, tmp_path)
    assert model.gradient_free is own
    assert [getattr(own, name) for name in settings] == asked
    assert set(vars(model)) == attributes
    assert torch.equal(images, pixels)
    after = state(model)
    assert {name: after[name] for name in after if after[name] != before[name]} == {}


@pytest.mark.slow
def test_a_network_without_an_engine_gets_none(tmp_path):
    model = Learning()
    before = state(model)
    run(Setup("shapes", model, ["score_cam"], ["drop"], protocol=LabProtocol(relu=False), limit=1), out=tmp_path)
    assert not hasattr(model, "gradient_free")
    assert state(model) == before
