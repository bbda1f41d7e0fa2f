"""Images × methods × metrics, one record a row: resumable, whatever stops it.

python -m unioncam_lab.experiment run --images demo --out runs/demo      begin, or go on where it was stopped
python -m unioncam_lab.experiment table runs/demo                        print the tables
python -m unioncam_lab.experiment report runs/demo                       write them, curves and a gallery as a web page

A run's folder holds `run.json` (every option, versions, checksums) and `records.parquet`; until it is finished, what
has been computed is in `journal.jsonl`, a line an image.

The same run gives the same numbers: backend, precision, images at a time and threads are chosen once, written to
`run.json`, and used again when it goes on. With what a row was computed is the entry of run.json's `started` that its
column `start` counts, from 0.
"""

import argparse
import errno
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn
from tqdm.auto import tqdm

from unioncam_core import capture, score_regions
from unioncam_lab import literal, progress_disabled
from unioncam_lab.classifiers import LabProtocol, load_classifier
from unioncam_lab.datasets import LISTS, listed, pictures, sample
from unioncam_lab.engine import Engine
from unioncam_lab.engine.backends import Precision
from unioncam_lab.images import Picture
from unioncam_lab.methods import BETAS, METHODS, Method, find_method
from unioncam_lab.metrics import (
    CURVES,
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

RECORDS = DATA / "records"
ENGINE = ("backend", "precision", "chunk", "threads")  # what an entry of `started` says of how masked images are scored
# What the paper's tables compare.
PAPER_METHODS = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam")


@dataclass(frozen=True, eq=False)
class Run:
    """What a run has computed.

    Attributes:
        records: a row for each image and method; see `run`.
        info: what run.json holds.
    """

    records: pd.DataFrame
    info: dict


def run(
    images: str = "demo",
    classifier: str | nn.Module = "efficientnet_lite0",
    methods: Sequence[str] = PAPER_METHODS,
    metrics: Sequence[Metric] = FAITHFULNESS,
    *,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    protocol: LabProtocol = LabProtocol(),
    device: str | None = None,
    precision: Precision = "fp32",
    list_file: str | Path | None = None,
    elsewhere: bool = False,
) -> Run:
    """Explain pictures by several methods and score the maps. The same call goes on where another one was stopped.

    An image takes one capture and one pass over its channels, however many the methods are. A picture that cannot be
    read is skipped, and `info["skipped"]` says why. So is, for the metrics of LOCALIZATION, a scene whose first answer
    is no class of an object in it: else the truth is all objects of the explained class.

    Args:
        images: a set of pictures by its name; see `datasets.pictures`.
        classifier: a name for `load_classifier`, or a classifier as it returns; it is left as it was.
        methods: names for `methods.find_method`.
        metrics: of FAITHFULNESS, of LOCALIZATION for scenes, shapes and mosaics, and of EXPLAINED_AGAIN, which take
            longer.
        limit, seed: how many pictures are drawn at random, and by which seed; all of them if None.
        out: folder of the run, made if need be; a temporary one if None.
        protocol: what the paper leaves open.
        device: as in `load_classifier`.
        precision: of the passes without gradient, as in `engine.accelerate`; half precision is kept in the options.
        list_file: a file that names the pictures, see `datasets.listed`; `limit` of them are drawn.
        elsewhere: go on with a run on a machine that cannot offer the backend, chunk and threads with which it was
            begun. The numbers may then differ in their last digits; the column `start` tells which rows.

    Returns:
        The run. A record has `image` (its id), `label`, `target` and `class` (explained), `probability`, `method`,
        `beta_denoising`, `beta_region`, `beta_united` (of UnionCAM and Fusion-CAM) and `selected` (of UnionCAM);
        `masked_probability`, `drop`, `increase`, `insertion`, `deletion` and the two curves, see `metrics.evaluate`;
        what `metrics.localize` and `metrics.explain_again` return, and `adcc`;
        `seconds`: what the method alone would have taken, with the capture and the masked pass that it shares,
        without its metrics; and `start`, which entry of `info["started"]` says with what the row was computed.

    Raises:
        ValueError, OSError: one sentence, before anything is computed: no such picture, method, metric or option; a
            folder that holds a run with other options; a listed picture that is missing. Or later, when the disk is
            full: what was computed is kept.
        RuntimeError: another runner is at work in the folder; weights could not be loaded; this machine cannot offer
            what the run was begun with.
    """
    check_metrics(metrics)
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods are {', '.join(methods) or 'none'}; one or more are needed, each once.")
    if isinstance(classifier, str):
        [find_method(method, nn.Identity()) for method in methods]  # before the weights are loaded
    available = pictures(images)
    chosen = sample(available if list_file is None else listed(available, list_file), limit, seed)
    if (asked := set(metrics) & set(LOCALIZATION)) and not all(picture.has_truth for picture in chosen):
        raise ValueError(
            f"{sorted(asked)[0]!r} needs scenes, shapes or mosaics, of which the truth is known, not {images}."
        )
    if isinstance(classifier, str):
        classifier = load_classifier(classifier, device, protocol)
    found = [find_method(method, classifier) for method in methods]
    options = {
        "classifier": classifier.name,
        "weights": _checksum(classifier),
        "methods": list(methods),
        "metrics": list(metrics),
        "limit": limit,
        "seed": seed,
        "protocol": asdict(protocol),
        "data": hashlib.sha256("".join(f"{p.id} {p.bytes}\n" for p in chosen).encode()).hexdigest(),
    }
    if precision != "fp32":
        options["precision"] = precision
    if list_file is not None:
        options["list"] = hashlib.sha256(Path(list_file).expanduser().read_bytes()).hexdigest()
    classes = _classes_of_labels(available, classifier) if protocol.explained_class == "label" else None
    info = {"images": images, "options": options, "available": len(available), "started": []}
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return _run(Path(folder), info, chosen, classifier, found, protocol, classes, elsewhere)
    return _run(Path(out), info, chosen, classifier, found, protocol, classes, elsewhere)


def _run(
    out: Path,
    info: dict,
    chosen: Sequence[Picture],
    classifier: nn.Module,
    methods: Sequence[Method],
    protocol: LabProtocol,
    classes: dict[str, int] | None,
    elsewhere: bool,
) -> Run:
    names, metrics = info["options"]["methods"], info["options"]["metrics"]
    with _locked(out):
        known = _read_info(out)
        if known is not None:
            _check_same(known["options"], info["options"], out)
            info = known
        if "finished" in info:
            return load(out)
        begun = {name: info["started"][-1].get(name) for name in ENGINE} if info["started"] else None
        with _own_engine(classifier, info["options"].get("precision", "fp32"), begun) as engine:
            start = _start(info, engine, classifier, begun if not elsewhere else None, out)
            _write(out / "run.json", json.dumps(info, indent=1).encode())
            journal = Journal(out / "journal.jsonl")
            done = {entry["image"] for entry in journal.entries()}
            todo = [picture for picture in chosen if picture.id not in done]
            networks = []
            if todo and "sanity" in metrics:
                for seed in range(SEEDS):
                    copies = [network for _, network in randomize_layers(classifier, seed=seed)]
                    networks.append([(copy, [find_method(name, copy) for name in names]) for copy in copies])
            with tqdm(total=len(chosen), initial=len(done), unit="image", disable=progress_disabled()) as bar:
                for picture in todo:
                    entry = _explain(picture, classifier, methods, metrics, protocol, classes, networks)
                    if _now(engine, classifier)["chunk"] != info["started"][start]["chunk"]:  # memory ran out
                        start = _start(info, engine, classifier, None, out)
                        _write(out / "run.json", json.dumps(info, indent=1).encode())
                    for row in entry.get("rows", []):
                        row["start"] = start
                    journal.append(entry)
                    bar.update()
        records, skipped = _collect(journal.entries(), [picture.id for picture in chosen])
        info |= {"finished": provenance()["date"], "skipped": skipped}
        parquet = io.BytesIO()
        records.to_parquet(parquet, index=False, compression="zstd")
        _write(out / "records.parquet", parquet.getvalue())
        _write(out / "run.json", json.dumps(info, indent=1).encode())
        journal.path.unlink()
        return Run(records, info)


@contextmanager
def _own_engine(classifier: nn.Module, precision: Precision, begun: dict | None) -> Iterator[Engine]:
    """The classifier with an engine of the run's own, and PyTorch on that many threads; afterwards as it was.

    What was asked of the classifier's own engine, or what the run was begun with, holds for it too.
    """
    own, threads = getattr(classifier, "gradient_free", None), torch.get_num_threads()
    if begun and begun["backend"]:
        wanted = {name: begun[name] for name in ENGINE}
    else:
        wanted = {"backend": getattr(own, "backend", "auto"), "chunk": getattr(own, "chunk", None)}
        wanted |= {"precision": precision, "threads": threads}
    torch.set_num_threads(wanted["threads"])
    classifier.gradient_free = Engine(classifier, progress=False, **wanted)
    try:
        yield classifier.gradient_free
    finally:
        torch.set_num_threads(threads)
        if own is None:
            del classifier.gradient_free
        else:
            classifier.gradient_free = own


def _now(engine: Engine, classifier: nn.Module) -> dict:
    """What computes masked images, as ENGINE names it."""
    size, parameter = classifier.input_size, next(classifier.parameters())
    backend = engine.backend_for(parameter.new_zeros(1, 3, size, size))
    return dict(zip(ENGINE, (backend.name, engine.precision, backend.chunk, backend.threads), strict=True))


def _start(info: dict, engine: Engine, classifier: nn.Module, begun: dict | None, out: Path) -> int:
    """The position in `started` of what computes now, added if it is new. The engine keeps to it, and so do its copies.

    Raises:
        RuntimeError: it is not what the run was `begun` with.
    """
    now = _now(engine, classifier)
    if begun and begun["backend"] and begun != now:
        then, here = (
            f"{each['backend']} in {each['precision']}, {each['chunk']} images at a time, {each['threads']} threads"
            for each in (begun, now)
        )
        raise RuntimeError(
            f"The run in {out} was begun with {then}; this machine offers {here}. Go on where it was begun, or here "
            "with --elsewhere: its numbers may then differ in their last digits, and each row says where it was made."
        )
    engine.backend, engine.chunk, engine.threads = now["backend"], now["chunk"], now["threads"]
    entry = provenance() | now
    for i, known in enumerate(info["started"]):
        if {**known, "date": None} == {**entry, "date": None}:
            return i
    info["started"].append(entry)
    return len(info["started"]) - 1


def at_scale(scale: str, folder: str = "", paper_set: str = "ilsvrc2012") -> dict:
    """Options for `run` by which a notebook recreates a table.

    Args:
        scale: `demo`: the built-in network on the demo photos, or on composed scenes where the paper has VOC2007.
            `folder`: the built-in network on the pictures of `folder`. `paper`: the paper's network VGG16 on 2,000
            images of ILSVRC2012's validation set (those of data/lists) or VOC2007's test set (drawn by seed 0) in
            `folder`.
        folder: where the pictures are.
        paper_set: `ilsvrc2012` or `voc2007`.

    Raises:
        ValueError: no such scale, or no folder where one is needed.
    """
    if scale not in ("demo", "folder", "paper"):
        raise ValueError(f"scale is {scale!r}; it can be demo, folder or paper.")
    if scale != "demo" and not folder:
        raise ValueError(f"scale {scale!r} needs a folder with pictures, in the parameter `folder`.")
    match scale:
        case "demo":
            return {"images": "demo"} if paper_set == "ilsvrc2012" else {"images": "scenes", "limit": 8}
        case "folder":
            return {"images": folder}
        case "paper":
            options = {"images": f"{paper_set}:{folder}", "classifier": "vgg16"}
            if paper_set == "ilsvrc2012":
                return options | {"list_file": LISTS / "ilsvrc2012_val_2000.txt"}
            return options | {"limit": 2000, "seed": 0}


def load(out: str | Path) -> Run:
    """What a run has computed so far.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    out = Path(out)
    info = _read_info(out)
    if info is None:
        raise FileNotFoundError(f"The folder {out} holds no run: there is no {out / 'run.json'}.")
    if "finished" in info:
        return Run(pd.read_parquet(out / "records.parquet"), info)
    records, skipped = _collect(Journal(out / "journal.jsonl", repair=False).entries())
    return Run(records, info | {"skipped": skipped})


def _explain(
    picture: Picture,
    classifier: nn.Module,
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    protocol: LabProtocol,
    classes: dict[str, int] | None,
    networks: Sequence[Sequence[tuple[nn.Module, Sequence[Method]]]] = (),
) -> dict:
    """A line of the journal: the picture's records, or why it was skipped."""
    try:
        located = set(metrics) & set(LOCALIZATION)
        scene = picture.scene(classifier.input_size, protocol.image_fit) if located else None
        image = scene.image if scene else picture.read(classifier.input_size, protocol.image_fit)
        if classes is not None and picture.label not in classes:
            raise ValueError(f"{picture.id} has the label {picture.label}, which is none of the classifier's classes.")
    except (OSError, ValueError) as error:
        return {"image": picture.id, "skipped": str(error)}
    parameter = next(classifier.parameters())
    images, targets = image[None].to(parameter), None if classes is None else [classes[picture.label]]
    start = time.perf_counter()
    (evidence,) = capture(classifier, images, target_layer=classifier.target_layer, targets=targets, protocol=protocol)
    captured = time.perf_counter()
    name, truth = classifier.classes[evidence.target], None
    if scene:
        truth = scene.truth(name)
        if not truth.any():
            return {"image": picture.id, "skipped": f"the network names it {name}, which is not in it"}
    if any(method.needs_regions for method in methods):
        score_regions([evidence])
    shared = {False: captured - start, True: time.perf_counter() - start}
    rows, cams = [], []
    for method in methods:
        start = time.perf_counter()
        result = method.explain(evidence)
        cams.append(result.cam.cpu())
        seconds = time.perf_counter() - start + (shared[method.needs_regions] if method.function in METHODS else 0)
        betas = {name: result.betas.get(name) for name in BETAS} | {"selected": result.selected}
        rows.append({"method": method.name, "seconds": seconds} | betas)
    described = {
        "image": picture.id,
        "label": picture.label,
        "target": evidence.target,
        "class": name,
    }
    faithful = [metric for metric in FAITHFULNESS if metric in metrics or (metric == "drop" and "adcc" in metrics)]
    again = [metric for metric in EXPLAINED_AGAIN if metric in metrics]
    results = evaluate(evidence, cams, faithful) if faithful else [{"probability": evidence.probability} for _ in cams]
    again = explain_again(evidence, classifier, methods, cams, again, networks)
    for i, cam in enumerate(cams):
        rows[i] = described | rows[i] | results[i] | again[i]
        if truth is not None:
            rows[i] |= {metric: value for metric, value in localize(cam, truth).items() if metric in metrics}
        if "adcc" in metrics:
            rows[i]["adcc"] = 100 * adcc(*(rows[i][part] / 100 for part in ("drop", "coherency", "complexity")))
    return {"image": picture.id, "rows": rows}


def _classes_of_labels(available: Sequence[Picture], classifier: nn.Module) -> dict[str, int]:
    """The index of each label: the classifier's names of its classes, and WordNet ids, if there is one for each class.

    ImageNet's classes are numbered in the order of their ids.
    """
    classes = {name: i for i, name in enumerate(classifier.classes)}
    ids = sorted({picture.label for picture in available if re.fullmatch(r"n\d{8}", picture.label or "")})
    return classes | {name: i for i, name in enumerate(ids)} if len(ids) == len(classifier.classes) else classes


class Journal:
    """A file of one line an image, each written whole or not at all."""

    def __init__(self, path: Path, repair: bool = True):
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        self.whole = content.rfind(b"\n") + 1  # a line that a kill cut short is not counted
        if repair and self.whole < len(content):
            os.truncate(path, self.whole)

    def entries(self) -> Iterator[dict]:
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from map(json.loads, file.read(self.whole).splitlines())

    def append(self, entry: dict):
        line = json.dumps(entry).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, self.whole)
            _explain_full_disk(error, self.path.parent)
        self.whole += len(line)


