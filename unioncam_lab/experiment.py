"""Pictures × methods × metrics, one record a row. A run can be stopped at any time, and continues where it was stopped.

    Setup              what a machine needs to know to compute the records of a picture
    Laboratory         what it then holds: the classifier, an engine of its own, the methods
    explain            one picture explained by all methods
    explain_picture    the same, measured: the picture's entry in the journal of the run
    run, serial        all pictures of a Setup, kept in a folder; `serial` computes them one after the other
    table_setup        the Setup by which a notebook recreates a table of the paper

The same run gives the same numbers: backend, precision, batch size and threads are chosen once, written to run.json,
and used again when the run continues.
"""

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unioncam_core import Evidence, capture, score_regions
from unioncam_lab import progress_disabled, store
from unioncam_lab.classifiers import Classifier, LabProtocol, load_classifier
from unioncam_lab.datasets import LISTS, listed, pictures, sample
from unioncam_lab.engine import BackendName, Engine, Precision
from unioncam_lab.images import Picture
from unioncam_lab.methods import BETAS, METHODS, Explanation, Method, find_method
from unioncam_lab.metrics import (
    EXPLAINED_AGAIN,
    FAITHFULNESS,
    LOCALIZATION,
    SEEDS,
    Metric,
    adcc,
    check_metrics,
    evaluate,
    explain_again,
    localize,
    randomize_layers,
)
from unioncam_lab.provenance import provenance

ENGINE = ("backend", "precision", "chunk", "threads")  # how masked images are scored, in an entry of `started`
# The methods of the paper's tables.
PAPER_METHODS = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam")
WORDNET = r"n\d{8}"  # an id of WordNet, as in n01440764


