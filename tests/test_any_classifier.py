"""Tests that any classifier gets the map of a plain loop, or one sentence: networks × inputs × forms of targets.

The loop (`reference.algorithm_1`) scores one masked image at a time with a double-precision copy of the network, and
knows by hand where the network's maps are and how its outputs become a class score.
"""

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kinds import (
    Buffers,
    ChannelsLast,
    ClassToken,
    Crops,
    DividesByMaximum,
    Dropout,
    FirstOnly,
    InParts,
    LosesTheBatch,
    NanBelow,
    NearZero,
    Net,
    Normed,
    OwnAttributes,
    Pooled,
    ReLUAfterTheMaps,
    Reversed,
    Root,
    SharedReLU,
    SharedReLUInParts,
    Tokens,
    Twins,
    Unreached,
    Views,
    bounded,
    ends,
    negated,
)
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from reference import algorithm_1, bilinear, to_unit
from torch import nn

from unioncam_core import (
    NonFiniteScore,
    Protocol,
    UnionCAM,
    capture,
    contribution,
    region_weights,
    union_cam,
)
from unioncam_lab.classifiers import channels_last, vit_tokens

SIGMOID, LOGIT = Protocol(class_score="sigmoid"), Protocol(class_score="logit")


# What a network's outputs y (C,) for one image mean: f^c, what W differentiates, and the class that it would choose.


@dataclass(frozen=True)
class Reading:
    score: Callable = lambda y, c: y.softmax(0)[c]
    logit: Callable = lambda y, c: y[c]
    choice: Callable = lambda y: int(y.argmax())
    probability: Callable | None = None  # if it is not f^c


SOFTMAX = Reading()
LOGIT_OF_SOFTMAX = Reading(score=lambda y, c: y[c], probability=SOFTMAX.score)
EACH_SIGMOID = Reading(score=lambda y, c: y[c].sigmoid())
ONE_LOGIT = Reading(
    score=lambda y, c: y[0].sigmoid() if c else 1 - y[0].sigmoid(),
    logit=lambda y, c: y[0] if c else -y[0],
    choice=lambda y: int(y[0] > 0),
)
ONE_LOGIT_AS_SCORE = replace(ONE_LOGIT, score=ONE_LOGIT.logit, probability=ONE_LOGIT.score)


def tokens(front, h, w):
    """By hand: one image's (tokens, K) -> (K, h, w)."""
    return lambda maps: maps[front:].T.reshape(-1, h, w)


@dataclass(frozen=True)
class Case:
    """A classifier, its images and targets, and what is known of them by hand."""

    network: Callable[[], nn.Module]
    reading: Reading = SOFTMAX
    outputs: Callable = lambda y: y.reshape(-1)  # what the model returns for one image -> y (C,)
    shape: tuple[int, ...] = (2, 3, 12, 12)
    normalized: bool = False  # values of both signs, or in [0, 1]
    dtype: torch.dtype = torch.float64
    targets: Any = None  # as they are given
    classes: list | None = None  # what they mean, by hand; None: the network's first choice
    first_choice: int | None = None  # of every image, if a case is about it
    layer: str = "maps"
    layout: Callable = lambda maps: maps  # the layer's output for one image -> (K, h, w)
    options: dict = field(default_factory=dict)  # of capture and UnionCAM
    wrap: Callable = lambda model: model  # what is done to the network before it is explained, and changes no value
    tolerance: float = 1e-9
    theta: float = 70  # a percentile that removes positive gradients too

    def images(self):
        noise = torch.Generator().manual_seed(1)
        draw = torch.randn if self.normalized else torch.rand
        return draw(self.shape, dtype=torch.float64, generator=noise).to(self.dtype)

    def by_hand(self, image, i):
        """The class of the i-th image, its probability, the score of black, and the steps of Algorithm 1, by hand."""
        model, kept = self.network().to(self.dtype).double(), []
        model.get_submodule(self.layer).register_forward_hook(lambda *call: kept.append(call[2]))
        image = image.double()
        y = self.outputs(model(image[None].requires_grad_()))
        c = self.reading.choice(y) if self.classes is None else self.classes[i]
        assert self.first_choice in (None, c)
        read = self.reading.score, self.reading.logit, self.reading.probability or self.reading.score
        score, logit, probability = (c, c, c) if callable(c) else (partial(f, c=c) for f in read)
        (W,) = torch.autograd.grad(logit(y), kept[-1])

        @torch.no_grad()
        def f(masked):
            return float(score(self.outputs(model(torch.from_numpy(masked)[None]))))

        A, W = (self.layout(maps[0].detach().numpy()) for maps in (kept[-1], W))
        steps = algorithm_1(A, W, image.numpy(), f, self.theta)
        return steps | {
            "target": c,
            "probability": float(probability(y).detach()),
            "black_score": f(np.zeros_like(image)),
        }

    def run(self):
        """Capture the images, and call UnionCAM."""
        model, images = self.wrap(self.network().to(self.dtype)), self.images()
        # A wrapped network names its layers in another way.
        layer = next(module for name, module in model.named_modules() if name.endswith(self.layer))
        options = {"targets": self.targets, **self.options}
        evidences = capture(model, images, target_layer=layer, **options)
        return evidences, UnionCAM(model, [layer], self.theta, **self.options)(images, self.targets)


