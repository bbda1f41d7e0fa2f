"""A run as one web page: what was computed on what, the tables, the curves, and the images at both ends."""

import base64
import io
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from unioncam_core import capture
from unioncam_lab import figures, tables
from unioncam_lab.classifiers import LabProtocol, load_classifier
from unioncam_lab.datasets import pictures
from unioncam_lab.experiment import Run, load
from unioncam_lab.methods import find_method, find_title

SHOWN_METHODS = 6


def write_report(out: str | Path, classifier: nn.Module | None = None, count: int = 3, images: str = "") -> Path:
    """Write report.html into a run's folder, finished or not.

    The gallery shows the images whose probability the run's main method (UnionCAM, or else its first) kept best and
    worst. It explains them anew.

    Args:
        out: the run's folder.
        classifier: as `load_classifier` gives it; the run's own is loaded by default.
        count: images at each end.
        images: the set of pictures; the run's own by default.

    Raises:
        FileNotFoundError, ValueError: no run there, or one without records; the pictures are gone.
    """
    run = load(out)
    if run.records.empty:
        raise ValueError(f"The run in {out} has no records yet.")
    records, methods = run.records, list(run.records["method"].drop_duplicates())
    main = "union_cam" if "union_cam" in methods else methods[0]
    found = tables.summary(records)
    sections = {"Means with bootstrap 95 % intervals": tables.wide(found).rename_axis(None)}
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
    found = tables.paired(records, quantity, main)
    return pd.DataFrame(
        {
            "difference": [f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in found.itertuples()],
            "p, Holm": found["p_holm"].map("{:.4f}".format),
            "N": found["n"],
        }
    ).set_index(found["other"].map(find_title).rename(None))


def _curves(records: pd.DataFrame, methods: list[str]) -> dict[str, str]:
    """Title -> picture: the mean curves of the first methods."""
    if not {"insertion_curve", "deletion_curve"} <= set(records.columns):
        return {}
    means = tables.mean_curves(records)
    shown = methods[:SHOWN_METHODS]
    figure = figures.curves(*({method: means[kind][method] for method in shown} for kind in ("insertion", "deletion")))
    return {"Insertion and deletion, mean curves": _png(figure)}


def _gallery(run: Run, main: str, methods: list[str], classifier, count: int, images: str) -> dict[str, str]:
    options, kept = run.info["options"], run.records[run.records["method"] == main]
    if "drop" not in kept:
        return {}
    classifier = classifier or load_classifier(options["classifier"], protocol=LabProtocol(**options["protocol"]))
    available = {picture.id: picture for picture in pictures(images or run.info["images"])}
    order = kept.sort_values("drop", kind="stable")["image"]
    ends = {"kept best": order.head(count), "kept worst": order.iloc[count:].tail(count)[::-1]}
    return {
        f"Images that {find_title(main)} {title}": _png(_rows([available[i] for i in chosen], run, classifier, methods))
        for title, chosen in ends.items()
        if len(chosen)
    }


@figures.styled()
def _rows(chosen: list, run: Run, classifier, methods: list[str]) -> Figure:
    protocol = LabProtocol(**run.info["options"]["protocol"])
    shown = [find_method(method, classifier) for method in methods[:SHOWN_METHODS]]
    size = 2.1 * (1 + len(shown)), 2.4 * len(chosen)
    figure, axes = plt.subplots(len(chosen), 1 + len(shown), figsize=size, squeeze=False)
    for line, picture in zip(axes, chosen, strict=True):
        rows = run.records[run.records["image"] == picture.id].set_index("method")
        image = picture.read(classifier.input_size, protocol.image_fit).to(next(classifier.parameters()))
        targets = [int(rows["target"].iloc[0])]
        layer = classifier.target_layer
        (evidence,) = capture(classifier, image[None], target_layer=layer, targets=targets, protocol=protocol)
        figures.draw(line[0], evidence.image, f"{rows['class'].iloc[0]}: {evidence.probability:.2f}")
        for axis, method in zip(line[1:], shown, strict=True):
            result = method.explain(evidence)
            title = f"{find_title(method.name)}\ndrop {rows['drop'][method.name]:.0f} %"
            figures.draw(axis, figures.overlay(evidence.image, result.cam), title)
    return figure


@figures.styled()
def _png(figure: Figure) -> str:
    """A figure as text for a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
