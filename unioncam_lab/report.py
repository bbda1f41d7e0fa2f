"""The report of a run as one web page: options, tables, curves, and the images with the best and the worst drop."""

import base64
import io
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from unioncam_lab import figures, tables
from unioncam_lab.classifiers import LabProtocol
from unioncam_lab.experiment import Laboratory, Setup, explain
from unioncam_lab.images import Picture
from unioncam_lab.methods import find_title
from unioncam_lab.store import Run, load

SHOWN_METHODS = 6


def write_report(out: str | Path, classifier: nn.Module | None = None, count: int = 3, images: str = "") -> Path:
    """Write report.html into the folder of a run, which need not be finished.

    The gallery shows the images with the smallest and the largest drop of the main method: UnionCAM, or the first
    method if the run has no UnionCAM. These images are explained again in single precision.

    Args:
        out: folder of the run.
        classifier: the run's classifier, as in `experiment.Setup`, which is not changed; by default the run's own is
            loaded by its name. A network that was given to the run as an object has none.
        count: number of images with the best drop, and of images with the worst drop.
        images: name of the dataset; by default the run's own.

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError, ValueError: the folder holds no run, the run has no records, or the pictures do not exist.
    """
    run = load(out)
    if run.records.empty:
        raise ValueError(f"The run in {out} has no records yet.")
    records, methods = run.records, list(run.records["method"].drop_duplicates())
    main = "union_cam" if "union_cam" in methods else methods[0]
    means = tables.wide(tables.summary(records))
    sections = {"Means with 95 % intervals": means.rename_axis(None)}
    if len(methods) > 1:
        for quantity in tables.measured(records):
            title = f"{tables.QUANTITIES[quantity].title}: {find_title(main)} minus the others, percentage points"
            sections[title] = _paired(records, quantity, main)
    plots = _curves(records, methods) | _gallery(run, main, methods, classifier, count, images)
    template = jinja2.Template(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"), autoescape=True)
    with pd.option_context("display.max_colwidth", None):
        htmls = {title: table.to_html(border=0) for title, table in sections.items()}
    page = template.render(run=run, n=records["image"].nunique(), tables=htmls, plots=plots)
    path = Path(out) / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _paired(records: pd.DataFrame, quantity: str, main: str) -> pd.DataFrame:
    pairs = tables.paired(records, quantity, main)
    return pd.DataFrame(
        {
            "difference": [f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in pairs.itertuples()],
            "p, Holm": pairs["p_holm"].map("{:.4f}".format),
            "N": pairs["n"],
        }
    ).set_index(pairs["other"].map(find_title).rename(None))


def _curves(records: pd.DataFrame, methods: list[str]) -> dict[str, str]:
    """Draw the mean curves of the first SHOWN_METHODS methods: title -> picture."""
    if not {"insertion_curve", "deletion_curve"} <= set(records.columns):
        return {}
    means = tables.mean_curves(records)
    shown = methods[:SHOWN_METHODS]
    figure = figures.curves(*({method: means[kind][method] for method in shown} for kind in ("insertion", "deletion")))
    return {"Insertion and deletion, mean curves": _png(figure)}


def _gallery(
    run: Run, main: str, methods: list[str], classifier: nn.Module | None, count: int, images: str
) -> dict[str, str]:
    """Draw the images with the smallest and with the largest drop of the main method: title -> picture."""
    options, kept = run.info["options"], run.records[run.records["method"] == main]
    if "drop" not in kept:
        return {}
    setup = Setup(
        images or run.info["images"],
        options["classifier"] if classifier is None else classifier,
        methods[:SHOWN_METHODS],
        protocol=LabProtocol(**options["protocol"]),
    )
    available = {picture.id: picture for picture in setup.chosen()}
    order = kept.sort_values("drop", kind="stable")["image"]
    ends = {"kept best": order.head(count), "kept worst": order.iloc[count:].tail(count)[::-1]}
    with setup.open() as laboratory:
        return {
            f"Images that {find_title(main)} {title}": _png(_rows([available[i] for i in chosen], run, laboratory))
            for title, chosen in ends.items()
            if len(chosen)
        }


@figures.styled()
def _rows(chosen: list[Picture], run: Run, laboratory: Laboratory) -> Figure:
    """Draw a row for each picture: the picture, and the map of each method over it."""
    methods = laboratory.setup.methods
    size = 2.1 * (1 + len(methods)), 2.4 * len(chosen)
    figure, axes = plt.subplots(len(chosen), 1 + len(methods), figsize=size, squeeze=False)
    for line, picture in zip(axes, chosen, strict=True):
        rows = run.records[run.records["image"] == picture.id].set_index("method")
        explained = explain(laboratory, picture, int(rows["target"].iloc[0]))
        image = explained.evidence.image
        figures.draw(line[0], image, f"{rows['class'].iloc[0]}: {explained.evidence.probability:.2f}")
        for axis, method, explanation in zip(line[1:], methods, explained.explanations, strict=True):
            title = f"{find_title(method)}\ndrop {rows['drop'][method]:.0f} %"
            figures.draw(axis, figures.overlay(image, explanation.cam), title)
    return figure


@figures.styled()
def _png(figure: Figure) -> str:
    """Return a figure as a PNG in base64, for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