BINARY = {
    "logit": (lambda **o: Net(1, **o), ONE_LOGIT),
    "logit squeezed": (lambda **o: ends(lambda y: y.squeeze(1), 1, **o), ONE_LOGIT),
    "logit of every batch squeezed": (lambda **o: LosesTheBatch(1, **o), ONE_LOGIT),
    "logit of N×1×1×1": (lambda **o: ends(lambda y: y[..., None, None], 1, **o), ONE_LOGIT),
}
MANY = {
    "logits": (lambda **o: Net(**o), SOFTMAX, {}),
    "logits of two classes": (lambda **o: Net(2, **o), SOFTMAX, {"classes": [1, 0]}),
    "logits between 0 and 1": (lambda **o: bounded(5, **o), SOFTMAX, {}),
    "logits as class score": (lambda **o: Net(**o), LOGIT_OF_SOFTMAX, {"options": {"protocol": LOGIT}}),
    "multi-label": (lambda **o: Net(**o), EACH_SIGMOID, {"options": {"protocol": SIGMOID}}),
    "nn.LogSoftmax": (lambda **o: ends(nn.LogSoftmax(1), **o), SOFTMAX, {}),
    "N×C×1×1": (lambda **o: ends(lambda y: y[..., None, None], **o), SOFTMAX, {}),
    ".logits": (
        lambda **o: ends(lambda y: SimpleNamespace(loss=None, logits=y), **o),
        SOFTMAX,
        {"outputs": lambda y: y.logits[0]},
    ),
    ".logits of N×1": (
        lambda **o: ends(lambda y: SimpleNamespace(logits=y), 1, **o),
        ONE_LOGIT,
        {"outputs": lambda y: y.logits[0], "classes": [1, 0]},
    ),
}
# How a user names the classes 2 and 0.
FORMS = {
    "tuple": (2, 0),
    "tensor": torch.tensor([2, 0]),
    "tensor of int32": torch.tensor([2, 0], dtype=torch.int32),
    "column": torch.tensor([[2], [0]]),
    "array": np.array([2, 0]),
    "list of NumPy's": [np.int64(2), np.int32(0)],
    "list of tensors": [torch.tensor(2), torch.tensor(0)],
    "list of lists": [[2], [0]],
    "ClassifierOutputTarget": [ClassifierOutputTarget(2), ClassifierOutputTarget(0)],
    "two forms": [ClassifierOutputTarget(torch.tensor(2)), BinaryClassifierOutputTarget(0)],
}
VALUES = {
    "ClassifierOutputSoftmaxTarget": [ClassifierOutputSoftmaxTarget(2), ClassifierOutputSoftmaxTarget(0)],
    "difference of two": [lambda y: y[2] - y[0], lambda y: y[0] - y[4]],
}


