"""Trains shapes_vgg, in minutes on 2 cores. The command is python -m unioncam_lab train (make shapes)."""

import json
import time
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from unioncam_lab.engine import hidden
from unioncam_lab.images import SceneKind
from unioncam_lab.provenance import provenance
from unioncam_lab.shapes import MEAN, STD, TRAINING_SEEDS, WEIGHTS, draw_scene, examine, labelled, shapes_network


def training_scenes(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) and the share of each class (N, C), so that masked images are no surprise.

    All kinds by turns. Of five scenes one has its object painted over: where nothing is to be seen, every class is as
    likely. Another has its background painted over in one colour, black every other time.
    """
    kinds = get_args(SceneKind)
    scenes = [draw_scene(kinds[i % 3], TRAINING_SEEDS + i) for i in tqdm(range(count), "drawing", disable=hidden())]
    images, shares = labelled(scenes)
    images[3::5] = torch.stack([scene.ground for scene in scenes[3::5]])
    shares[3::5] = 1 / shares.shape[1]
    for i in range(4, count, 5):
        objects = torch.stack([thing.mask for thing in scenes[i].objects]).any(0)
        images[i] = torch.where(objects, images[i], torch.rand(3, 1, 1) * (i % 2))
    return images, shares


def lit(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) under uneven light: nowhere brighter than before, and never wholly dark."""
    light = torch.rand(len(images), 1, 4, 4)
    light = F.interpolate(light, images.shape[2:], mode="bilinear")
    least = torch.rand(len(images), 1, 1, 1).clamp(min=0.1)
    return images * (least + (1 - least) * light)


def train(count: int = 14000, epochs: int = 16, batch: int = 64, seed: int = 0) -> tuple[nn.Sequential, list[float]]:
    """A network trained on `count` scenes, and its mean loss in each epoch.

    Adam, its rate rising to 2e-3 and falling to 0; each time a scene is seen it is turned, flipped and lit at random.
    """
    torch.manual_seed(seed)
    images, shares = training_scenes(count)
    network = shapes_network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    losses = []
    bar = tqdm(total=steps, desc="training", disable=hidden())
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(count)[: count // batch * batch].view(-1, batch):
            seen = torch.rot90(images[chosen], int(torch.randint(4, ())), (2, 3))
            seen = seen.flip(3) if torch.rand(()) < 0.5 else seen
            seen = lit(seen) if torch.rand(()) < 0.5 else seen
            seen = ((seen - MEAN[0]) / STD[0]).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(network(seen), shares[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            bar.update()
        losses.append(total / (count // batch))
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return network.to(memory_format=torch.contiguous_format).eval(), losses


def train_and_save(out: Path = WEIGHTS.parent, count: int = 14000, epochs: int = 16, seed: int = 0) -> dict[str, float]:
    """Train the network and write its weights into a folder.

    Beside them, training.json holds the settings, the losses, and what `examine` found. That is returned.
    """
    start = time.perf_counter()
    network, losses = train(count, epochs, seed=seed)
    seconds = time.perf_counter() - start
    found = examine(lambda images: network((images - MEAN[0]) / STD[0]))
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / WEIGHTS.name)
    settings = {"count": count, "epochs": epochs, "seed": seed}
    record = {"settings": settings, "seconds": round(seconds), "losses": losses, "percent of 1000 fresh scenes": found}
    (out / "training.json").write_text(json.dumps(record | {"made": provenance()}, indent=1) + "\n")
    return found
