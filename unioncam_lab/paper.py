"""The paper's whole experiment in one call: its runs, how long they take, and the notebooks that read them.

    parts        the runs of the experiment, each with a folder of its own
    measure      the pace of a run on this machine, from its next pictures
    reproduce    checks, measures, runs, and renders notebooks; the command is python -m unioncam_lab paper
    table_run    the records behind a notebook's table: of the finished run in a folder, or of a new one
    studied      the runs of the protocol study in a folder

One masked pass over a picture serves all methods of a run. So methods with the same pictures and metrics share a run.
"""

import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from unioncam_lab import findings, headless, store, tables
from unioncam_lab.classifiers import LabProtocol, load_classifier
from unioncam_lab.datasets import pictures, sample
from unioncam_lab.engine import Precision
from unioncam_lab.experiment import PAPER_METHODS, Runner, Setup, run, serial, table_setup
from unioncam_lab.images import Picture
from unioncam_lab.methods import CONTROLS
from unioncam_lab.metrics import FAITHFULNESS, LOCALIZATION

# Score-CAM's and UnionCAM's region maps, each with both weights, so that each of `tables.REGION_MAPS` is there.
METHODS = (*PAPER_METHODS, "score_cam:weights=score", "union_cam:region_weights=softmax")
FUSION = ("fusion_cam", "fusion_cam:region_weights=score")
THETAS = range(0, 100, 10)
READINGS = ("channel", "positive", "map")  # of Eq. 1
SWEPT = (
    *tables.published("table 4")["drop"],
    *(f"union_cam:theta={theta}:percentile_over={reading}" for reading in READINGS for theta in THETAS),
    *(f"fusion_cam:theta={theta}" for theta in THETAS),
    *("union_cam:relu=False", "union_cam:clamp_beta=True"),
    *("union_cam:region_weights=softmax", "union_cam:region_weights=increase"),
)
STUDIED = 200  # pictures for each option of the protocol study
# Options that other methods of the same run read anew from the same masked pass: they are among SWEPT.
READ_ANEW = ("percentile_over", "clamp_beta", "region_weights")
NO_OPTION = ("sigmoid",)  # for networks with several labels, which VGG16 is not
MEASURED = 3  # pictures for each kind of run, and for each worker
NOTEBOOKS = ("07", "08", "09", "10", "11", "12", "17")
DRAWN = 40  # pictures that notebook 11 explains with VGG16
PAGES = 60 * 10**6  # bytes of the notebooks, their pages and figures


@dataclass(frozen=True)
class Part:
    """A run of the experiment.

    Attributes:
        name: its folder within the experiment's folder.
        shows: what of the papers it measures.
        setup: its options.
    """

    name: str
    shows: str
    setup: Setup

    @property
    def kind(self) -> tuple:
        """What decides how long a picture takes: parts of one kind are measured once."""
        return self.setup.methods, self.setup.metrics


@dataclass(frozen=True)
class Pace:
    """How fast a run is.

    Attributes:
        start: seconds before its first picture.
        picture: seconds for each picture, of all workers together.
        bytes: on disk for each picture.
    """

    start: float
    picture: float
    bytes: float


@dataclass(frozen=True)
class Outlook:
    """What is left of a part.

    Attributes:
        part: the part.
        count: number of its pictures.
        done: number of pictures that are in its folder already.
        pace: how fast it is; None if nothing is left.
    """

    part: Part
    count: int
    done: int
    pace: Pace | None

    @property
    def seconds(self) -> float:
        """The time that is left."""
        return self.pace.start + (self.count - self.done) * self.pace.picture if self.pace else 0.0

    @property
    def bytes(self) -> float:
        """The space that is needed at most: until a run ends, its journal and its records are there side by side."""
        return (2 * self.count - self.done) * self.pace.bytes if self.pace else 0.0


