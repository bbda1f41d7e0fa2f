"""Training of networks on drawn shapes, in minutes on 2 cores. The command is unioncam train (make shapes).

`NETWORKS` names them. load_classifier knows shapes_vgg; the others stand for networks of a user's own.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from unioncam_core import evaluation
from unioncam_lab import DATA, progress_disabled
from unioncam_lab.classifiers import SHAPES_MEAN, SHAPES_STD, SHAPES_WEIGHTS, shapes_network
from unioncam_lab.images import Scene, SceneKind
from unioncam_lab.provenance import provenance
from unioncam_lab.shapes import CLASSES, SIZE, draw_scene

TRAINING_SEEDS = 10**6  # the first seed of a training scene; scenes with smaller seeds are never used for training


def _vgg() -> nn.Module:
    network = shapes_network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network


def _vit() -> nn.Module:
    """A hybrid transformer: the tokens are the positions of shapes_vgg's last feature map, 12×12; its weights stay."""
    import timm  # no other part of the laboratory needs it
    from timm.layers import HybridEmbed

    vgg = shapes_network()
    vgg.load_state_dict(load_file(SHAPES_WEIGHTS))
    stem = partial(HybridEmbed, backbone=vgg.features[:-1].requires_grad_(False))
    size = {"img_size": SIZE, "patch_size": 1, "embed_dim": 64, "depth": 2, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", embed_layer=stem, num_classes=len(CLASSES), **size)


# Name -> a function that returns the network with random weights.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "shapes_vgg": _vgg,
    "shapes_vit": _vit,
}


def labelled(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) and the share of each class in them (N, C); each of two classes has one half."""
    shares = torch.zeros(len(scenes), len(CLASSES))
    for row, scene in zip(shares, scenes, strict=True):
        for thing in scene.objects:
            row[CLASSES.index(thing.label)] += 1 / len(scene.objects)
    return torch.stack([scene.image for scene in scenes]), shares


def training_scenes(count: int) -> tuple[Tensor, Tensor]:
    """Return training images (N, 3, H, W) and the share of each class in them (N, C).

    The three kinds of scenes alternate. Some scenes look like masked images. In one of five scenes the objects are
    painted over, and all classes have the same share. In another one of five the background is painted over in one
    colour, which is black in half of these scenes.
    """
    kinds = get_args(SceneKind)
    drawing = tqdm(range(count), "drawing", disable=progress_disabled())
    scenes = [draw_scene(kinds[i % 3], TRAINING_SEEDS + i) for i in drawing]
    images, shares = labelled(scenes)
    images[3::5] = torch.stack([scene.ground for scene in scenes[3::5]])
    shares[3::5] = 1 / shares.shape[1]
    for i in range(4, count, 5):
        objects = torch.stack([thing.mask for thing in scenes[i].objects]).any(0)
        images[i] = torch.where(objects, images[i], torch.rand(3, 1, 1) * (i % 2))
    return images, shares


def lit(images: Tensor) -> Tensor:
    """Multiply images (N, 3, H, W) by an uneven light between 0 and 1, which never makes a whole image dark."""
    light = torch.rand(len(images), 1, 4, 4)
    light = F.interpolate(light, images.shape[2:], mode="bilinear")
    least = torch.rand(len(images), 1, 1, 1).clamp(min=0.1)
    return images * (least + (1 - least) * light)


def train(
    count: int = 14000, epochs: int = 16, batch: int = 64, seed: int = 0, network: str = "shapes_vgg"
) -> tuple[nn.Module, list[float]]:
    """Train one of the NETWORKS on `count` scenes. Return it and its mean loss in each epoch.

    The optimizer is AdamW. The learning rate rises to 2e-3 and falls to 0. Each batch is randomly rotated, flipped and
    lit.

    Raises:
        ValueError: there is no such network.
    """
    if network not in NETWORKS:
        raise ValueError(f"There is no network {network!r}; there are {', '.join(NETWORKS)}.")
    torch.manual_seed(seed)
    images, shares = training_scenes(count)
    model = NETWORKS[network]().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    losses = []
    bar = tqdm(total=steps, desc="training", disable=progress_disabled())
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(count)[: count // batch * batch].view(-1, batch):
            seen = torch.rot90(images[chosen], int(torch.randint(4, ())), (2, 3))
            seen = seen.flip(3) if torch.rand(()) < 0.5 else seen
            seen = lit(seen) if torch.rand(()) < 0.5 else seen
            seen = ((seen - SHAPES_MEAN[0]) / SHAPES_STD[0]).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(seen), shares[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            bar.update()
        losses.append(total / (count // batch))
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return model.to(memory_format=torch.contiguous_format).eval(), losses


def _logits(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the logits (N, C) of images (N, 3, H, W), in evaluation mode. The network's own mode is then restored."""
    with evaluation(classifier) if isinstance(classifier, nn.Module) else nullcontext():
        return torch.cat([classifier(part) for part in images.split(64)])


