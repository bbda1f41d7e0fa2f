"""What the problem sets share: a network, images, random numbers of your own, and the list of your checks.

It needs PyTorch and NumPy alone, and contains no answers. It reads `course.npz`, which lies beside it.
"""

import base64
import hashlib
import html
import os
import struct
import sys
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GRADING = bool(os.environ.get("NBGRADER_EXECUTION"))  # nbgrader runs this notebook
# While grading, the data are the teacher's, and not those that were handed in.
DATA = dict(np.load(Path.cwd().parents[2] / "course.npz" if GRADING else "course.npz"))
PRINTED = 100_000  # characters that a cell may print
CLASSES = DATA["classes"].tolist()  # the classes of `network`
_started = {"student": "", "problem_set": ""}
_passed: dict[str, bool] = {}  # check -> whether it passed when it ran last


@dataclass(frozen=True)
class Scene:
    image: Tensor  # (3, 96, 96), RGB in [0, 1]
    labels: list[str]  # the class of each object
    masks: Tensor  # (objects, 96, 96) bool: the pixels of each object


@dataclass(frozen=True)
class Photo:
    """A photo, and what EfficientNet-Lite0 computes of it: the last feature maps, and the last layer for five classes.

    The logits of the five classes are weights @ activations.mean((1, 2)) + bias.
    """

    name: str
    image: Tensor  # (3, 224, 224), RGB in [0, 1]
    classes: list[str]  # the five classes with the largest logits, largest first
    activations: Tensor  # A, (1280, 7, 7)
    weights: Tensor  # (5, 1280)
    bias: Tensor  # (5,)


def begin(problem_set: str, student: str, without: Iterable[str] = ()):
    """Start a problem set. `student` is the id under which you hand in: your data and numbers follow from it.

    Raises:
        ImportError: a module of `without`, which contains the answers, is imported.
        ValueError: while grading, the id is not the one under which the notebook was handed in.
    """
    for module in without:
        if sys.modules.get(module):
            raise ImportError(f"This problem set asks for your own code; please answer it without {module}.")
        sys.modules[module] = None  # ty: ignore[invalid-assignment]  an import of it now fails
    handed_in_by = Path.cwd().parent.name if GRADING else student
    _started.update(student=handed_in_by, problem_set=problem_set)
    _passed.clear()
    _limit_output()
    torch.manual_seed(0)
    if student != handed_in_by:
        raise ValueError(f"The notebook names the student {student!r}, but it was handed in by {handed_in_by!r}.")
    print(f"{problem_set} of {student}, course {DATA['key']}.")
    if student == "your.id":
        print("Put your own id into the cell above: until then these are not your numbers.")


class _Limited:
    """An output stream that stops a cell which prints without end."""

    def __init__(self, stream):
        self.stream, self.left = stream, PRINTED

    def write(self, text: str) -> int:
        self.left -= len(text)
        if self.left < 0:
            raise RuntimeError(f"This cell printed more than {PRINTED:,} characters, so it was stopped.")
        return self.stream.write(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def renew(self, *_):
        self.left = PRINTED


def _limit_output():
    from IPython import get_ipython  # it is there wherever a notebook runs

    for name in ("stdout", "stderr"):
        if (shell := get_ipython()) and not isinstance(getattr(sys, name), _Limited):
            limited = _Limited(getattr(sys, name))
            setattr(sys, name, limited)
            shell.events.register("pre_run_cell", limited.renew)


def rng(problem: str) -> np.random.Generator:
    """Random numbers of your own for a problem. They follow from the course, the problem set and your id."""
    if not _started["problem_set"]:
        raise RuntimeError("course.begin(...) has not run yet: run the cells at the top first.")
    text = "/".join([str(DATA["key"]), _started["problem_set"], _started["student"], problem])
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def integers(problem: str, *shape: int, low: int = -9, high: int = 10) -> Tensor:
    """Whole numbers of your own as a tensor of floats in double precision: low ≤ value < high."""
    return torch.from_numpy(rng(problem).integers(low, high, shape)).double()


def network() -> nn.Sequential:
    """The network `shapes_vgg`, in evaluation mode: images (N, 3, 96, 96), RGB in [0, 1] -> logits (N, 8).

    Its last feature maps, 64×12×12, are the output of `network.features[-2]`, a ReLU.
    """

    class Normalize(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean, std = (torch.from_numpy(DATA[name]).view(3, 1, 1) for name in ("mean", "std"))
            return (images - mean.to(images)) / std.to(images)

    layers: list[nn.Module] = []
    for before, after in [(3, 16), (0, 0), (16, 32), (0, 0), (32, 64), (64, 64), (0, 0), (64, 64), (64, 64), (0, 0)]:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()] if before else [nn.MaxPool2d(2)]
    model = nn.Sequential()
    model.normalize, model.features, model.flatten = Normalize(), nn.Sequential(*layers), nn.Flatten()
    model.classifier = nn.Sequential(nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, len(CLASSES)))
    kept = {name.removeprefix("network/"): torch.from_numpy(DATA[name]) for name in DATA if name.startswith("network/")}
    model.load_state_dict(kept)
    return model.eval().requires_grad_(False)


