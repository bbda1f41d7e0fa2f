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


def percentile(values, theta):
    """The theta-th percentile of numbers, interpolated linearly between its two neighbours."""
    ranked = sorted(values)
    rank = theta / 100 * (len(ranked) - 1)
    below = math.floor(rank)
    return ranked[below] + (rank - below) * (ranked[min(below + 1, len(ranked) - 1)] - ranked[below])


def algorithm_1(features, gradients, image, f, theta):
    """Algorithm 1 for any network: its A and W, each (K, h, w), an image, and `f`, which scores one image.

    Returns the names and values of the intermediates, as UnionSteps has them.
    """
    (K, h, w), (_, H, W_) = features.shape, image.shape
    black = f(np.zeros_like(image))
    total = np.zeros((h, w))
    for k in range(K):
        threshold = percentile(gradients[k].ravel(), theta)
        kept = [[value if value >= threshold and value > 0 else 0 for value in row] for row in gradients[k]]
        positive = sum(map(sum, kept))
        for i in range(h):
            for j in range(w):
                total[i, j] += kept[i][j] / positive * features[k, i, j] if kept[i][j] else 0
    denoised = to_unit(bilinear(np.maximum(total, 0), H, W_))
    total = np.zeros((h, w))
    for k in range(K):
        if features[k].max() > features[k].min():
            mask = to_unit(bilinear(features[k], H, W_))
            total += f(mask * image) * features[k]
    region = to_unit(bilinear(np.maximum(total, 0), H, W_))
    beta_denoising = f(denoised * image) - black
    beta_region = f(region * image) - black
    united = to_unit(beta_denoising * denoised + beta_region * region)
    beta_united = f(united * image) - black
    selected = "united" if beta_united > beta_region else "region"
    return {
        "denoised": denoised,
        "region": region,
        "united": united,
        "beta_denoising": beta_denoising,
        "beta_region": beta_region,
        "beta_united": beta_united,
        "selected": selected,
        "cam": united if selected == "united" else region,
    }