def parts(
    imagenet: str | Path | None, voc: str | Path | None, limit: int | None = None, study: bool = False, **options
) -> list[Part]:
    """Return the runs of the paper's experiment, those on VGG16 that these data sets allow.

    Args:
        imagenet: path of ILSVRC2012's validation set, as after `ilsvrc2012:` in `datasets.pictures`; None leaves out
            what needs it.
        voc: path of VOC2007's test set, as after `voc2007:`, or None.
        limit: number of pictures of each run; by default the 2,000 of data/lists, and 2,000 of VOC2007.
        study: whether to run each option of the protocol too, on 200 pictures.
        options: other fields of each Setup.

    Raises:
        ValueError: the limit or an option is wrong.
    """
    sample([], limit, 0)  # raises an error if the limit is wrong
    made, both = [], ("drop", "increase")
    if imagenet:
        photos = partial(table_setup, "paper", str(imagenet), limit=limit, **options)
        first = photos(methods=[*METHODS, *FUSION, *CONTROLS], metrics=FAITHFULNESS)
        made.append(Part("ilsvrc2012", "Tables 1 and 3, Fusion-CAM's table", first))
        made.append(Part("ablation", "Table 4, Figure 8, Fusion-CAM's θ", photos(methods=SWEPT, metrics=both)))
    if voc:
        photos = partial(table_setup, "paper", str(voc), "voc2007", limit, **options)
        made.append(Part("voc2007", "Table 2", photos(methods=[*METHODS, *CONTROLS], metrics=both)))
        boxes = photos(methods=[*METHODS, *CONTROLS], metrics=LOCALIZATION)
        made.append(Part("voc2007_boxes", "where the maps lie, by VOC2007's boxes", boxes))
    if imagenet and study:
        few = min(limit or STUDIED, STUDIED)
        photos = partial(table_setup, "paper", str(imagenet), limit=few, **options)
        for name, value in open_options():
            setup = photos(methods=[*METHODS, FUSION[0]], metrics=both, protocol=LabProtocol(**{name: value}))
            made.append(Part(f"options/{name}_{value}", f"{name}={value}", setup))
    return made


def open_options() -> list[tuple[str, Any]]:
    """Return the options of the protocol study that need a masked pass of their own: (name, value).

    The values of READ_ANEW are methods of the part `ablation`.
    """
    usual = LabProtocol()
    return [
        (option.name, value)
        for option in fields(LabProtocol)
        if option.name not in READ_ANEW
        for value in get_args(option.type) or (True, False)
        if value != getattr(usual, option.name) and value not in NO_OPTION
    ]


def measure(
    part: Part,
    out: Path,
    runner: Runner | None = None,
    workers: int = 1,
    elsewhere: bool = False,
) -> Pace:
    """Compute the next pictures of a run, 3 for each worker, and return its pace. The run keeps the pictures.

    Skipped pictures take part in the pace, but they do not count among the 3. What happens before the first picture,
    such as loading the network, is not part of a picture's time. Nothing is read from the cache, which another run on
    the same first pictures has just filled.

    Args:
        part: the part.
        out: folder of the experiment.
        runner, elsewhere: as in `experiment.run`.
        workers: number of workers of the runner.

    Raises:
        ValueError, OSError, RuntimeError: as `experiment.run`.
    """
    begun, times, computed = time.perf_counter(), [], 0

    def first_ones(setup: Setup, missing: Sequence[Picture]) -> Generator[dict, None, None]:
        nonlocal computed
        with closing((runner or serial)(setup, missing)) as entries:
            for entry in entries:
                times.append(time.perf_counter())
                computed += "rows" in entry
                yield entry
                if computed == MEASURED * workers and len(times) < len(missing):
                    raise _Measured

    with suppress(_Measured), mock.patch.dict(os.environ, UNIONCAM_CACHE="off"):
        run(part.setup, out=out / part.name, runner=first_ones, elsewhere=elsewhere)
    if not times:
        return Pace(0.0, 0.0, 0.0)
    # The first pictures of all workers wait for the workers' start.
    first = times[workers - 1] if len(times) > workers else begun
    picture = (times[-1] - first) / (len(times) - workers if len(times) > workers else len(times))
    start = max(0.0, times[min(workers, len(times)) - 1] - begun - workers * picture)
    folder = out / part.name
    return Pace(start, picture, _size(folder) / max(1, _done(folder)))