@dataclass(frozen=True)
class Setup:
    """What a machine needs to know to compute the records of a picture. It can be pickled.

    Attributes:
        dataset: a set of pictures by its name; see `datasets.pictures`.
        classifier: a name for `load_classifier`, or a classifier as it returns; that one is left as it was.
        methods: names for `methods.find_method`.
        metrics: of FAITHFULNESS, of LOCALIZATION for scenes, shapes and mosaics, and of EXPLAINED_AGAIN, which take
            longer.
        protocol: what the paper leaves open.
        precision: of the passes without gradient, as in `engine.accelerate`.
        device: as in `load_classifier`.
        limit: number of pictures sampled; all if None.
        seed: of the sampling.
        list_file: a file that names the pictures to sample from; see `datasets.listed`.
        backend, chunk, threads: as in `engine.accelerate`; None: those of a given classifier's own engine.
        exactly: whether a machine that cannot offer this backend, chunk and number of threads is refused.

    Raises:
        ValueError, TypeError: one sentence that names the wrong value.
    """

    dataset: str = "demo"
    classifier: str | Classifier = "efficientnet_lite0"
    methods: Sequence[str] = PAPER_METHODS
    metrics: Sequence[Metric] = FAITHFULNESS
    protocol: LabProtocol = LabProtocol()
    precision: Precision = "fp32"
    device: str | None = None
    limit: int | None = None
    seed: int = 0
    list_file: str | Path | None = None
    backend: BackendName | None = None
    chunk: int | None = None
    threads: int | None = None
    exactly: bool = False

    def __post_init__(self):
        for name in ("methods", "metrics"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(f"{name} is {value!r}; a sequence of names is needed, as in [{value!r}].")
            object.__setattr__(self, name, tuple(value))
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods are {', '.join(self.methods) or 'none'}; one or more are needed, each once.")
        for method in self.methods:
            find_method(method, nn.Identity())
        check_metrics(self.metrics)
        if not isinstance(self.protocol, LabProtocol):
            raise TypeError(f"protocol is a {type(self.protocol).__name__}; a LabProtocol is needed.")
        if self.precision not in get_args(Precision):
            allowed = " or ".join(map(repr, get_args(Precision)))
            raise ValueError(f"precision is {self.precision!r}; it can be {allowed}.")
        sample([], self.limit, self.seed)  # checks them

    def available(self) -> list[Picture]:
        """All pictures of the dataset."""
        return pictures(self.dataset)

    def chosen(self, available: Sequence[Picture] | None = None) -> list[Picture]:
        """The pictures that `list_file`, `limit` and `seed` choose, in the order of the dataset or of the list."""
        named = self.available() if available is None else available
        return sample(named if self.list_file is None else listed(named, self.list_file), self.limit, self.seed)

    def load_classifier(self) -> Classifier:
        """The given classifier, or the named one."""
        if isinstance(self.classifier, str):
            return load_classifier(self.classifier, self.device, self.protocol)
        return self.classifier

    def open(self) -> "Laboratory":
        """What computes entries in this process: use it in a `with` statement, or close it."""
        return Laboratory(self)


class Laboratory:
    """A classifier with an engine of its own, and the methods, for the pictures of a Setup.

    When it is closed, the classifier has the engine that it had, and PyTorch as many threads as before.

    Attributes:
        setup, classifier, methods: what computes.
        engine: what scores masked images, with the Setup's precision. It keeps the backend, chunk and threads that are
            measured when the laboratory is opened.

    Raises:
        ValueError: the precision is not offered on this device.
        RuntimeError: the weights could not be loaded, or the machine cannot offer what the Setup needs exactly.
    """

    def __init__(self, setup: Setup):
        self.setup, self.classifier = setup, setup.load_classifier()
        self.methods = [find_method(name, self.classifier) for name in setup.methods]
        self._threads = torch.get_num_threads()
        self._engine = {name: value for name, value in vars(self.classifier).items() if name == "gradient_free"}
        own = self._engine.get("gradient_free")
        backend, chunk, threads = setup.backend, setup.chunk, setup.threads
        if isinstance(own, Engine):
            backend, chunk, threads = backend or own.backend, chunk or own.chunk, threads or own.threads
        threads = threads or self._threads
        try:
            torch.set_num_threads(threads)
            self.engine = Engine(self.classifier, backend or "auto", setup.precision, chunk, False, threads)
            self.classifier.gradient_free = self.engine
            self._provenance = provenance()
            self._refuse_another(self.start())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self):
        """Give the classifier its own engine back, and PyTorch its threads."""
        torch.set_num_threads(self._threads)
        vars(self.classifier).pop("gradient_free", None)
        vars(self.classifier).update(self._engine)

    def start(self) -> dict:
        """Code and machine, and by which of ENGINE's values it computes now: an entry of run.json's `started`.

        A chunk that became smaller because memory ran out stays so.
        """
        size, parameter = self.classifier.input_size, next(self.classifier.parameters())
        backend = self.engine.backend_for(parameter.new_zeros(1, 3, size, size))
        self.engine.backend, self.engine.chunk, self.engine.threads = backend.name, backend.chunk, backend.threads
        now = dict(zip(ENGINE, (backend.name, self.engine.precision, backend.chunk, backend.threads), strict=True))
        return self._provenance | now

    def _refuse_another(self, offered: dict):
        wanted = {name: value for name in ENGINE if (value := getattr(self.setup, name)) not in (None, "auto")}
        if self.setup.exactly and any(offered[name] != value for name, value in wanted.items()):
            then, here = (
                "{backend} in {precision}, {chunk} images at a time, {threads} threads".format(**values)
                for values in (offered | wanted, offered)
            )
            raise RuntimeError(
                f"The run was begun with {then}; this machine offers {here}. Continue it where it was begun, or "
                "here with --elsewhere: its numbers may then differ in their last digits, and each row says where "
                "it was made."
            )

    def class_of(self, label: str | None) -> int | None:
        """The number of the class with this label: its name, or a WordNet id if the dataset has one for each class."""
        numbers = {name: i for i, name in enumerate(self.classifier.classes)}
        if label not in numbers and re.fullmatch(WORDNET, label or ""):
            numbers = self._wordnet
        return numbers.get(label)

    @cached_property
    def _wordnet(self) -> dict[str, int]:
        """WordNet id -> class. ImageNet's classes are numbered in the order of their ids."""
        labels = {picture.label for picture in self.setup.available() if picture.label}
        ids = sorted(label for label in labels if re.fullmatch(WORDNET, label))
        return {name: i for i, name in enumerate(ids)} if len(ids) == len(self.classifier.classes) else {}

    @cached_property
    def randomized(self) -> list[list[tuple[Classifier, list[Method]]]]:
        """For `sanity`, for each seed: the networks of `randomize_layers`, with the methods for each."""
        seeds = [[copy for _, copy in randomize_layers(self.classifier, seed=seed)] for seed in range(SEEDS)]
        return [
            [(copy, [find_method(name, copy) for name in self.setup.methods]) for copy in copies] for copies in seeds
        ]


