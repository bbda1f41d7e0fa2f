"""Experiments: pictures × methods × metrics, with one record per picture and method.

    Setup              the options of a run
    Laboratory         the classifier, its engine and the methods of a Setup, loaded in a process
    explain            explains one picture by all methods
    explain_picture    also computes the metrics, and returns the picture's entry in the journal of the run
    run, serial        computes all pictures of a Setup and keeps them in a folder; `serial` takes one after the other
    table_setup        the Setup with which a notebook recreates a table of the paper

A run can be stopped at any time, and it continues where it was stopped. The same run gives the same numbers: backend,
precision, batch size and threads are chosen once, written to run.json, and used again when the run continues.
"""

import hashlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unioncam_core import Evidence, NonFiniteScore, capture, score_regions
from unioncam_lab import progress_disabled, store
from unioncam_lab.classifiers import Classifier, LabProtocol, as_classifier, check_classifier, load_classifier
from unioncam_lab.datasets import LISTS, WORDNET, each_label, listed, pictures, sample, wordnet_ids
from unioncam_lab.engine import BackendName, Engine, Precision
from unioncam_lab.images import Fit, Picture
from unioncam_lab.methods import BETAS, METHODS, Explanation, Method, find_method
from unioncam_lab.metrics import (
    EXPLAINED_AGAIN,
    FAITHFULNESS,
    LOCALIZATION,
    SEEDS,
    Metric,
    adcc,
    as_map,
    check_metrics,
    evaluate,
    explain_again,
    localize,
    randomize_layers,
)
from unioncam_lab.provenance import provenance

ENGINE = ("backend", "precision", "chunk", "threads")  # the engine's options that an entry of `started` holds
# The methods of the paper's tables.
PAPER_METHODS = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam")
AHEAD = 2  # pictures that are read while one is computed


@dataclass(frozen=True)
class Setup:
    """The options of a run. A Setup can be pickled.

    Attributes:
        dataset: name of a set of pictures; see `datasets.pictures`.
        classifier: a name for `load_classifier`, or a classifier from it or from `from_model`, or any network with the
            attribute `target_layer` (see `as_classifier`). It is not changed.
        methods: names for `methods.find_method`.
        metrics: metrics of FAITHFULNESS; of LOCALIZATION, which need the ground truth; and of EXPLAINED_AGAIN, which
            take longer.
        protocol: options for what the paper leaves open.
        precision: of the passes without gradient, as in `engine.accelerate`.
        device: as in `load_classifier`.
        limit: number of pictures sampled; all if None.
        seed: seed of the sampling.
        list_file: a file that names the pictures to sample from; see `datasets.listed`.
        backend, chunk, threads: as in `engine.accelerate`; if None, those of the given classifier's own engine.
        exactly: whether to refuse a machine that does not support this backend, chunk and number of threads.

    Raises:
        ValueError, TypeError: one sentence that names the wrong value.
    """

    dataset: str = "demo"
    classifier: str | nn.Module = "efficientnet_lite0"
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
        if not isinstance(self.classifier, str):
            check_classifier(self.classifier)
        if not isinstance(self.protocol, LabProtocol):
            raise TypeError(f"protocol is a {type(self.protocol).__name__}; a LabProtocol is needed.")
        if self.precision not in get_args(Precision):
            allowed = " or ".join(map(repr, get_args(Precision)))
            raise ValueError(f"precision is {self.precision!r}; it can be {allowed}.")
        sample([], self.limit, self.seed)  # raises an error if they are wrong

    def available(self) -> list[Picture]:
        """Return all pictures of the dataset."""
        return pictures(self.dataset)

    def chosen(self, available: Sequence[Picture] | None = None) -> list[Picture]:
        """Return the pictures that `list_file`, `limit` and `seed` choose, in the order of the dataset or the list.

        If the protocol explains the label, a picture of several classes is there once for each; see `each_label`.
        """
        named = self.available() if available is None else available
        chosen = sample(named if self.list_file is None else listed(named, self.list_file), self.limit, self.seed)
        return each_label(chosen) if self.protocol.explained_class == "label" else chosen

    def load_classifier(self) -> Classifier:
        """Return the given classifier, or make one of the given network, or load the one that is named."""
        if isinstance(self.classifier, str):
            return as_classifier(load_classifier(self.classifier, self.device, self.protocol))
        return as_classifier(self.classifier)

    def open(self, classifier: Classifier | None = None) -> "Laboratory":
        """Open a Laboratory in this process. Use it in a `with` statement, or close it.

        `classifier` is what `load_classifier` returned, if it is loaded already.
        """
        return Laboratory(self, classifier)