def cases():
    found = {}
    for name, (network, reading) in BINARY.items():
        for chosen, seed in ((0, 0), (1, 6)):
            found[f"{name}, None is {chosen}"] = Case(partial(network, seed=seed), reading, first_choice=chosen)
        both = Case(network, reading, classes=[0, 1])
        found[f"{name}, [0, 1]"] = replace(both, targets=[0, 1])
        named = [BinaryClassifierOutputTarget(c) for c in (0, 1)]
        found[f"{name}, BinaryClassifierOutputTarget"] = replace(both, targets=named)
    one = Case(partial(Net, 1), targets=[0, 1], classes=[0, 1])
    found["logit between 0 and 1, None"] = Case(partial(bounded, 1), ONE_LOGIT, first_choice=1)
    found["logit between 0 and 1, [0, 1]"] = replace(one, network=partial(bounded, 1), reading=ONE_LOGIT)
    for reading, protocol in (
        (ONE_LOGIT_AS_SCORE, LOGIT),
        (ONE_LOGIT, SIGMOID),
        (replace(ONE_LOGIT, logit=ONE_LOGIT.score), Protocol(gradient_of="probability")),
    ):
        found[f"logit, {protocol.class_score}, {protocol.gradient_of}"] = replace(
            one, reading=reading, options={"protocol": protocol}
        )
    for name, (network, reading, more) in MANY.items():
        found[f"{name}, None"] = Case(network, reading, **{**more, "classes": None})
        wanted = more.get("classes", [2, 0])
        found[f"{name}, {wanted}"] = Case(network, reading, targets=wanted, **{"classes": wanted, **more})
        found[f"{name}, one image"] = Case(network, reading, shape=(1, 3, 12, 12), **{**more, "classes": None})

    net = Case(Net)
    for name, targets in FORMS.items():
        found[f"targets in a {name}"] = replace(net, targets=targets, classes=[2, 0])
    for name, targets in VALUES.items():
        found[f"targets: {name}"] = replace(net, targets=targets, classes=targets)
    found["targets: an index and a function"] = replace(
        net, targets=[3, VALUES["difference of two"][1]], classes=[3, VALUES["difference of two"][1]]
    )
    for bands in (1, 2, 3, 4, 12):
        for size in ((12, 12), (9, 14), (16, 7)):
            for normalized in (False, True):
                name = f"{bands}x{size[0]}x{size[1]}" + ", normalized" * normalized
                network, shape = partial(Net, bands=bands, size=size), (2, bands, *size)
                found[name] = Case(network, shape=shape, normalized=normalized, targets=[3, 1], classes=[3, 1])
    return found | layouts() | habits() | states()


def layouts():
    """Layers whose output is no N×K×h×w, and maps of few positions."""
    wide = {"size": (8, 14), "seed": 3}
    grid = partial(vit_tokens, height=4, width=7)
    found = {
        "channels last": Case(
            ChannelsLast, layout=lambda maps: maps.transpose(2, 0, 1), options={"reshape_transform": channels_last}
        ),
        "channels last, wide": Case(
            partial(ChannelsLast, **wide),
            shape=(2, 3, 8, 14),
            layout=lambda maps: maps.transpose(2, 0, 1),
            options={"reshape_transform": channels_last},
        ),
        "another grid, as it is": Case(
            partial(Pooled, (2, 5)), options={"reshape_transform": lambda output: output}, shape=(2, 3, 12, 12)
        ),
        # As few positions as a stride of 8 leaves, rounded down.
        "a coarse grid": Case(partial(Pooled, (2, 3)), shape=(2, 3, 16, 31)),
    }
    for front in (0, 1, 5):
        found[f"tokens, {front} in front"] = Case(
            partial(Tokens, front), layout=tokens(front, 6, 6), options={"reshape_transform": vit_tokens}
        )
        found[f"tokens, {front} in front, wide"] = Case(
            partial(Tokens, front, **wide),
            layout=tokens(front, 4, 7),
            shape=(2, 3, 8, 14),
            options={"reshape_transform": grid},
        )
    return found


def habits():
    """What a model does with its batch and its layers."""
    three = {"shape": (3, 3, 12, 12), "targets": [2, 0, 1], "classes": [2, 0, 1]}
    return {
        "in parts of two": Case(partial(InParts, 2), **three),
        "image by image": Case(partial(InParts, 1), **three),
        "image by image, the last one first": Case(Reversed, **three),
        "shared ReLU, image by image": Case(SharedReLUInParts, **three),
        "one image in parts of two": Case(partial(InParts, 2), shape=(1, 3, 12, 12)),
        "shared ReLU": Case(SharedReLU, **three),
        "shared ReLU, one image": Case(SharedReLU, shape=(1, 3, 12, 12)),
        "twins": Case(Twins, **three),
        "own attributes": Case(OwnAttributes),
        "view": Case(Views),
        "view, one channel": Case(partial(Views, bands=1), shape=(2, 1, 12, 12)),
        "a logit near 0": Case(
            partial(NearZero, Case(Net).images()[:1]),
            ONE_LOGIT,
            shape=(1, 3, 12, 12),
            dtype=torch.float32,
            targets=[1],
            classes=[1],
            tolerance=1e-5,
        ),
        "no parameters": Case(Buffers),
        "nn.InstanceNorm2d": Case(partial(Normed, nn.InstanceNorm2d(6))),
        "nn.GroupNorm": Case(partial(Normed, nn.GroupNorm(2, 6))),
        "nn.BatchNorm2d": Case(partial(Normed, nn.BatchNorm2d(6))),
    }


