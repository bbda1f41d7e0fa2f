"""The core's equations in NumPy, with a loop for every sum."""

import math

import numpy as np
import torch


def bilinear(small, height, width):
    """Map each output pixel's centre into the small map and weigh the four neighbours; the border is repeated."""
    h, w = small.shape
    large = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * h / height - 0.5, 0)
            x = max((j + 0.5) * w / width - 0.5, 0)
            i0, j0 = math.floor(y), math.floor(x)
            i1, j1 = min(i0 + 1, h - 1), min(j0 + 1, w - 1)
            dy, dx = y - i0, x - j0
            top = (1 - dx) * small[i0, j0] + dx * small[i0, j1]
            bottom = (1 - dx) * small[i1, j0] + dx * small[i1, j1]
            large[i, j] = (1 - dy) * top + dy * bottom
    return large


def to_unit(array):
    low, high = array.min(), array.max()
    return (array - low) / (high - low) if high > low else np.zeros_like(array)


def probability(model, image, c):
    with torch.no_grad():
        logits = model(torch.as_tensor(image)[None])[0].numpy()
    exponentials = np.exp(logits - logits.max())
    return exponentials[c] / exponentials.sum()