class Unusable(ValueError):
    """Why a picture has no records. A run skips it."""


@dataclass(frozen=True, eq=False)
class Explained:
    """A picture explained by each method of a Laboratory.

    Attributes:
        evidence: of the picture and the class that is explained.
        explanations: of each method, on the CPU.
        seconds: what each method alone would have taken, with the capture and the masked pass that they share.
        truth: (H, W) bool, the pixels of the explained class's objects, for a metric of LOCALIZATION; otherwise None.
    """

    evidence: Evidence
    explanations: list[Explanation]
    seconds: list[float]
    truth: Tensor | None


def explain(laboratory: Laboratory, picture: Picture, target: int | None = None) -> Explained:
    """Explain a picture by every method, with one capture and one pass over its channels.

    Args:
        laboratory: what computes.
        picture: of the dataset.
        target: the class to explain; by default the one that the protocol says.

    Raises:
        Unusable: the picture cannot be read, has no label that is a class, or is a scene without the explained class.
    """
    setup, classifier = laboratory.setup, laboratory.classifier
    try:
        located = picture.has_truth and set(setup.metrics) & set(LOCALIZATION)
        scene = picture.scene(classifier.input_size, setup.protocol.image_fit) if located else None
        image = scene.image if scene else picture.read(classifier.input_size, setup.protocol.image_fit)
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error
    if target is None and setup.protocol.explained_class == "label":
        target = laboratory.class_of(picture.label)
        if target is None:
            raise Unusable(f"{picture.id} has the label {picture.label}, which is none of the classifier's classes.")
    start = time.perf_counter()
    (evidence,) = capture(
        classifier,
        image[None].to(next(classifier.parameters())),
        target_layer=classifier.target_layer,
        targets=None if target is None else [target],
        protocol=setup.protocol,
    )
    captured, truth = time.perf_counter(), None
    if scene:
        name = classifier.classes[evidence.target]
        truth = scene.truth(name)
        if not truth.any():
            raise Unusable(f"the network names it {name}, which is not in it")
    if any(method.needs_regions for method in laboratory.methods):
        score_regions([evidence])
    shared = {False: captured - start, True: time.perf_counter() - start}
    explanations, seconds = [], []
    for method in laboratory.methods:
        start = time.perf_counter()
        explanation = method.explain(evidence)
        explanations.append(replace(explanation, cam=explanation.cam.cpu()))
        own = time.perf_counter() - start
        seconds.append(own + (shared[method.needs_regions] if method.function in METHODS else 0))
    return Explained(evidence, explanations, seconds, truth)