def scenes(problem: str, count: int, objects: int = 1) -> list[Scene]:
    """Drawn scenes of your own, each different, that `network` classifies well. `objects` is 1, or 2 of two classes."""
    images, labels, masks = (DATA[f"scenes{objects}/{part}"] for part in ("images", "labels", "masks"))
    if not 1 <= count <= len(images):
        raise ValueError(f"count is {count}; there are 1 to {len(images)} scenes with {objects} objects.")
    masks = np.unpackbits(masks).reshape(len(images), objects, *images.shape[1:3]).astype(bool)
    return [
        Scene(torch.from_numpy(images[i]).permute(2, 0, 1) / 255, labels[i].tolist(), torch.from_numpy(masks[i]))
        for i in rng(problem).permutation(len(images))[:count]
    ]


def photo(problem: str) -> Photo:
    """A photo of your own, out of seven."""
    names = DATA["photos/names"].tolist()
    i = int(rng(problem).integers(len(names)))
    parts = (DATA[f"photos/{part}"][i] for part in ("images", "classes", "activations", "weights", "bias"))
    image, classes, *numbers = parts
    image = torch.from_numpy(image).permute(2, 0, 1) / 255
    return Photo(names[i], image, classes.tolist(), *(torch.from_numpy(array).float() for array in numbers))


@contextmanager
def check(name: str) -> Generator[None, None, None]:
    """Run the lines below as a check, and remember for `progress` whether it passed."""
    _passed[name] = False
    try:
        yield
    except NotImplementedError:
        raise NotImplementedError(f"{name}: there is no answer yet.") from None
    _passed[name] = True
    print(f"{name}: passed.")


def progress():
    """Print which checks passed when they ran last. Those that grade your work are more, and cannot be seen here."""
    for name, passed in _passed.items():
        print("passed " if passed else "MISSING", name)
    print(f"{sum(_passed.values())} of the {len(_passed)} checks that ran pass.")


def show(pictures: dict[str, Tensor], side: int = 190):
    """Show images (3, H, W) in [0, 1], and maps (H, W) in grey, black at their least value, in a row with titles."""
    from IPython.display import HTML, display

    figures = []
    for title, picture in pictures.items():
        if picture.ndim not in (2, 3):
            raise ValueError(f"{title} has the shape {list(picture.shape)}; an image is (3, H, W), and a map (H, W).")
        picture = picture.detach().double()
        if picture.ndim == 2:
            low, high = picture.min(), picture.max()
            picture = ((picture - low) / (high - low if high > low else 1)).expand(3, *picture.shape)
        data, text = base64.b64encode(_png(picture)).decode(), html.escape(title, quote=True)
        image = (
            f'<img src="data:image/png;base64,{data}" alt="{text}" width="{side}" style="image-rendering:pixelated">'
        )
        figures.append(f'<figure style="margin:0 1em 1em 0">{image}<figcaption>{text}</figcaption></figure>')
    display(HTML(f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'))


def _png(image: Tensor) -> bytes:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = b"IHDR" + struct.pack(">2I5B", *pixels.shape[1::-1], 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