class _Measured(Exception):
    """Enough pictures were computed to know the pace."""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _done(folder: Path) -> int:
    """The number of pictures that a run has computed or skipped."""
    if not (folder / "run.json").exists():
        return 0
    made = store.load(folder)
    return (made.records["image"].nunique() if len(made.records) else 0) + len(made.info["skipped"])


def outlook(wanted: Sequence[Part], counts: Mapping[str, int], paces: Mapping[tuple, Pace], out: Path) -> list[Outlook]:
    """Return what is left of each part, by the pace of its kind.

    Args:
        wanted: the parts.
        counts: name of a part -> number of its pictures.
        paces: kind -> pace.
        out: folder of the experiment.
    """
    found = []
    for part in wanted:
        done = _done(out / part.name)
        found.append(Outlook(part, counts[part.name], done, paces[part.kind] if done < counts[part.name] else None))
    return found


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if hours < 72:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def _megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"


def reproduce(
    imagenet: str | Path | None,
    voc: str | Path | None,
    out: str | Path,
    *,
    limit: int | None = None,
    study: bool = False,
    device: str | None = None,
    precision: Precision = "fp32",
    runner: Runner | None = None,
    workers: int = 1,
    elsewhere: bool = False,
) -> list[headless.Executed]:
    """Run the paper's experiment, and say before how long it takes. The same call continues one that was stopped.

    Args:
        imagenet, voc, limit, study: as in `parts`.
        out: folder of the experiment: a folder for each run, `notebooks` with their index page, `figures`, and
            report.md, which has the paper's tables and the claims beside ours.
        device, precision: as in `experiment.Setup`.
        runner, elsewhere: as in `experiment.run`.
        workers: number of workers of the runner.

    Returns:
        The notebooks that were rendered.

    Raises:
        ValueError, OSError, RuntimeError: one sentence, before anything is computed: no data set is given, or a path
            is none of a data set; VGG16's weights could not be loaded; the folder holds runs with other options.
            After the measuring: the disk has too little space. What was computed is kept.
    """
    out = Path(out).expanduser()
    wanted = parts(imagenet, voc, limit, study, device=device, precision=precision)
    if not wanted:
        raise ValueError(
            "No data set is given: name the path of ILSVRC2012's validation set, of VOC2007's test set, or of both, as "
            "in make paper IMAGENET=PATH VOC=PATH."
        )
    wanted, counts = _chosen(wanted)
    _say_what_is_left_out(imagenet, voc, study)
    load_classifier("vgg16", device)  # an error in the weights or the device comes before anything else
    paces: dict[tuple, Pace] = {}
    print(f"The next {MEASURED} pictures of each kind of run show how long all will take.", flush=True)
    for part in wanted:
        if part.kind not in paces and _done(out / part.name) < counts[part.name]:
            paces[part.kind] = measure(part, out, runner, workers, elsewhere)
    ahead = outlook(wanted, counts, paces, out)
    print(describe(ahead, out), flush=True)
    _check_space(ahead, out)
    for number, each in enumerate(ahead, 1):
        if each.seconds:
            print(f"{number} of {len(ahead)}: {each.part.shows}, about {duration(each.seconds)}", flush=True)
        made = run(each.part.setup, out=out / each.part.name, runner=runner, elsewhere=elsewhere)
        _say_what_was_skipped(each.part, made)
    write_report(out)
    return render(imagenet, voc, out, limit)


def _chosen(wanted: Sequence[Part]) -> tuple[list[Part], dict[str, int]]:
    """Return the parts whose pictures can be explained, and the number of pictures of each part."""
    available = {name: pictures(name) for name in dict.fromkeys(part.setup.dataset for part in wanted)}
    kept, counts = [], {}
    for part in wanted:
        chosen = part.setup.chosen(available[part.setup.dataset])
        if part.setup.protocol.explained_class == "label" and not any(picture.label for picture in chosen):
            print(f"{part.shows} is left out: it needs the devkit ILSVRC2012_devkit_t12.tar.gz beside the pictures.")
        else:
            kept.append(part)
            counts[part.name] = len(chosen)
    return kept, counts


