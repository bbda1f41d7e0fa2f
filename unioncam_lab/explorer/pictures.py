"""Arrays become pictures in a page: compositing in NumPy, one JPEG or PNG each, as an address that holds its data."""

import base64
import functools
import io

import numpy as np
from PIL import Image

QUALITY = 88  # of a JPEG
GREYS = np.linspace(0, 1, 256, dtype=np.float32)


@functools.cache
def colours() -> np.ndarray:
    """The colour of each of 256 saliencies, (256, 3) float32 in [0, 1]: those of `figures.overlay`."""
    import matplotlib  # for its table of colours; nothing is drawn with it

    return matplotlib.colormaps["inferno"](0.2 + 0.8 * GREYS)[:, :3].astype(np.float32)


def data_uri(pixels: np.ndarray, kind: str = "jpeg") -> str:
    """Return pixels (H, W, 3), or (H, W) grey, uint8, as an address "data:image/...;base64,..."."""
    file = io.BytesIO()
    options = {"quality": QUALITY, "subsampling": 0} if kind == "jpeg" else {"compress_level": 1}
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def photo(image: np.ndarray) -> np.ndarray:
    """Return an image (channels, H, W) in [0, 1] as (H, W, 3) uint8; one channel is grey, and of others the mean is."""
    image = image if len(image) == 3 else np.broadcast_to(image.mean(0, keepdims=True), (3, *image.shape[1:]))
    return (255 * image.clip(0, 1) + 0.5).astype(np.uint8).transpose(1, 2, 0)


def overlay(image: np.ndarray, cam: np.ndarray, opacity: float = 0.85) -> np.ndarray:
    """Lay a map over its image in grey: colour and opacity grow with saliency, and 0 shows the image alone.

    Args:
        image: (channels, H, W) in [0, 1].
        cam: (H, W) in [0, 1].
        opacity: of the most salient pixel.

    Returns:
        (H, W, 3) uint8.
    """
    grey = image.astype(np.float32).clip(0, 1).mean(0)[..., None]
    saliency = cam.astype(np.float32).clip(0, 1)
    coloured = colours()[(255 * saliency + 0.5).astype(np.uint8)]
    opaque = np.float32(opacity) * saliency[..., None]
    return (255 * (grey + opaque * (coloured - grey)) + 0.5).astype(np.uint8)


def feature_map(values: np.ndarray) -> np.ndarray:
    """Return a feature map (h, w), one pixel for each position, from its smallest to its largest value, uint8."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1)
    return (255 * colours()[(255 * scaled + 0.5).astype(np.uint8)] + 0.5).astype(np.uint8)


def mask(values: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) in [0, 1] as grey, uint8: white shows the image, and black hides it."""
    return (255 * values.clip(0, 1) + 0.5).astype(np.uint8)


def agreement(values: np.ndarray) -> np.ndarray:
    """Return a similarity (H, W) in [0, 1] as (H, W, 3) uint8: white where two maps agree, blue where they do not."""
    blue, white = np.float32([8, 48, 107]), np.float32([255, 255, 255])
    return (blue + values.clip(0, 1)[..., None].astype(np.float32) * (white - blue)).astype(np.uint8)