def explain_picture(laboratory: Laboratory, picture: Picture) -> dict:
    """A picture's entry in the journal: its `rows`, one for each method (see `run`), or why it was `skipped`.

    `start` says with what it was computed.
    """
    try:
        explained = explain(laboratory, picture)
    except Unusable as error:
        return {"image": picture.id, "skipped": str(error), "start": laboratory.start()}
    evidence, metrics = explained.evidence, laboratory.setup.metrics
    cams = [explanation.cam for explanation in explained.explanations]
    faithful = [metric for metric in FAITHFULNESS if metric in metrics or (metric == "drop" and "adcc" in metrics)]
    again = [metric for metric in EXPLAINED_AGAIN if metric in metrics]
    measured = evaluate(evidence, cams, faithful) if faithful else [{"probability": evidence.probability} for _ in cams]
    networks = laboratory.randomized if "sanity" in metrics else ()
    measured_again = explain_again(evidence, laboratory.classifier, laboratory.methods, cams, again, networks)
    rows = []
    for i, (method, explanation) in enumerate(zip(laboratory.methods, explained.explanations, strict=True)):
        row: dict[str, Any] = {
            "image": picture.id,
            "label": picture.label,
            "target": evidence.target,
            "class": laboratory.classifier.classes[evidence.target],
            "method": method.name,
            "seconds": explained.seconds[i],
        }
        row |= {name: explanation.betas.get(name) for name in BETAS} | {"selected": explanation.selected}
        row |= measured[i] | measured_again[i]
        if explained.truth is not None:
            found = localize(explanation.cam, explained.truth)
            row |= {metric: value for metric, value in found.items() if metric in metrics}
        if "adcc" in metrics:
            row["adcc"] = 100 * adcc(*(row[part] / 100 for part in ("drop", "coherency", "complexity")))
        rows.append(row)
    return {"image": picture.id, "rows": rows, "start": laboratory.start()}


# A runner yields the entry of each picture, in any order; it is closed when the run ends or is stopped.
Runner = Callable[[Setup, Sequence[Picture]], Generator[dict, None, None]]


def serial(setup: Setup, chosen: Sequence[Picture]) -> Generator[dict, None, None]:
    """The entries of pictures, computed in this process one after the other."""
    if chosen:
        with setup.open() as laboratory:
            for picture in chosen:
                yield explain_picture(laboratory, picture)