class Laboratory:
    """The classifier of a Setup with a new engine, and the methods, loaded in this process.

    After it is closed, the classifier has its former engine, and PyTorch has its former number of threads.

    Attributes:
        setup, classifier, methods: the Setup, its classifier and its methods.
        engine: scores the masked images with the Setup's precision. It keeps the backend, chunk and threads that are
            measured when the laboratory is opened.

    Raises:
        ValueError: the precision is not supported on this device.
        RuntimeError: the weights could not be loaded, or `exactly` is set and the machine does not support the Setup's
            backend, chunk or threads.
    """

    def __init__(self, setup: Setup, classifier: Classifier | None = None):
        self.setup = setup
        self.classifier = setup.load_classifier() if classifier is None else as_classifier(classifier)
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
        """Restore the classifier's engine and PyTorch's number of threads."""
        torch.set_num_threads(self._threads)
        vars(self.classifier).pop("gradient_free", None)
        vars(self.classifier).update(self._engine)

    def start(self) -> dict:
        """Return the provenance and the current options of the engine, as an entry of run.json's `started`.

        If the chunk became smaller because memory ran out, it remains smaller.
        """
        backend = self.engine.backend_for(self.classifier.black)
        self.engine.backend, self.engine.chunk, self.engine.threads = backend.name, backend.chunk, backend.threads
        now = dict(zip(ENGINE, (backend.name, self.engine.precision, backend.chunk, backend.threads), strict=True))
        return self._provenance | now

    def _refuse_another(self, offered: dict):
        """Raise a RuntimeError if `exactly` is set and the engine's options are not those of the Setup."""
        required = {name: value for name in ENGINE if (value := getattr(self.setup, name)) not in (None, "auto")}
        if self.setup.exactly and any(offered[name] != value for name, value in required.items()):
            then, here = (
                "{backend} in {precision}, {chunk} images at a time, {threads} threads".format(**values)
                for values in (offered | required, offered)
            )
            raise RuntimeError(
                f"The run was begun with {then}; this machine offers {here}. Continue it where it was begun, or "
                "here with --elsewhere: its numbers may then differ in their last digits, and each row says where "
                "it was made."
            )

    def class_of(self, label: str | None) -> int | None:
        """Return the index of the class with this label; None if there is none.

        A label is the name of a class, or the WordNet id of one of ImageNet's classes; or of another network's, if the
        dataset has one for each class.
        """
        index = {name: i for i, name in enumerate(self.classifier.classes)}
        if label not in index and WORDNET.fullmatch(label or ""):
            index = self._wordnet
        return index.get(label)

    @cached_property
    def _wordnet(self) -> dict[str, int]:
        """WordNet id -> class index. ImageNet's classes are in the order of their ids."""
        ids = wordnet_ids()
        if len(ids) != len(self.classifier.classes):
            labels = {picture.label for picture in self.setup.available() if picture.label}
            ids = sorted(label for label in labels if WORDNET.fullmatch(label))
        return {name: i for i, name in enumerate(ids)} if len(ids) == len(self.classifier.classes) else {}

    @cached_property
    def randomized(self) -> list[list[tuple[Classifier, list[Method]]]]:
        """For `sanity`: a list for each seed, with (network of `randomize_layers`, methods for this network)."""
        seeds = [[copy for _, copy in randomize_layers(self.classifier, seed=seed)] for seed in range(SEEDS)]
        return [
            [(copy, [find_method(name, copy) for name in self.setup.methods]) for copy in copies] for copies in seeds
        ]