# What changes no value of a model.
SAME = {
    "frozen": lambda model: model.requires_grad_(False),
    "in training mode": lambda model: model.train(),
    "DataParallel": nn.DataParallel,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "in an nn.Sequential": nn.Sequential,
}


def states():
    """Numbers and states of a model that change nothing about its map."""
    found = {name: Case(Net, wrap=wrap) for name, wrap in SAME.items()}
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)):
        # Rounded gradients lie on either side of a percentile: nothing is denoised where they are rounded much.
        rounded = Case(Net, dtype=dtype, tolerance=tolerance, theta=70 if dtype == torch.float32 else 0)
        found[str(dtype)] = rounded
        found[f"logit, {dtype}"] = replace(rounded, network=partial(Net, 1), reading=ONE_LOGIT)
    return found


CASES = cases()


def compare(case, evidences, maps):
    assert len(evidences) == len(maps) == case.shape[0]
    close = partial(np.testing.assert_allclose, rtol=0)
    for i, (image, evidence) in enumerate(zip(case.images(), evidences, strict=True)):
        expected, steps = case.by_hand(image, i), union_cam(evidence, case.theta)
        assert evidence.target is expected["target"] or evidence.target == expected["target"]
        for name in ("probability", "black_score"):
            close(getattr(evidence, name), expected[name], atol=case.tolerance, err_msg=name)
        for name in ("denoised", "region", "united", "beta_denoising", "beta_region", "beta_united"):
            close(getattr(steps, name), expected[name], atol=case.tolerance, err_msg=name)
        assert steps.selected == expected["selected"]
        close(maps[i], expected["cam"], atol=max(case.tolerance, 1e-6))


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_the_plain_loops(name):
    case = CASES[name]
    compare(case, *case.run())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_images_made_without_gradients(mode):
    case = CASES["3x12x12"]
    model = case.network()
    with mode():
        found = replace(case, network=lambda: model).run()
    compare(case, *found)


@pytest.mark.slow
def test_a_compiled_network():
    case = replace(CASES["3x12x12"], wrap=partial(torch.compile, backend="eager"))
    compare(case, *case.run())


# What gets one sentence: a network, what is asked of it, and words of the cause and of the remedy.

# A network's end that makes probabilities of logits, which a second softmax would change without a word; its inputs.
PROBABILITIES = {
    "nn.Softmax": (nn.Softmax(1), 5),
    "torch.softmax": (lambda y: y.softmax(1), 5),
    "torch.softmax in half precision": (lambda y: y.half().softmax(1).double(), 5),
    "exp of log_softmax": (lambda y: y.log_softmax(1).exp(), 5),
    "mean of two softmaxes": (lambda y: (y.softmax(1) + (2 * y).softmax(1)) / 2, 5),
    "softmax as .logits": (lambda y: SimpleNamespace(logits=y.softmax(1)), 5),
    "nn.Sigmoid": (nn.Sigmoid(), 1),
    "nn.Sigmoid of each": (nn.Sigmoid(), 5),
    "torch.sigmoid": (torch.sigmoid, 1),
    "torch.sigmoid of each": (torch.sigmoid, 5),
    "torch.sigmoid squeezed": (lambda y: y.sigmoid().squeeze(1), 1),
    "torch.sigmoid beside its complement": (lambda y: torch.cat([1 - y.sigmoid(), y.sigmoid()], 1), 1),
}
LAYOUT = r"layer \w+ gives \[.*reshape_transform.*channels_last.*vit_tokens"


