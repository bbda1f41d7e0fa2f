"""Activation Map Union: masks, region map, contributions, union."""

from wrong_solutions import Wrong

WRONG = {
    "mask not scaled": Wrong(
        cells={
            "make_masks": """
def make_masks(activations, size):
    return torch.nn.functional.interpolate(activations[None], size, mode="bilinear", align_corners=False)[0]
"""
        },
        lost={
            "masks_visible": "Mask 0 ranges from 1 to 9",
            "masks_hidden": "not from 0 to 1",
        },
    ),
    "NaN at a constant channel": Wrong(
        cells={
            "make_masks": """
def make_masks(activations, size):
    large = torch.nn.functional.interpolate(activations[None], size, mode="bilinear", align_corners=False)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (large - low) / (high - low)
"""
        },
        lost={"masks_hidden": "A constant channel of 0 makes NaN"},
    ),
    "batch and channel confused": Wrong(
        cells={
            "masked_images": """
def masked_images(masks, image):
    return (image[:, None] * masks).reshape(len(masks), *image.shape)
"""
        },
        lost={"masked_images_visible": "of the image's green, but mask 0 is 0.25"},
    ),
    "logit in place of the probability": Wrong(
        cells={
            "class_probability": """
def class_probability(network, images, c, batch=16):
    with torch.no_grad():
        return torch.cat([network(some)[:, c] for some in images.split(batch)])
"""
        },
        lost={
            "probability_visible": "so each has the probability 1/3; yours is 0.500",
            "probability_hidden": "This is a logit",
        },
    ),
    "black image left out, and the contributions swapped": Wrong(
        cells={
            "contribution": """
def contribution(f, cam, image):
    return float(f((cam * image)[None])[0])
""",
            "union": """
def union(denoised, beta_denoising, region, beta_region):
    total = beta_region * denoised + beta_denoising * region
    low, high = total.min(), total.max()
    return (total - low) / (high - low) if high > low else torch.zeros_like(total)
""",
        },
        lost={
            "beta_visible": "shows nothing of the image, but yours contributes 0.3",
            "beta_hidden": "Equations 4 and 5 have two terms",
            "union_visible": "in your union the region map counts more",
            "union_hidden": "multiplied by the contribution of the other one",
        },
    ),
}
