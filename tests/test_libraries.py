"""Tests with the networks of torchvision, timm and transformers, at random weights, against pytorch-grad-cam.

`NETWORKS` says which layer of each family has its maps, and which `reshape_transform` makes them N×K×h×w.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import timm
import torch
import transformers
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform
from reference import algorithm_1, to_unit
from torch import nn
from torchvision import models

from unioncam_core import UnionCAM, capture, union_cam
from unioncam_lab.classifiers import channels_last, vit_tokens
from unioncam_lab.methods import grad_cam

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@dataclass(frozen=True)
class Library:
    build: Callable[[], nn.Module]
    layer: str
    ours: Callable | None = None
    theirs: Callable | None = None
    size: tuple[int, int] = (96, 96)

    def make(self):
        torch.manual_seed(0)
        model = self.build().eval()
        # Some classifiers start as zeros, and then nothing has a gradient.
        nn.init.normal_([module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight, std=0.2)
        return model, torch.rand(1, 3, *self.size, generator=torch.Generator().manual_seed(1))


def from_timm(name, **options):
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **options)


def from_transformers(family, **options):
    config = getattr(transformers, f"{family}Config")(num_labels=5, **options)
    return lambda: getattr(transformers, f"{family}ForImageClassification")(config)


# pytorch-grad-cam's transform for Swin takes tokens, those of most networks before torchvision's and timm's.
def swin(height, width):
    def reshape(output):
        return swinT_reshape_transform(output.flatten(1, -2), height, width)

    return reshape


def vit(height, width):
    return partial(vit_reshape_transform, height=height, width=width)


WIDE_TOKENS = partial(vit_tokens, height=3, width=4)
TINY_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
}
NETWORKS = {
    # A CNN's last maps need no transform, nor do those of a torchvision Swin after its layer `permute`.
    "torchvision swin_t": Library(models.swin_t, "norm", channels_last, swin(3, 3)),
    "torchvision swin_t, wide": Library(models.swin_t, "norm", channels_last, swin(2, 3), (64, 96)),
    "torchvision swin_t, permuted": Library(models.swin_t, "permute"),
    # Behind the last block, only the class token has a gradient: the layer is the norm at the block's beginning.
    "torchvision vit_b_16": Library(
        partial(models.vit_b_16, image_size=64), "encoder.layers.encoder_layer_11.ln_1", vit_tokens, vit(4, 4), (64, 64)
    ),
    "timm resnet": Library(from_timm("resnet10t"), "layer4"),
    "timm convnext": Library(from_timm("convnext_atto"), "stages"),
    "timm efficientnet": Library(from_timm("efficientnet_lite0"), "bn2"),
    "timm swin": Library(from_timm("swin_tiny_patch4_window7_224", img_size=96), "norm", channels_last, swin(3, 3)),
    "timm vit": Library(
        from_timm("vit_tiny_patch16_224", img_size=64), "blocks.11.norm1", vit_tokens, vit(4, 4), (64, 64)
    ),
    "timm vit, wide": Library(
        from_timm("vit_tiny_patch16_224", img_size=(48, 64)), "blocks.11.norm1", WIDE_TOKENS, vit(3, 4), (48, 64)
    ),
    # One register, no class token, and the mean over all positions as the last feature.
    "timm vit with a register": Library(
        from_timm("vit_wee_patch16_reg1_gap_256", img_size=64), "norm", vit_tokens, vit(4, 4), (64, 64)
    ),
    "transformers ResNet": Library(
        from_transformers("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        "resnet.encoder.stages.1",
        size=(32, 32),
    ),
    "transformers ConvNext": Library(
        from_transformers("ConvNext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
        "convnext.encoder.stages.1",
        size=(32, 32),
    ),
    "transformers ViT": Library(
        from_transformers("ViT", image_size=32, **TINY_VIT),
        "vit.layers.1.layernorm_before",
        vit_tokens,
        vit(4, 4),
        (32, 32),
    ),
    "transformers ViT, wide": Library(
        from_transformers("ViT", image_size=(24, 32), **TINY_VIT),
        "vit.layers.1.layernorm_before",
        WIDE_TOKENS,
        vit(3, 4),
        (24, 32),
    ),
    # Tokens of the positions alone.
    "transformers Swin": Library(
        from_transformers("Swin", image_size=32, embed_dim=12, depths=[1, 1], num_heads=[1, 1], window_size=4),
        "swin.layernorm",
        vit_tokens,
        swin(4, 4),
        (32, 32),
    ),
}


class Logits(nn.Module):
    """A network of transformers as pytorch-grad-cam takes it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        y = self.network(images)
        return getattr(y, "logits", y)