@dataclass(frozen=True)
class Refused:
    network: Callable[[], nn.Module]
    words: str
    error: type[Exception] = ValueError
    shape: tuple[int, ...] = (2, 3, 12, 12)
    layer: str = "maps"
    targets: Any = None
    options: dict = field(default_factory=dict)

    def run(self):
        images = torch.rand(self.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        model = self.network()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
            UnionCAM(model, self.layer, **self.options)(images, self.targets)


def quantized():
    return torch.ao.quantization.quantize_dynamic(Net().float(), {nn.Linear}, dtype=torch.qint8)


def traced():
    return torch.jit.trace(Net(), torch.rand(2, 3, 12, 12, dtype=torch.float64))


def scripted():
    return torch.jit.script(nn.Sequential(Net().conv1, nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)).double())


def refused_targets():
    one_hot = [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
    return {
        "one-hot rows": (one_hot, ValueError, r"argmax\(1\)"),
        "one-hot tensor": (torch.tensor(one_hot), ValueError, r"argmax\(1\)"),
        "one-hot array": (np.array(one_hot), ValueError, r"argmax\(1\)"),
        "one-hot of floats": (torch.tensor(one_hot).double(), TypeError, "must be a class index"),
        "one-hot of bools": (torch.tensor(one_hot).bool(), TypeError, "must be a class index"),
        "one-hot of two classes": ([[0, 1], [1, 0]], ValueError, "one class|one target"),
        "a class too many": ([0, 5], ValueError, "target 5 is out of range: .*0 to 4"),
        "a class below": ([-1, 0], ValueError, "target -1 is out of range: .*0 to 4"),
        "an object's class too many": ([ClassifierOutputTarget(7), 0], ValueError, "target 7 is out of range"),
        "too few": ([0], ValueError, r"targets is \[0\]; one target for each of the 2 images"),
        "too many": (torch.arange(3), ValueError, "one target for each of the 2 images"),
        "one for all": (3, ValueError, "targets is 3; one target for each of the 2 images"),
        "one tensor for all": (torch.tensor(3), ValueError, "one target for each of the 2 images"),
        "one object for all": (ClassifierOutputTarget(3), ValueError, "one target for each of the 2 images"),
        "one function for all": (lambda y: y[0], ValueError, "one target for each of the 2 images"),
        "strings": (["cat", "dog"], TypeError, "target is 'cat'; .*class index"),
        "a string": ("12", ValueError, "targets is '12'; one target for each"),
        "floats": ([0.0, 1.0], TypeError, "target is 0.0; .*class index"),
        "an array of floats": (np.array([0.0, 1.0]), TypeError, "class index"),
        "a tensor of floats": (torch.tensor([0.0, 1.0]), TypeError, "class index"),
        "bools": ([True, False], TypeError, "target is True; .*class index"),
        "None for one": ([None, 1], TypeError, "target is None; .*class index"),
        "nothing for one": ([[], 1], TypeError, r"target is \[\]; .*class index"),
        "nested too deep": ([[[0]], [[1]]], TypeError, "class index"),
        "a set": ({0, 1}, (TypeError, ValueError), "sequence|one target for each"),
        "a dict": ({0: 1, 1: 2}, (TypeError, ValueError), "sequence|one target for each"),
        "a function of all outputs": ([lambda y: y, lambda y: y], ValueError, "must return a single number"),
        "a function without a tensor": ([lambda y: 1.0, lambda y: 2.0], ValueError, "does not depend"),
        "a function that does not depend": ([lambda y: y[0].detach()] * 2, ValueError, "does not depend"),
        "a function that gives NaN": ([lambda y: y[0] * torch.nan] * 2, NonFiniteScore, "NaN or infinite"),
    }


def refused():
    found = {
        f"target: {name}": Refused(Net, words, error, targets=targets)
        for name, (targets, error, words) in refused_targets().items()
    }
    for name, chosen in (("2", 2), ("-1", -1)):
        found[f"target {name} of one logit"] = Refused(partial(Net, 1), "out of range: .*0 to 1", targets=[0, chosen])
    for name, end in PROBABILITIES.items():
        found[f"outputs: {name}"] = Refused(partial(ends, *end), "softmax or a sigmoid.*logits")
    outputs = {
        "a tuple": (lambda y: (y, y), "returns tuple"),
        "a list": (lambda y: [y], "returns list"),
        "a dict": (lambda y: {"logits": y}, "returns dict"),
        "nothing": (lambda y: None, "returns NoneType"),
        "scores of each position": (lambda y: y[..., None, None].expand(-1, -1, 4, 4), r"\[2, 5, 4, 4\]"),
        "scores of each token": (lambda y: torch.stack([y, y, y], 1), r"\[2, 3, 5\]"),
        "one row for two images": (lambda y: y[:1], r"\[1, 5\].* for 2 images"),
        "three rows for two images": (lambda y: torch.cat([y, y[:1]]), r"\[3, 5\].* for 2 images"),
        "a sum over the images": (lambda y: y.sum(), "for 2 images"),
        "the class itself": (lambda y: y.argmax(1), "int64|gradient"),
        "NaN": (lambda y: y * torch.nan, "NaN or infinite"),
        "infinity": (lambda y: y / 0, "NaN or infinite"),
        "outputs without a gradient": (lambda y: y.detach(), "gradient"),
    }
    for name, (end, words) in outputs.items():
        found[f"outputs: {name}"] = Refused(partial(ends, end), words)
    wide = {"size": (8, 14), "seed": 3}
    found |= {
        "channels last": Refused(partial(ChannelsLast, size=(16, 16)), LAYOUT, shape=(2, 3, 16, 16)),
        "channels last, wide": Refused(partial(ChannelsLast, **wide), LAYOUT, shape=(2, 3, 8, 14)),
        "tokens": Refused(Tokens, LAYOUT),
        "tokens with a class token": Refused(partial(Tokens, 1), LAYOUT),
        "linear layer": Refused(Net, LAYOUT, layer="fc"),
        "maps that are channels last": Refused(
            partial(Net, **wide), LAYOUT, shape=(2, 3, 8, 14), options={"reshape_transform": channels_last}
        ),
        "a wide grid taken for a square": Refused(
            partial(Tokens, size=(32, 24)),
            "vit_tokens|reshape_transform",
            shape=(2, 3, 32, 24),
            options={"reshape_transform": vit_tokens},
        ),
        "a wide grid with a class token, as many as a square has": Refused(
            partial(Tokens, 1, size=(28, 24)),
            "reshape_transform",
            shape=(2, 3, 28, 24),
            options={"reshape_transform": vit_tokens},
        ),
        "tokens that the score does not read": Refused(
            ClassToken, "gradient|depend", options={"reshape_transform": vit_tokens}
        ),
        "a grid of more tokens than there are": Refused(
            Tokens,
            "36",
            options={"reshape_transform": partial(vit_tokens, height=7, width=7)},
        ),
        "tokens where there are maps": Refused(Net, "N×tokens×K", options={"reshape_transform": vit_tokens}),
        "another grid": Refused(partial(Pooled, (2, 6)), LAYOUT, shape=(2, 3, 12, 12)),
        "a reshape that loses the batch": Refused(
            Net, "reshape_transform", options={"reshape_transform": lambda output: output[0]}
        ),
        "a reshape that mixes the images": Refused(
            Net, "reshape_transform|images", options={"reshape_transform": lambda output: output[:1]}
        ),
        "crops": Refused(Crops, r"layer maps gives \[2, .* for images \[1, "),
        "only the first image": Refused(FirstOnly, "other images of a batch"),
        "ReLU after the maps": Refused(ReLUAfterTheMaps, LAYOUT),
        "never reached": Refused(Unreached, "layer unused was not reached", layer="unused"),
        "reached for nothing": Refused(Unreached, "does not depend on the layer aside", layer="aside"),
        "unknown": Refused(Net, "no layer 'layer4'", layer="layer4"),
        "an infinite gradient": Refused(Root, "gradient"),
        "a gradient that is NaN": Refused(partial(Root, 0.0), "gradient"),
        "dropout left on": Refused(Dropout, "logits of an image change"),
        "statistics of the batch": Refused(
            partial(Normed, nn.BatchNorm2d(6, track_running_stats=False)), "other images of a batch"
        ),
        "statistics of a batch of one": Refused(
            partial(Normed, nn.BatchNorm2d(6, track_running_stats=False)),
            "other images of a batch",
            shape=(1, 3, 12, 12),
        ),
        "divides by its image's maximum": Refused(DividesByMaximum, "NaN or infinite.*black image", NonFiniteScore),
        "traced": Refused(traced, "(?i)traced|torchscript"),
        "scripted": Refused(scripted, "traced or scripted; give it as it was before", layer="1"),
        "another dtype": Refused(lambda: Net().float(), "float64 .*float32", TypeError),
        "no layers": Refused(Net, "target_layers is empty", layer=[]),
        "the mean colour of a user's network": Refused(
            OwnAttributes, "mean colour", options={"protocol": Protocol(mask_space="normalized")}
        ),
        "theta as a string": Refused(Net, "theta is '10'", (TypeError, ValueError), options={"theta": "10"}),
        "protocol as a dict": Refused(Net, "protocol is {}", TypeError, options={"protocol": {}}),
    }
    return found


REFUSED = refused()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_explained_gets_one_sentence(name):
    case = REFUSED[name]
    with pytest.raises(case.error, match=case.words) as caught:
        case.run()
    assert type(caught.value) in (ValueError, TypeError, NonFiniteScore)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_a_quantized_network_is_refused():
    """Its linear layers take single precision alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantized()
        with pytest.raises((TypeError, ValueError), match="quantized") as caught:
            UnionCAM(model, ["maps"])(torch.rand(1, 3, 12, 12))
    assert "\n" not in str(caught.value)


def test_the_image_without_a_score_is_named():
    """Between the two darkest masked images, the threshold leaves only one channel without a score."""
    case = Case(NanBelow, shape=(1, 3, 12, 12), targets=[2])
    model, image = case.network(), case.images()
    with torch.no_grad():
        maps = model.features(image)[0].numpy()
    assert min(np.ptp(maps, (1, 2))) > 0
    means = [(to_unit(bilinear(map_, 12, 12)) * image.numpy()).mean() for map_ in maps]
    darkest, second = np.argsort(means)[:2]
    model.threshold = (means[darkest] + means[second]) / 2
    with pytest.raises(NonFiniteScore, match=f"NaN or infinite.*channel {darkest}") as caught:
        UnionCAM(model, ["maps"])(image, [2])
    assert "\n" not in str(caught.value)
    (evidence,) = capture(model, image, target_layer="maps", targets=[2])
    with pytest.raises(NonFiniteScore, match=r"NaN or infinite.*by the map"):
        contribution(evidence, torch.full((12, 12), 1e-3))


def test_a_map_of_one_position_warns():
    case = Case(partial(Pooled, (1, 1)))
    with pytest.warns(UserWarning, match=r"layer maps gives \[2, 6, 1, 1\].*one position.*; conv2 has more"):
        evidences = capture(case.network(), case.images(), target_layer="maps")
    assert union_cam(evidences[0]).cam.count_nonzero() == 0


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("seed", [0, 6])
def test_the_opposite_binary_classifier_gets_the_opposite_classs_map(name, seed):
    """With negated weights, class 1 has the score and the gradient that class 0 had."""
    model, images = BINARY[name][0](seed=seed), Case(Net).images()
    opposite = negated(model)
    for c in (0, 1):
        mine, theirs = (
            [union_cam(e, 70) for e in capture(each, images, target_layer="maps", targets=[target] * 2)]
            for each, target in ((model, c), (opposite, 1 - c))
        )
        for one, other in zip(mine, theirs, strict=True):
            assert one.beta_region == pytest.approx(other.beta_region, abs=1e-12)
            torch.testing.assert_close(one.cam, other.cam, atol=1e-9, rtol=0)
    both = [union_cam(e, 70).cam for e in capture(model, images[:1], target_layer="maps", targets=[[0, 1]])]
    assert (both[0] - both[1]).abs().max() > 0.01


@pytest.mark.parametrize("seed", [0, 6])
def test_one_logit_is_two_logits_of_half_its_size(seed):
    """softmax(-y/2, y/2) is the sigmoid of y and its complement, and Eq. 3 cancels the half."""
    model, images = Net(1, seed=seed), Case(Net).images()
    double = ends(lambda y: torch.cat([-y / 2, y / 2], 1), 1, seed=seed)
    for targets in ([0, 1], [1, 0], None):
        one, two = (UnionCAM(each, ["maps"], 70)(images, targets) for each in (model, double))
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_softmax_over_the_channels_of_one_logit():
    evidences = capture(
        Net(1), Case(Net).images(), target_layer="maps", targets=[0, 1], protocol=Protocol(region_weights="softmax")
    )
    for sign, evidence in zip((-1, 1), evidences, strict=True):
        with torch.no_grad():
            logits = [sign * Net(1)(evidence.masked(mask[None]))[0, 0] for mask in evidence.masks(slice(None))]
        logits = torch.stack(logits).where(evidence.live, -torch.inf)
        torch.testing.assert_close(region_weights(evidence), logits.softmax(0))