@torch.no_grad()
def examine(classifier: Callable[[Tensor], Tensor], count: int = 1000) -> dict[str, float]:
    """Measure whether a classifier recognizes new scenes, and whether it uses the object.

    Args:
        classifier: images (N, 3, 96, 96), RGB in [0, 1] -> logits (N, 8).
        count: number of scenes for each percentage; no network has been trained on them.

    Returns:
        The percentage of scenes of one class that the classifier names correctly: `right`, for unchanged scenes;
        `object painted over`, for the same scenes without the object; `background painted over`, for the object on the
        background of another scene; `background painted over, grey`, for the object on plain grey. `sure without the
        object` is the mean probability, in percent, of its first answer when the object is painted over. `both of two
        classes` is the percentage of scenes of two classes whose classes are its two first answers.
    """
    kinds = [kind for kind in get_args(SceneKind) if kind != "two classes"]
    scenes = [draw_scene(kinds[i % 2], i) for i in range(count)]
    labels = torch.tensor([CLASSES.index(scene.objects[0].label) for scene in scenes])
    images, grounds = (torch.stack([getattr(scene, name) for scene in scenes]) for name in ("image", "ground"))
    masks = torch.stack([scene.truth(scene.objects[0].label) for scene in scenes])[:, None]
    # The other background comes from the scene two positions before, which is of the same kind.
    others = grounds.roll(2, 0)
    shown = {
        "right": images,
        "object painted over": grounds,
        "background painted over": torch.where(masks, images, others),
        "background painted over, grey": torch.where(masks, images, torch.full_like(images, 0.5)),
    }
    percent = {}
    for name, pictures in shown.items():
        sure, answers = _logits(classifier, pictures).softmax(1).max(1)
        percent[name] = 100 * float((answers == labels).double().mean())
        if name == "object painted over":
            percent["sure without the object"] = 100 * float(sure.double().mean())
    scenes = [draw_scene("two classes", i) for i in range(count)]
    images, shares = labelled(scenes)
    answers = _logits(classifier, images).topk(2).indices
    percent["both of two classes"] = 100 * float((shares.gather(1, answers) > 0).all(1).double().mean())
    return percent


def train_and_save(
    out: Path | None = None, count: int = 14000, epochs: int = 16, seed: int = 0, network: str = "shapes_vgg"
) -> dict[str, float]:
    """Train one of the NETWORKS and write its weights into a folder, data/NETWORK by default.

    Return the result of `examine`.

    The file training.json in this folder holds the settings, the losses and the same result.
    """
    start = time.perf_counter()
    model, losses = train(count, epochs, seed=seed, network=network)
    seconds = time.perf_counter() - start
    percent = examine(lambda images: model((images - SHAPES_MEAN[0]) / SHAPES_STD[0]))
    out = out or DATA / network
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / SHAPES_WEIGHTS.name)
    settings = {"network": network, "count": count, "epochs": epochs, "seed": seed}
    record = {
        "settings": settings,
        "seconds": round(seconds),
        "losses": losses,
        "percent of 1000 fresh scenes": percent,
    }
    (out / "training.json").write_text(json.dumps(record | {"made": provenance()}, indent=1) + "\n")
    return percent