def _say_what_is_left_out(imagenet: str | Path | None, voc: str | Path | None, study: bool):
    if not imagenet:
        print("Tables 1, 3 and 4, Figure 8 and Fusion-CAM's table are left out: ILSVRC2012 is not given.")
        if study:
            print("The protocol study is left out too.")
    if not voc:
        print("Table 2 is left out: VOC2007 is not given.")


def _say_what_was_skipped(part: Part, made: store.Run):
    skipped = made.info["skipped"]
    if skipped:
        name, reason = next(iter(skipped.items()))
        every = "every picture" if made.records.empty else f"{len(skipped)} of its pictures"
        print(f"{part.name} skipped {every}; the first is {name}: {reason}.", flush=True)


def describe(ahead: Sequence[Outlook], out: Path) -> str:
    """Return what is left as a table, with the time and the space that all of it needs."""
    lines = [f"{'run':<34}{'pictures':>9}{'done':>7}{'methods':>9}{'s/picture':>11}{'left':>12}  for"]
    for each in ahead:
        pace = f"{each.pace.picture:.3g}" if each.pace else "–"
        left = duration(each.seconds) if each.pace else "done"
        methods = len(each.part.setup.methods)
        numbers = f"{each.count:>9,}{each.done:>7,}{methods:>9}{pace:>11}{left:>12}"
        lines.append(f"{each.part.name:<34}{numbers}  {each.part.shows}")
    seconds, free = sum(each.seconds for each in ahead), shutil.disk_usage(_existing(out)).free
    lines.append(f"The runs take about {duration(seconds)} more, and then the notebooks {duration(_pages(ahead))}.")
    lines.append(f"They need at most {_megabytes(_space(ahead))} in {out}, where {_megabytes(free)} are free.")
    lines.append("Ctrl-C stops; the same command goes on from there.")
    return "\n".join(lines)


def _pages(ahead: Sequence[Outlook]) -> float:
    """The seconds that the notebooks take on two cores; notebook 11 explains its pictures with VGG16."""
    usual = sum(chapter.seconds for chapter in findings.chapters() if chapter.number in NOTEBOOKS)
    return usual / 2 + DRAWN * min((each.pace.picture for each in ahead if each.pace), default=0.0)


def _space(ahead: Sequence[Outlook]) -> float:
    return PAGES + sum(each.bytes for each in ahead)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _check_space(ahead: Sequence[Outlook], out: Path):
    free, needed = shutil.disk_usage(_existing(out)).free, _space(ahead)
    if free < needed:
        raise OSError(
            f"The experiment needs at most {_megabytes(needed)}, but in {out} {_megabytes(free)} are free: make room, "
            "or take another folder. What was measured is kept."
        )


def count_workers(scheduler: str) -> int:
    """Return the number of workers that a scheduler of dask has; 1 if it has none yet.

    Raises:
        RuntimeError: the scheduler does not answer.
    """
    from distributed import Client

    try:
        with Client(scheduler, timeout=5) as client:
            return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    except (OSError, ValueError) as error:
        raise RuntimeError(f"The scheduler {scheduler} does not answer: {error}") from error


def table_run(setup: Setup, out: str | Path | None = None) -> store.Run:
    """Return the records of a Setup: those of the finished run in a folder that has them, or of a run that is made.

    A finished run has them if it has the Setup's methods and metrics, perhaps among others, and the same options and
    pictures otherwise. Its pictures and its network are not needed again.

    Args:
        setup: the options.
        out: the folder; None for a run that is not kept.

    Raises:
        ValueError, OSError, RuntimeError: as `experiment.run`.
    """
    kept = None if out is None else _serving(setup, Path(out))
    return kept or run(setup, out=out)