class Unusable(ValueError):
    """The reason why a picture cannot be explained. A run skips such a picture."""


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanations of a picture by the methods of a Laboratory.

    Attributes:
        evidence: the evidence for the picture and the explained class.
        explanations: the explanation by each method, with its map on the CPU.
        seconds: the time that each method alone would take, with the capture and the masked pass that they share.
        truth: (H, W) bool, the ground truth of the explained class, for metrics of LOCALIZATION; otherwise None.
    """

    evidence: Evidence
    explanations: list[Explanation]
    seconds: list[float]
    truth: Tensor | None


def explain(laboratory: Laboratory, picture: Picture, target: int | None = None) -> Explained:
    """Explain a picture by every method, with one capture and one pass over its channels.

    Args:
        laboratory: the laboratory that computes.
        picture: a picture of the dataset.
        target: the class to explain; by default the protocol determines it.

    Raises:
        Unusable: the picture cannot be read or has another number of channels than the classifier takes; a method's map
            is NaN or infinite; the protocol explains the label, and the label is not a class; or a metric of
            LOCALIZATION is requested, and the ground truth is unknown or has no object of the explained class.
        NonFiniteScore: a class score of the picture is NaN or infinite.
    """
    setup, classifier = laboratory.setup, laboratory.classifier
    try:
        if not picture.has_truth and not set(setup.metrics).isdisjoint(LOCALIZATION):
            raise ValueError(f"The ground truth of {picture.id} is unknown.")
        scene = picture.scene(*_read_as(laboratory)) if _localized(setup, picture) else None
        read = scene.image if scene else picture.read(*_read_as(laboratory))
        image = classifier.as_input(read)
        if bad := int((~image.isfinite()).sum()):
            raise ValueError(f"{bad} values of {picture.id} are NaN or infinite.")
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error
    if target is None and setup.protocol.explained_class == "label":
        target = laboratory.class_of(picture.label)
        if target is None:
            raise Unusable(f"{picture.id} has the label {picture.label}, which is none of the classifier's classes.")
    start = time.perf_counter()
    (evidence,) = capture(
        classifier,
        image[None],
        target_layer=classifier.target_layer,
        targets=None if target is None else [target],
        protocol=setup.protocol,
        reshape_transform=classifier.reshape_transform,
    )
    captured, truth, saved = time.perf_counter(), None, getattr(evidence.score.network, "saved", 0.0)
    if scene:
        name = classifier.classes[evidence.target]
        truth = scene.truth(name)
        if not truth.any():
            raise Unusable(f"the network names it {name}, which is not in it")
    if any(method.needs_regions for method in laboratory.methods):
        score_regions([evidence])
    saved = getattr(evidence.score.network, "saved", 0.0) - saved  # what was read from the cache counts as computed
    shared = {False: captured - start, True: time.perf_counter() - start + saved}
    explanations, seconds = [], []
    for method in laboratory.methods:
        start = time.perf_counter()
        explanation = method.explain(evidence)
        explanations.append(replace(explanation, cam=explanation.cam.cpu()))
        own = time.perf_counter() - start
        try:
            as_map(explanation.cam, image.shape[1:])
        except ValueError as error:
            raise Unusable(f"{method.name}: {error}") from error
        seconds.append(own + (shared[method.needs_regions] if method.function in METHODS else 0))
    return Explained(evidence, explanations, seconds, truth)


def explain_picture(laboratory: Laboratory, picture: Picture) -> dict:
    """Return a picture's entry in the journal: `rows`, one for each method (see `run`), or the reason in `skipped`.

    `start` is the entry of run.json's `started` that describes the computation.
    """
    try:
        entry = {"rows": _rows(laboratory, picture, explain(laboratory, picture))}
    except (Unusable, NonFiniteScore) as error:
        entry = {"skipped": str(error)}
    return {"image": picture.id, **entry, "start": laboratory.start()}


def _rows(laboratory: Laboratory, picture: Picture, explained: Explained) -> list[dict]:
    """Return a row of the records for each method."""
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
            localization = localize(explanation.cam, explained.truth)
            row |= {metric: value for metric, value in localization.items() if metric in metrics}
        if "adcc" in metrics:
            row["adcc"] = 100 * adcc(*(row[part] / 100 for part in ("drop", "coherency", "complexity")))
        rows.append(row)
    return rows


# A runner yields the entry of each picture, in any order. It is closed when the run ends or is stopped.
Runner = Callable[[Setup, Sequence[Picture]], Generator[dict, None, None]]


def serial(
    setup: Setup, chosen: Sequence[Picture], classifier: Classifier | None = None
) -> Generator[dict, None, None]:
    """Compute the entries of pictures in this process, one after the other. `classifier` is as in `Setup.open`."""
    if chosen:
        with setup.open(classifier) as laboratory, closing(read_ahead(laboratory, chosen)) as read:
            for picture in read:
                yield explain_picture(laboratory, picture)


def read_ahead(laboratory: Laboratory, chosen: Sequence[Picture]) -> Generator[Picture, None, None]:
    """Yield the pictures in their order, while threads read those that follow (AHEAD of them).

    The `read` of such a picture waits until it is read. It raises the picture's own error if it cannot be read.
    """
    with ThreadPoolExecutor(AHEAD, "reads") as pool:
        coming: deque[Picture] = deque()
        for picture in chosen:
            coming.append(being_read(laboratory, picture, pool))
            if len(coming) > AHEAD:
                yield coming.popleft()
        yield from coming


def being_read(laboratory: Laboratory, picture: Picture, pool: Executor) -> Picture:
    """Return a picture that the pool begins to read as `explain` does. Its `read` and `read_scene` wait for that."""
    if _localized(laboratory.setup, picture):
        scene = pool.submit(picture.scene, *_read_as(laboratory))
        return replace(picture, read_scene=lambda _size, _fit: scene.result())
    image = pool.submit(picture.read, *_read_as(laboratory))
    return replace(picture, read=lambda _size, _fit: image.result())


def _localized(setup: Setup, picture: Picture) -> bool:
    return picture.has_truth and not set(setup.metrics).isdisjoint(LOCALIZATION)


def _read_as(laboratory: Laboratory) -> tuple[int, Fit]:
    return laboratory.classifier.input_size, laboratory.setup.protocol.image_fit


def run(
    setup: Setup,
    pictures: Sequence[Picture] | None = None,
    out: str | Path | None = None,
    runner: Runner | None = None,
    elsewhere: bool = False,
) -> store.Run:
    """Explain pictures by several methods and score the maps. The same call continues a run that was stopped.

    A picture that cannot be read is skipped, and `info["skipped"]` holds the reason. So is one for which a class score
    is NaN or infinite, of the picture or of one of its masked, blurred or noisy images. If the protocol explains the
    label, a picture is also skipped if its label is not a class. With a metric of LOCALIZATION, a picture is skipped if
    its ground truth is unknown, or has no object of the explained class. Otherwise the ground truth is the union of
    that class's objects.

    Args:
        setup: the options of the run.
        pictures: the pictures to explain; by default those that the Setup chooses from its dataset.
        out: folder of the run, which is made if it does not exist; a temporary folder if None.
        runner: computes the entries of the missing pictures; `serial` by default, and `cluster.runner` does it in many
            processes.
        elsewhere: continue the run on a machine that does not support the backend, chunk and threads of its beginning.
            The numbers may then differ in their last digits; the column `start` tells which rows.

    Returns:
        The run. A record has `image` (its id), `label`, `target` and `class` (explained), `probability`, `method`,
        `beta_denoising`, `beta_region`, `beta_united` (of UnionCAM and Fusion-CAM) and `selected` (of UnionCAM). It has
        `masked_probability`, `drop`, `increase`, `insertion`, `deletion` and the two curves (see `metrics.evaluate`),
        the values of `metrics.localize` and `metrics.explain_again`, and `adcc`, for the metrics requested. `seconds`
        is the time that the method alone would take, with the capture and the masked pass that it shares, without its
        metrics. `start` is the position of the entry in `info["started"]` that describes the computation of the row.

    Raises:
        ValueError, OSError: one sentence, before anything is computed: a picture does not exist; a metric needs a
            ground truth that no picture has; no picture has a label, or one that is a class; the first picture has
            another number of channels than the classifier takes; the folder holds a run with other options. Later, if
            the disk is full; what was computed is kept.
        RuntimeError: another run works in the folder; the weights could not be loaded; this machine does not support
            the backend, chunk or threads of the run's beginning.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return run(setup, pictures, folder, runner, elsewhere)
    available = setup.available() if pictures is None else list(pictures)
    chosen = setup.chosen(available) if pictures is None else available
    _check_pictures(setup, chosen)
    classifier = setup.load_classifier()
    _check_labels(setup, classifier, chosen)
    _check_channels(setup, classifier, chosen)
    runner = runner or partial(serial, classifier=classifier)
    info = {
        "images": setup.dataset,
        "options": _options(setup, classifier, chosen),
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
    needs_truth = [metric for metric in setup.metrics if metric in LOCALIZATION]
    if needs_truth and not any(picture.has_truth for picture in chosen):
        raise ValueError(
            f"{min(needs_truth)!r} needs pictures with a known ground truth (scenes, shapes, mosaics, or VOC2007 with "
            f"its annotations), not {setup.dataset}."
        )
    if setup.protocol.explained_class == "label" and not any(picture.label for picture in chosen):
        raise ValueError(f"The protocol explains the label, but no picture of {setup.dataset} has one.")


def _check_labels(setup: Setup, classifier: Classifier, chosen: Sequence[Picture]):
    labels = sorted({picture.label for picture in chosen if picture.label})
    if setup.protocol.explained_class != "label" or any(map(WORDNET.fullmatch, labels)):
        return
    if not set(labels) & set(classifier.classes):
        some = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
        raise ValueError(
            f"The protocol explains the label, but {classifier.name} has no class of the labels of {setup.dataset} "
            f"({some}): take a network that has, or explain its own answer, with explained_class=top-1."
        )


def _check_channels(setup: Setup, classifier: Classifier, chosen: Sequence[Picture]):
    if classifier.channels in (1, 3) or not chosen:
        return
    try:
        first = chosen[0].read(classifier.input_size, setup.protocol.image_fit)
    except (OSError, ValueError):
        return  # it is skipped later, with its reason
    classifier.as_input(first)


def _options(setup: Setup, classifier: Classifier, chosen: Sequence[Picture]) -> dict:
    """Return the options, as run.json holds them, that must be the same when the run continues."""
    options = {
        "classifier": classifier.name,
        "weights": hash_weights(classifier),
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


def hash_weights(classifier: nn.Module) -> str:
    """Return a SHA-256 of the names and values of a network's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _as_begun(setup: Setup, begun: dict | None, elsewhere: bool) -> Setup:
    """Return the Setup with the backend, chunk and threads of the run's beginning. Old run.json files lack them."""
    if begun is None or not begun.get("backend"):
        return setup
    return replace(
        setup, backend=begun["backend"], chunk=begun["chunk"], threads=begun["threads"], exactly=not elsewhere
    )


def table_setup(
    scale: str, folder: str = "", paper_set: str = "ilsvrc2012", limit: int | None = None, **options
) -> Setup:
    """Return the Setup with which a notebook recreates a table of the paper.

    Args:
        scale: `demo`: the built-in network on the demo photos, or on composed scenes instead of VOC2007. `folder`: the
            built-in network on the pictures in `folder`. `paper`: the paper's network VGG16 on 2,000 images, in
            `folder`, of ILSVRC2012's validation set (those of data/lists) or of VOC2007's test set (sampled with seed
            0).
        folder: folder of the pictures.
        paper_set: `ilsvrc2012` or `voc2007`.
        limit: number of pictures sampled; by default the scale determines it.
        options: other fields of the Setup.

    Raises:
        ValueError: the scale does not exist, or it needs a folder and none is given.
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
