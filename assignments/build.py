"""Make the students' release of the problem sets: python assignments/build.py [--key KEY] [ps1 ...]"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from unioncam_lab import shapes
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.images import DEMO_PHOTOS, SceneKind, demo_photo

HERE = Path(__file__).resolve().parent
CORE = HERE.parent / "unioncam_core.py"
# nbgrader starts the program alembic, which lies beside Python, whether or not the environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
USES_CORE = {"ps5", "ps6"}  # the problem sets that use UnionCAM, which the others have the students write


def course_data(key: str) -> dict[str, np.ndarray]:
    """What course.py reads: shapes_vgg, drawn scenes that it classifies well, photos, and the key of the course."""
    small = load_classifier("shapes_vgg")
    data = {f"network/{name}": value.numpy() for name, value in small.network.state_dict().items()}
    data |= {"mean": small.mean.flatten().numpy(), "std": small.std.flatten().numpy()}
    data |= {"key": np.array(key), "classes": np.array(shapes.CLASSES)}
    data |= {f"scenes1/{name}": value for name, value in _scenes(small, "one", 64).items()}
    data |= {f"scenes2/{name}": value for name, value in _scenes(small, "two classes", 24).items()}
    return data | {f"photos/{name}": value for name, value in _photos().items()}


@torch.no_grad()
def _scenes(classifier, kind: SceneKind, count: int) -> dict[str, np.ndarray]:
    kept, seed = [], 20_000  # seeds that neither the training nor the notebooks use
    while len(kept) < count:
        scene = shapes.draw_scene(kind, seed)
        image = (scene.image * 255).round() / 255
        labels = [thing.label for thing in scene.objects]
        probabilities = classifier(image[None]).softmax(1)[0][[shapes.CLASSES.index(label) for label in labels]]
        if probabilities.sum() > 0.9 and probabilities.min() > 0.15:
            kept.append((image, labels, torch.stack([thing.mask for thing in scene.objects])))
        seed += 1
    images, labels, masks = zip(*kept, strict=True)
    return {
        "images": (torch.stack(images) * 255).byte().permute(0, 2, 3, 1).numpy(),
        "labels": np.array(labels),
        "masks": np.packbits(torch.stack(masks).numpy()),
    }


@torch.no_grad()
def _photos() -> dict[str, np.ndarray]:
    large, found = load_classifier("efficientnet_lite0"), []
    for name in DEMO_PHOTOS:
        image = demo_photo(name).image
        activations = []
        with large.target_layer.register_forward_hook(lambda _m, _i, output, kept=activations: kept.append(output[0])):
            logits = large(image[None])[0]
        top = logits.topk(5).indices
        layer = large.network.fc
        maps, weights = activations[0].numpy().astype(np.float16), layer.weight[top].numpy().astype(np.float16)
        classes = np.array([large.classes[i] for i in top])
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        found.append((pixels, classes, maps, weights, layer.bias[top].numpy()))
    parts = dict(zip(("images", "classes", "activations", "weights", "bias"), zip(*found, strict=True), strict=True))
    return {"names": np.array(list(DEMO_PHOTOS)), **{name: np.stack(arrays) for name, arrays in parts.items()}}


def write_data(course: Path, key: str):
    """Write `course.npz`, which every release and the grading read."""
    np.savez_compressed(course / "course.npz", **course_data(key))


def release(course: Path, names: Iterable[str] = ()) -> list[Path]:
    """Make release/psN, and psN.zip of it, of problem sets in source/, all if none is named: what the students get.

    Raises:
        ValueError: there is no such problem set.
        RuntimeError: nbgrader cannot make one; its log says why.
    """
    known = sorted(folder.name for folder in (course / "source").iterdir() if folder.is_dir())
    chosen = list(names) or known
    if unknown := set(chosen) - set(known):
        raise ValueError(f"There is no problem set {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    config = settings(course)
    config.Exchange.root = str(course)  # it is not used here, but nbgrader complains if its usual folder is missing
    api = NbGraderAPI(config=config)
    for name in chosen:
        # nbgrader takes files that lie beside a notebook from source/ for the release, and again when it grades.
        for file in [HERE / "course.py", *([CORE] if name in USES_CORE else [])]:
            shutil.copy(file, course / "source" / name)
        result = api.generate_assignment(name, force=True)
        if not result["success"]:
            raise RuntimeError(f"nbgrader could not make {name}: {result['log'] or result['error']}")
        shutil.copy(course / "course.npz", course / "release" / name)
        shutil.copy(HERE / "students.md", course / "release" / name / "how_to_work.md")
        shutil.make_archive(str(course / "release" / name), "zip", course / "release", name)
    return [course / "release" / name for name in chosen]


def settings(course: Path) -> Config:
    """The settings of nbgrader_config.py, for a course in a folder."""
    config = Config()
    exec((HERE / "nbgrader_config.py").read_text(), {"get_config": lambda: config})
    config.CourseDirectory.root = str(course)
    return config


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem_sets", nargs="*", metavar="psN", help="all if none is named")
    parser.add_argument("--key", default="unioncam", help="the students' data follow from it: a new one each year")
    given = parser.parse_args()
    write_data(HERE, given.key)
    for folder in release(HERE, given.problem_sets):
        print(f"{folder.relative_to(HERE.parent)}.zip")