def run(
    setup: Setup,
    pictures: Sequence[Picture] | None = None,
    out: str | Path | None = None,
    runner: Runner = serial,
    elsewhere: bool = False,
) -> store.Run:
    """Explain pictures by several methods and score the maps. The same call continues a run that was stopped.

    A picture that cannot be read is skipped, and `info["skipped"]` says why. With a metric of LOCALIZATION, a scene is
    also skipped if the network's first answer is not the class of any object in it. Otherwise the ground truth is the
    union of that class's objects.

    Args:
        setup: what is computed.
        pictures: the pictures to explain; by default those that the Setup chooses from its dataset.
        out: folder of the run, made if need be; a temporary one if None.
        runner: what computes the entries of the pictures that are missing.
        elsewhere: continue a run on a machine that cannot offer the backend, chunk and threads with which it was begun.
            The numbers may then differ in their last digits; the column `start` tells which rows.

    Returns:
        The run. A record has `image` (its id), `label`, `target` and `class` (explained), `probability`, `method`,
        `beta_denoising`, `beta_region`, `beta_united` (of UnionCAM and Fusion-CAM) and `selected` (of UnionCAM);
        `masked_probability`, `drop`, `increase`, `insertion`, `deletion` and the two curves, see `metrics.evaluate`;
        what `metrics.localize` and `metrics.explain_again` return, and `adcc`;
        `seconds`: what the method alone would have taken, with the capture and the masked pass that it shares,
        without its metrics; and `start`, the entry of `info["started"]` that says with what the row was computed.

    Raises:
        ValueError, OSError: one sentence, before anything is computed: no such picture; a metric that needs the ground
            truth of other pictures; no picture with a label; a folder that holds a run with other options. Or later,
            when the disk is full: what was computed is kept.
        RuntimeError: another run is at work in the folder; weights could not be loaded; this machine cannot offer what
            the run was begun with.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return run(setup, pictures, folder, runner, elsewhere)
    available = setup.available() if pictures is None else list(pictures)
    chosen = setup.chosen(available) if pictures is None else available
    _check_pictures(setup, chosen)
    info = {
        "images": setup.dataset,
        "options": _options(setup, chosen),
        "available": len(available),
        "started": [],
    }
    with store.opened(Path(out), info) as folder:
        if "finished" in folder.info:
            return store.load(out)
        done = folder.done()
        missing = [picture for picture in chosen if picture.id not in done]
        with (
            closing(runner(_as_begun(setup, folder.started, elsewhere), missing)) as entries,
            tqdm(total=len(chosen), initial=len(done), unit="image", disable=progress_disabled()) as bar,
        ):
            for entry in entries:
                folder.append(entry)
                bar.update()
        return folder.finish([picture.id for picture in chosen])


def _check_pictures(setup: Setup, chosen: Sequence[Picture]):
    asked = [metric for metric in setup.metrics if metric in LOCALIZATION]
    if asked and any(not picture.has_truth for picture in chosen):
        raise ValueError(
            f"{min(asked)!r} needs pictures with a known ground truth (scenes, shapes, mosaics, or VOC2007 with its "
            f"annotations), not {setup.dataset}."
        )
    if setup.protocol.explained_class == "label" and not any(picture.label for picture in chosen):
        raise ValueError(f"The protocol explains the label, but no picture of {setup.dataset} has one.")


def _options(setup: Setup, chosen: Sequence[Picture]) -> dict:
    """What must be the same when the run continues, as run.json holds it."""
    classifier = setup.load_classifier()
    weights = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    options = {
        "classifier": classifier.name,
        "weights": weights.hexdigest(),
        "methods": list(setup.methods),
        "metrics": list(setup.metrics),
        "limit": setup.limit,
        "seed": setup.seed,
        "protocol": asdict(setup.protocol),
        "data": hashlib.sha256("".join(f"{p.id} {p.bytes}\n" for p in chosen).encode()).hexdigest(),
    }
    if setup.precision != "fp32":
        options["precision"] = setup.precision
    if setup.list_file is not None:
        options["list"] = hashlib.sha256(Path(setup.list_file).expanduser().read_bytes()).hexdigest()
    return options


def _as_begun(setup: Setup, begun: dict | None, elsewhere: bool) -> Setup:
    """The Setup with the backend, chunk and threads that a run was begun with. Old run.jsons do not hold them."""
    if begun is None or not begun.get("backend"):
        return setup
    return replace(
        setup, backend=begun["backend"], chunk=begun["chunk"], threads=begun["threads"], exactly=not elsewhere
    )


def table_setup(
    scale: str, folder: str = "", paper_set: str = "ilsvrc2012", limit: int | None = None, **options
) -> Setup:
    """The Setup by which a notebook recreates a table of the paper.

    Args:
        scale: `demo`: the built-in network on the demo photos, or on composed scenes where the paper has VOC2007.
            `folder`: the built-in network on the pictures of `folder`. `paper`: the paper's network VGG16 on 2,000
            images of ILSVRC2012's validation set (those of data/lists) or VOC2007's test set (sampled with seed 0) in
            `folder`.
        folder: where the pictures are.
        paper_set: `ilsvrc2012` or `voc2007`.
        limit: number of pictures sampled, if not as many as the scale says.
        options: other fields of the Setup.

    Raises:
        ValueError: no such scale, or no folder where one is needed.
    """
    if scale not in ("demo", "folder", "paper"):
        raise ValueError(f"scale is {scale!r}; it can be demo, folder or paper.")
    if scale != "demo" and not folder:
        raise ValueError(f"scale {scale!r} needs a folder with pictures, in the parameter `folder`.")
    chosen: dict[str, Any]
    match scale:
        case "demo":
            chosen = {"dataset": "demo"} if paper_set == "ilsvrc2012" else {"dataset": "scenes", "limit": 8}
        case "folder":
            chosen = {"dataset": folder}
        case _:
            chosen = {"dataset": f"{paper_set}:{folder}", "classifier": "vgg16"}
            chosen |= {"list_file": LISTS / "ilsvrc2012_val_2000.txt"} if paper_set == "ilsvrc2012" else {"limit": 2000}
    if limit:
        chosen["limit"] = limit
    return Setup(**(chosen | options))