@pytest.mark.parametrize("name", NETWORKS)
def test_grad_cam_is_pytorch_grad_cams(name):
    library = NETWORKS[name]
    (model, images), classes = library.make(), [0, 1, 2, 3]
    evidences = capture(model, images, target_layer=library.layer, targets=[classes], reshape_transform=library.ours)
    layer = model.get_submodule(library.layer)
    with GradCAM(Logits(model), [layer], reshape_transform=library.theirs) as theirs:
        expected = theirs(images.expand(4, -1, -1, -1), [ClassifierOutputTarget(c) for c in classes])
        (activations,), (gradients,) = theirs.activations_and_grads.activations, theirs.activations_and_grads.gradients
    assert expected.max() > 0.9
    for i, evidence in enumerate(evidences):
        for ours, reference in ((evidence.activations, activations[i]), (evidence.gradients, gradients[i])):
            size = float(reference.abs().max())
            assert size > 0
            torch.testing.assert_close(ours / size, reference / size, atol=1e-5, rtol=0)
        # Theirs is scaled before it is upsampled.
        np.testing.assert_allclose(grad_cam(evidence), to_unit(expected[i]), atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("transformers")])
def test_union_cam_is_the_plain_loops(name):
    library = NETWORKS[name]
    model, images = library.make()
    model, images, kept = model.double(), images.double(), []
    (evidence,) = capture(model, images, target_layer=library.layer, targets=[3], reshape_transform=library.ours)
    (cam,) = UnionCAM(model, [library.layer], 70, reshape_transform=library.ours)(images, [3])
    hook = model.get_submodule(library.layer).register_forward_hook(lambda *call: kept.append(call[2]))
    logits = model(images).logits[0]
    hook.remove()
    (gradients,) = torch.autograd.grad(logits[3], kept[0])
    reshape = library.theirs or (lambda output: output)
    A, W = (reshape(maps.detach())[0].numpy() for maps in (kept[0], gradients))

    @torch.no_grad()
    def f(masked):
        return float(model(torch.from_numpy(masked)[None]).logits[0].softmax(0)[3])

    expected, steps = algorithm_1(A, W, images[0].numpy(), f, theta=70), union_cam(evidence, 70)
    assert expected["cam"].max() == 1
    for part in ("denoised", "region", "united", "cam"):
        np.testing.assert_allclose(getattr(steps, part), expected[part], atol=1e-6)
    np.testing.assert_allclose(cam, expected["cam"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torchvision swin_t", "norm"),
        ("torchvision vit_b_16", "encoder.ln"),
        ("timm swin", "norm"),
        ("timm vit", "norm"),
    ],
)
def test_without_a_transform_the_layer_is_refused(name, layer):
    model, images = NETWORKS[name].make()
    with pytest.raises(
        ValueError, match=f"layer {layer} gives .*reshape_transform.*channels_last.*vit_tokens"
    ) as caught:
        UnionCAM(model, [layer])(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(224, 192), (224, 208), (96, 80), (64, 48)])
def test_a_wide_image_needs_the_grid_of_its_tokens(size):
    """With the class token, 14×12 tokens are as many as 13×13; of the others a square leaves out no more than 16."""
    model, images = from_timm("vit_tiny_patch16_224", img_size=size, depth=2)().eval(), torch.rand(1, 3, *size)
    with pytest.raises(ValueError, match=r"reshape_transform|vit_tokens the grid") as caught:
        UnionCAM(model, ["blocks.1.norm1"], reshape_transform=vit_tokens)(images)
    assert "\n" not in str(caught.value)


def test_channels_at_the_end_are_seen_where_they_are_as_many_as_columns():
    model = models.swin_t().eval()
    with pytest.raises(ValueError, match=r"layer features.1 gives \[1, 16, 96, 96\].*reshape_transform"):
        UnionCAM(model, ["features.1"])(torch.rand(1, 3, 64, 384))