def _serving(setup: Setup, out: Path) -> store.Run | None:
    """The finished run in a folder, with the Setup's methods only, if it serves the Setup."""
    made = store.load_finished(out)
    if made is None:
        return None
    options = made.info["options"]
    name = setup.classifier if isinstance(setup.classifier, str) else getattr(setup.classifier, "name", None)
    asked = (name, setup.limit, setup.seed, setup.protocol, setup.dataset.partition(":")[0])
    held = (options["classifier"], options["limit"], options["seed"], LabProtocol(**options["protocol"]))
    if asked != (*held, made.info["images"].partition(":")[0]):
        return None
    if not (set(setup.methods) <= set(options["methods"]) and set(setup.metrics) <= set(options["metrics"])):
        return None
    rows = made.records
    return replace(made, records=rows[rows["method"].isin(setup.methods)].reset_index(drop=True))


def studied(folder: str | Path) -> dict[str, store.Run]:
    """Return the finished runs of the protocol study: option -> run, such as "relu=False".

    `default` is the first one: the same methods on the same pictures without an option, from the part `ilsvrc2012`. It
    is empty if the study was not run.
    """
    folder = Path(folder)
    found = {}
    for path in sorted((folder / "options").glob("*/run.json")):
        if made := store.load_finished(path.parent):
            found["=".join(path.parent.name.rsplit("_", 1))] = made
    if not found:
        return {}
    usual = store.load(folder / "ilsvrc2012")
    every = set.union(*(set(made.records["image"]) for made in found.values()))
    rows = usual.records[usual.records["image"].isin(every)]
    return {"default": replace(usual, records=rows.reset_index(drop=True)), **found}


TABLES = {"table 1": "ilsvrc2012", "table 2": "voc2007", "table 3": "ilsvrc2012", "table 4": "ablation"}


def write_report(out: Path) -> Path:
    """Write report.md: the paper's tables beside ours, and the claims with what decides them. Return its path."""
    text = ["# The paper's experiment"]
    for table, name in TABLES.items():
        made = store.load_finished(out / name)
        text.append(f"## {table.capitalize()}")
        if made is None:
            text.append("Not run.")
            continue
        if table == "table 4":
            shown = tables.beside_paper(tables.summary(made.records, list(tables.published(table))), table)
        else:
            shown = tables.in_the_papers_layout(made.records, table)
        text.append(shown.rename_axis(["quantity", "row"]).reset_index().to_markdown(index=False))
    text += ["## Claims", findings.on_paper(out).to_markdown(index=False)]
    path = out / "report.md"
    store.write(path, "\n\n".join([*text, ""]).encode())
    return path


def notebook_values(
    imagenet: str | Path | None, voc: str | Path | None, out: Path, limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return the notebooks that the finished runs in a folder serve: number -> values of its parameters."""
    out = out.resolve()
    values: dict[str, dict[str, Any]] = {}
    usual = {"scale": "paper"} | ({"limit": limit} if limit else {})
    for number, name in (("07", "ilsvrc2012"), ("08", "voc2007"), ("09", "ilsvrc2012"), ("10", "ablation")):
        values[number] = usual | {"folder": voc if number == "08" else imagenet, "out": out / name}
    values["12"] = values["07"]
    held = {number: given for number, given in values.items() if store.load_finished(given["out"])}
    if imagenet:
        few = {"count": min(4, limit), "scenes": min(12, limit)} if limit else {}
        held["11"] = few | {"images": f"ilsvrc2012:{imagenet}", "model": "vgg16"}
    held["17"] = {"out": out}
    return {number: held[number] for number in NOTEBOOKS if number in held}


def render(
    imagenet: str | Path | None, voc: str | Path | None, out: Path, limit: int | None = None
) -> list[headless.Executed]:
    """Render the notebooks from the finished runs in a folder, into its folder `notebooks`."""
    values = notebook_values(imagenet, voc, out, limit)
    given = {number: {name: str(value) for name, value in own.items()} for number, own in values.items()}
    notebooks = headless.find(list(values))
    return headless.execute(notebooks, out / "notebooks", out / "figures", lambda path: given[path.name[:2]])