def _collect(entries: Iterator[dict], order: Sequence[str] | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """The records in the order of the pictures and methods, and the pictures that were skipped."""
    entries = list(entries)
    if order is not None:
        place = {name: i for i, name in enumerate(order)}
        entries.sort(key=lambda entry: place[entry["image"]])
    rows = [row for entry in entries for row in entry.get("rows", [])]
    records = pd.DataFrame(rows)
    for name in (*(f"{metric}_curve" for metric in (*CURVES, "sanity")), "sanity_rho"):
        if name in records:
            records[name] = [np.array(curve, dtype=np.float32) for curve in records[name]]
    for name in ("beta_denoising", "beta_region", "beta_united"):
        if name in records:
            records[name] = records[name].astype(float)
    return records, {entry["image"]: entry["skipped"] for entry in entries if "skipped" in entry}


def _read_info(out: Path) -> dict | None:
    path = out / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _check_same(known: dict, wanted: dict, out: Path):
    flat = [{**options, **options["protocol"]} for options in (known, wanted)]
    for name in flat[0] | flat[1]:
        before, now = flat[0].get(name), flat[1].get(name)
        if name != "protocol" and before != now:
            raise ValueError(
                f"{out} holds a run whose {name} is {before}, not {now}: take another folder, or the same options."
            )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One runner at a time; the system frees the folder when its runner dies."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"Another runner is at work in {out}.") from None


def _write(path: Path, content: bytes):
    """A file written whole, in place of what it was before, or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        _explain_full_disk(error, path.parent)


def _explain_full_disk(error: OSError, out: Path):
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(
            error.errno, f"The disk is full. What was computed is kept in {out}: free some space, and run it again"
        ) from error
    raise error


def _checksum(classifier: nn.Module) -> str:
    """SHA-256 of the weights, by their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m unioncam_lab.experiment", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="begin a run, or go on with it")
    command.add_argument(
        "--images", default="demo", help="demo, scenes, shapes, mosaics, FOLDER, ilsvrc2012:FOLDER, ..."
    )
    command.add_argument("--classifier", default="efficientnet_lite0", help="as in load_classifier")
    command.add_argument(
        "--methods", default=",".join(PAPER_METHODS), help="with commas; options as in union_cam:theta=50"
    )
    command.add_argument("--metrics", default=",".join(FAITHFULNESS), help="with commas")
    command.add_argument("--limit", type=int, help="how many pictures are drawn; all by default")
    command.add_argument("--seed", type=int, default=0, help="which are drawn")
    command.add_argument(
        "--protocol", nargs="*", default=[], metavar="OPTION=VALUE", help="as in unioncam_core.Protocol"
    )
    command.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    command.add_argument("--precision", default="fp32", choices=get_args(Precision), help="of passes without gradient")
    command.add_argument(
        "--list", type=Path, dest="list_file", metavar="FILE", help="text file that names the pictures, a line each"
    )
    command.add_argument(
        "--elsewhere", action="store_true", help="go on where the machine cannot offer what the run was begun with"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the run")
    for name, help_text in (("table", "print the tables of a run"), ("report", "write a run as a web page")):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("out", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--images", default="", help="where its pictures are now; where they were by default")
    options = vars(parser.parse_args(arguments))
    try:
        {"run": _command_run, "table": _command_table, "report": _command_report}[options.pop("command")](**options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(f"{parser.prog}: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _command_run(methods: str, metrics: str, protocol: Sequence[str], out: Path, **options):
    chosen = dict(setting.partition("=")[::2] for setting in protocol)
    read = LabProtocol(**{name: literal(value) for name, value in chosen.items()})
    made = run(methods=methods.split(","), metrics=metrics.split(","), protocol=read, out=out, **options)
    print(f"{made.records['image'].nunique() if len(made.records) else 0} images are in {out / 'records.parquet'}.")
    for name, reason in made.info["skipped"].items():
        print(f"skipped {name}: {reason}")


def _command_table(out: Path):
    from unioncam_lab import tables

    made = load(out)
    if made.records.empty:
        raise ValueError(f"The run in {out} has no records yet.")
    found = tables.summary(made.records)
    print(tables.wide(found).to_markdown())
    known = set(zip(found["quantity"], found["method"], strict=True))
    for name in tables.TABLES:
        if known >= {(quantity, method) for quantity, row in tables.published(name).items() for method in row}:
            print(f"\nThe paper's {name}\n{tables.beside_paper(found, name).to_string()}")


def _command_report(out: Path, images: str):
    from unioncam_lab.report import write_report

    print(f"The report is {write_report(out, images=images)}.")


if __name__ == "__main__":
    sys.exit(main())
