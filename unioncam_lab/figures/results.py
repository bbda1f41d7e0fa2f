"""Charts that compare methods by their measured values: means, differences, ranks, shares and times."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from unioncam_lab import tables
from unioncam_lab.figures.style import COLOURS, HALO, method_colour, styled
from unioncam_lab.methods import CONTROLS, find_title
from unioncam_lab.metrics import FAITHFULNESS
from unioncam_lab.store import Run
from unioncam_lab.tables import QUANTITIES, interval

NETWORKS = {"efficientnet_lite0": "EfficientNet-Lite0", "vgg16": "VGG16"}  # names of networks in titles


@styled()
def scoreboard(records: DataFrame) -> Figure:
    """Draw the mean of each metric for each method as a bar, in a panel for each metric. A dot is one photo.

    Args:
        records: a row for each photo and method: `method`, and columns of metrics.FAITHFULNESS.
    """
    measured = [metric for metric in FAITHFULNESS if metric in records]
    methods = list(dict.fromkeys(records.method))
    size = 3.1 * len(measured), 1.1 + 0.36 * len(methods)
    figure, panels = plt.subplots(1, len(measured), figsize=size, sharey=True)
    titles, colours = [find_title(m) for m in methods], [method_colour(m) for m in methods]
    for axes, metric in zip(np.atleast_1d(panels), measured, strict=True):
        quantity = QUANTITIES[metric]
        values = quantity.of(records)
        averages = values.groupby(records.method).mean()[methods]
        axes.barh(titles, averages, color=colours, height=0.65, alpha=0.75)
        if metric != "increase":  # each photo has 0 or 100
            rows = [methods.index(method) for method in records.method]
            axes.plot(values, rows, ".", color="black", markersize=4)
        axes.set_title(quantity.title)
        axes.set(xlabel=_percent(metric), xlim=(0, None))
    np.atleast_1d(panels)[0].invert_yaxis()
    n = int(records.groupby("method").size().max())
    figure.suptitle(f"Means of {n} photo{'s' * (n > 1)}; a dot is one photo", fontsize=11)
    return figure


@styled()
def beside_paper(run: Run, table: str) -> Figure:
    """Draw a run's means with their intervals and the paper's numbers as diamonds, in a panel for each quantity.

    A variant of a method has the published number of the method. A control has none, and stands below the others.

    Args:
        run: a run of the table's methods, and of variants of them or of controls.
        table: "table 1" to "table 3".
    """
    published, held = tables.published(table), list(dict.fromkeys(run.records["method"]))
    methods = [method for method in held if method not in CONTROLS]
    order = [*COLOURS, *(method.partition(":")[0] for method in methods)]
    methods.sort(key=lambda method: order.index(method.partition(":")[0]))
    methods += [method for method in held if method in CONTROLS]
    found = tables.summary(run.records, list(published))
    size = 4.2 * len(published), 1.9 + 0.36 * len(methods)
    figure, panels = plt.subplots(1, len(published), figsize=size, sharey=True, squeeze=False)
    mark = {"marker": "D", "color": "white", "mec": "black", "mew": 1.1, "markersize": 7, "linestyle": ""}
    for axes, (quantity, theirs) in zip(panels[0], published.items(), strict=True):
        rows = found[found["quantity"] == quantity].set_index("method").loc[methods]
        axes.plot([theirs.get(m.partition(":")[0], np.nan) for m in methods], range(len(methods)), **mark)
        _dots(axes, rows)
        axes.set_title(QUANTITIES[quantity].title)
        axes.set(xlabel=_percent(quantity))
        axes.set_xlim(left=min(0, rows["low"].min(), rows["mean"].min()))
        axes.grid(axis="x", alpha=0.4)
        axes.margins(y=0.1)
    panels[0, 0].set_yticks(range(len(methods)), [find_title(method) for method in methods])
    panels[0, 0].invert_yaxis()
    line = {"marker": "o", "color": COLOURS["neutral"], "linewidth": 3}
    handles = [
        mpl.lines.Line2D([], [], label="ours, mean and 95 % interval", **line),
        mpl.lines.Line2D([], [], label="published, of another network and other pictures", **mark),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    network, n = run.info["options"]["classifier"], run.records["image"].nunique()
    few = "; too few for an order" if n < 30 else ""
    title = f"The quantities of {table.capitalize()} on N = {n} pictures, {NETWORKS.get(network, network)}{few}"
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def differences(found: dict[str, DataFrame], title: str) -> Figure:
    """Draw differences of means with their intervals, in a panel for each entry. A clear difference has a filled dot.

    A difference is clear if the column `clear` says so. Without that column, it is clear if its interval excludes 0.

    Args:
        found: label of the axis -> rows with `other`, `difference`, `low` and `high`, as `tables.paired` gives them.
            A column `label` replaces the title of the other method beside each row.
        title: of the figure.
    """
    rows = max(len(pairs) for pairs in found.values())
    size = min(4.2 * len(found), 13), 1.75 + 0.34 * rows
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    tested = all("clear" in pairs for pairs in found.values())
    for axes, (label, pairs) in zip(panels[0], found.items(), strict=True):
        for y, row in enumerate(pairs.itertuples()):
            colour = method_colour(row.other)
            clear = row.clear if tested else row.low > 0 or row.high < 0
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=3, alpha=0.5)
            axes.plot(row.difference, y, "o", color=colour, mfc=colour if clear else "white", markersize=8)
        axes.axvline(0, color=COLOURS["neutral"], linewidth=0.8)
        axes.set(xlabel=label)
        axes.set_yticks(range(len(pairs)), pairs["label"] if "label" in pairs else pairs["other"].map(find_title))
        axes.grid(axis="x", alpha=0.4)
        axes.set_ylim(rows - 0.4, -0.6)
    rule = f"clear: Holm-corrected p < {tables.LEVEL:g}" if tested else "95 % interval without 0"
    handles = [
        mpl.lines.Line2D([], [], marker="o", color=COLOURS["neutral"], mfc=colour, linewidth=3, label=label)
        for colour, label in ((COLOURS["neutral"], rule), ("white", "not so"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def ranks(table: str, records: Sequence[DataFrame], quantity: str, where: str) -> Figure:
    """Draw the order of a table's methods in the paper and in our records, in a panel for each quantity.

    Each table is a column with the best method on top, and a line follows each method from table to table. The mark of
    a method that is not clearly different from UnionCAM is hollow. All columns that are not ours are published numbers:
    their marks are squares, because their differences cannot be tested.

    Args:
        table: "table 1" to "table 3".
        records: records of the table's methods. Each choice of region maps has the first records that hold it.
        quantity: the quantity for which the title says how UnionCAM stands under each choice of region maps.
        where: network and pictures, for the title.
    """
    found, tested = _orders(table, records)
    columns = max(len(named) for named in found.values())
    figure, panels = plt.subplots(len(found), 1, figsize=(1.75 * columns + 1.9, 2.5 * len(found) + 1.1), squeeze=False)
    for axes, (shown, named) in zip(panels[:, 0], found.items(), strict=True):
        ascending, alike = QUANTITIES[shown].better == "lower", tested[shown]
        methods = list(next(iter(named.values())))
        orders = [pd.Series(numbers)[methods].rank(ascending=ascending, method="first") for numbers in named.values()]
        for method in methods:
            colour, y = method_colour(method), [order[method] for order in orders]
            axes.plot(range(len(y)), y, color=colour, linewidth=3 if method == "union_cam" else 1.5, alpha=0.6)
            for x, (name, numbers) in enumerate(named.items()):
                look = {"mfc": "white" if method in alike.get(name, ()) else colour, "mew": 2}
                axes.plot(x, y[x], "o" if name in alike else "s", color=colour, markersize=11, **look)
                text = f"{numbers[method]:.1f}" if name in alike else f"{numbers[method]:g}"
                axes.text(x + 0.1, y[x] - 0.28, text, fontsize=9, va="center", path_effects=[HALO])
            for x, side, edge in ((0, "right", -0.13), (len(y) - 1, "left", len(y) - 0.62)):
                axes.text(edge, y[x], find_title(method), ha=side, va="center", color=colour, weight="bold", fontsize=9)
        axes.set(xlim=(-0.1, columns - 0.75), ylim=(len(methods) + 0.5, 0.4), yticks=[])
        axes.set_xticks(range(len(named)), list(named), fontsize=9)
        axes.set_title(f"{QUANTITIES[shown].heading}, the best on top", loc="left", fontsize=10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    stand: dict[str, list[str]] = {}
    for column, alike in tested[quantity].items():
        word = _stand(found[quantity][column], alike, QUANTITIES[quantity].better)
        stand.setdefault(word, []).append(column.splitlines()[1])
    parts = [f"{word} with {' and '.join(choices)}" for word, choices in stand.items()]
    if len(stand) == 1 < len(tested[quantity]):
        parts = [f"{word}\nunder each choice of region maps" for word in stand]
    title = f"{QUANTITIES[quantity].title}: UnionCAM is " + ",\n".join(parts)
    figure.suptitle(f"{title}\n({where})", fontsize=11)
    note = f"squares: published; hollow: not clearly different from UnionCAM (Holm-corrected p ≥ {tables.LEVEL:g});"
    note += ("\n" if columns < 4 else " ") + "the order of equal numbers means nothing"
    figure.supxlabel(note, fontsize=9)
    return figure


def _orders(table: str, records: Sequence[DataFrame]) -> tuple[dict, dict]:
    """Return `tables.orders` of the first records, with columns for choices of region maps that only further ones have.

    The second line of our columns is the choice of region maps.
    """
    found, tested = tables.orders(records[0], table)
    choices = list(tables.region_maps(records[0], table))
    for own in records[1:]:
        for choice, methods in tables.region_maps(own, table).items():
            if choice in choices:
                continue
            choices.append(choice)
            read = tables.substituted(own, methods)
            column = f"ours, {choice}\n(N = {read['image'].nunique():,})"
            for quantity, pairs in tables.against_table(read, table).items():
                means = tables.values(read, quantity).mean()
                found[quantity][column] = means[list(tables.published(table)[quantity])].to_dict()
                tested[quantity][column] = set(pairs["other"][~pairs["clear"]])
    return tuple(
        {
            quantity: {name.replace("ours, ", "ours,\n"): entry for name, entry in named.items()}
            for quantity, named in each.items()
        }
        for each in (found, tested)
    )


def _stand(numbers: dict[str, float], alike: set[str], better: str) -> str:
    """Return how UnionCAM stands, by the rule of `tables.standing`."""
    sign = -1 if better == "lower" else 1
    clear = [sign * (numbers["union_cam"] - n) > 0 for m, n in numbers.items() if m not in {"union_cam", *alike}]
    if len(clear) == len(numbers) - 1 and all(clear):
        return "clearly best"
    return "not distinguishable from the best" if all(clear) else "clearly beaten"


@styled()
def against_diagonal(found: dict[str, tuple[DataFrame, str, str]], title: str) -> Figure:
    """Plot the masked probability of one method against that of another: a dot per picture, a panel for each pair.

    Args:
        found: title of the panel -> (records with `image`, `method` and `masked_probability` in [0, 1], method on the
            y axis, method on the x axis). A picture counts as below the diagonal if it is more than 0.001 percentage
            points below it.
        title: of the figure.
    """
    figure, panels = plt.subplots(
        1, len(found), figsize=(3.9 * len(found), 4.5), sharey=True, squeeze=False, layout="compressed"
    )
    for axes, (label, (records, method, other)) in zip(panels[0], found.items(), strict=True):
        left = 100 * records.pivot(index="image", columns="method", values="masked_probability")[[method, other]]
        below = left[method] < left[other] - 1e-3
        for rows, colour, mark, alpha in (
            (left[~below], COLOURS["neutral"], "o", 0.45),
            (left[below], "black", "v", 0.8),
        ):
            axes.plot(rows[other], rows[method], mark, color=colour, markersize=4, alpha=alpha, mew=0)
        axes.plot([0, 100], [0, 100], color="black", linewidth=0.8)
        axes.text(97, 4, f"below: {below.sum()}", ha="right", weight="bold")
        axes.text(3, 94, f"on or above: {(~below).sum()}", color=COLOURS["neutral"], weight="bold")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.set(
            xlabel=f"{find_title(other)}: probability left, %", ylabel=f"{find_title(method)}: probability left, %"
        )
        axes.set_title(label, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def by_picture(found: dict[str, Sequence[float]], label: str, title: str) -> Figure:
    """Draw a difference for each picture, from the smallest to the largest, in a panel for each entry.

    A line is the mean, and a band is its 95 % interval. The title of a panel says on how many pictures the difference
    is below or above 0; less than 0.01 counts as none.

    Args:
        found: title of the panel -> a difference for each picture.
        label: of the axis of the differences.
        title: of the figure.
    """
    size = max(5.6, min(4.2 * len(found), 13)), 4.2
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axes, (name, differences) in zip(panels[0], found.items(), strict=True):
        values = np.sort(np.asarray(differences, dtype=float))
        (low, high), below, above = interval(values), int((values < -0.01).sum()), int((values > 0.01).sum())
        axes.axhline(0, color=COLOURS["neutral"], linewidth=0.8)
        axes.axhspan(low, high, color=COLOURS["neutral"], alpha=0.25, linewidth=0)
        axes.axhline(values.mean(), color=COLOURS["neutral"], linewidth=2, label="mean, with its 95 % interval")
        axes.plot(np.arange(1, len(values) + 1), values, ".", color="black", markersize=5, label="one picture")
        mean = f"mean {values.mean():+.2f} [{low:+.2f}, {high:+.2f}] points".replace("-", "−")
        counts = f"below 0: {below}, none: {len(values) - below - above}, above 0: {above}"
        axes.set_title(f"{name}, N = {len(values)}\n{mean}\n{counts}", fontsize=10)
        axes.set(xlabel="pictures, sorted")
        axes.grid(axis="y", alpha=0.4)
    panels[0, 0].set_ylabel(label)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def means(found: DataFrame, title: str, firsts: DataFrame | None = None) -> Figure:
    """Draw means with their 95 % intervals, in a panel for each quantity. Controls stand below a dotted line.

    Args:
        found: as `tables.summary` gives it.
        title: of the figure.
        firsts: as `tables.firsts` returns it for these quantities. If it is given, the title of a panel says whether a
            method is clearly first.
    """
    quantities, methods = (list(dict.fromkeys(found[name])) for name in ("quantity", "method"))
    methods = sorted(methods, key=lambda method: method in CONTROLS)
    size = 2.8 * len(quantities), 1.5 + 0.27 * len(methods)
    figure, panels = plt.subplots(1, len(quantities), figsize=size, sharey=True, squeeze=False)
    for axes, quantity in zip(panels[0], quantities, strict=True):
        rows = found[found["quantity"] == quantity].set_index("method").loc[methods]
        _dots(axes, rows)
        heading = QUANTITIES[quantity].title
        if firsts is not None:
            first = firsts.loc[QUANTITIES[quantity].heading]
            alone = first["not clearly worse"] == "none"
            heading += f"\n{first['best mean']} is clearly first" if alone else "\nno method is clearly first"
        axes.set_title(heading, fontsize=10)
        axes.set(xlabel=f"{_percent(quantity)}, N = {rows['n'].max():,}")
        axes.set_xlim(left=min(0, rows["low"].min()))
        axes.grid(axis="x", alpha=0.4)
        axes.margins(y=0.06)
        controls = sum(method in CONTROLS for method in methods)
        if 0 < controls < len(methods):
            axes.axhline(len(methods) - controls - 0.5, color=COLOURS["neutral"], linewidth=0.8, linestyle=":")
    panels[0, 0].set_yticks(range(len(methods)), [find_title(method) for method in methods])
    panels[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def scorecard(card: DataFrame, title: str) -> Figure:
    """Draw a table of methods × criteria, in groups. Better means are darker, and those among the best are bold.

    The heading of a column shows which direction is better, and N. Columns in seconds are blue, the others green. There
    is a gap above the controls. A dot shows that nothing was measured. A method without any measurement is not shown.

    Args:
        card: as `tables.scorecard` gives it.
        title: of the figure.
    """
    columns = list(dict.fromkeys(zip(card["group"], card["label"], strict=True)))
    methods = list(dict.fromkeys(card.loc[card["mean"].notna(), "method"]))
    controls = set(card.loc[card["control"], "method"])
    top = {method: y + 0.25 * (method in controls) for y, method in enumerate(methods)}
    figure, axes = plt.subplots(figsize=(1.18 * len(columns) + 2.1, 0.36 * len(methods) + 2.2))
    for x, (group, label) in enumerate(columns):
        rows = card[(card["group"] == group) & (card["label"] == label)].set_index("method").loc[methods]
        lower, unit = rows["better"].iloc[0] == "lower", rows["unit"].iloc[0]
        value = np.log(rows["mean"]) if unit == "s" else rows["mean"]
        value = -value if lower else value
        grade = (value - value.min()) / ((value.max() - value.min()) or 1)
        shades = mpl.colormaps["Greens" if unit == "%" else "Blues"]
        for method, row in rows.iterrows():
            y, missing = top[method], np.isnan(row["mean"])
            colour = "#f4f4f4" if missing else shades(0.08 + 0.6 * grade[method])
            axes.add_patch(mpl.patches.Rectangle((x, y), 0.96, 0.92, color=colour))
            number = f"{row['mean']:.1f}" if unit == "%" else f"{row['mean']:.2g} {unit}"
            text = "·" if missing else number.replace("-", "\N{MINUS SIGN}")
            weight = "bold" if row["among the best"] else "normal"
            axes.text(x + 0.48, y + 0.46, text, ha="center", va="center", weight=weight, fontsize=9)
        heading = f"{label}, {unit}\n{'↓' if lower else '↑'} is better\nN = {rows['n'].max():,}"
        axes.text(x + 0.48, -0.12, heading, ha="center", va="bottom", fontsize=9, linespacing=1.25)
    for group in dict.fromkeys(card["group"]):
        places = [x for x, column in enumerate(columns) if column[0] == group]
        middle = (places[0] + places[-1] + 0.96) / 2
        axes.plot([places[0] + 0.03, places[-1] + 0.93], [-1.92, -1.92], color=COLOURS["neutral"], clip_on=False)
        axes.text(middle, -2.0, group, ha="center", va="bottom", weight="bold", fontsize=10)
    axes.set(xlim=(0, len(columns)), ylim=(max(top.values()) + 1, -2.6), xticks=[])
    axes.set_yticks([y + 0.46 for y in top.values()], [find_title(method) for method in methods], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=12)
    return figure


@styled()
def options(found: dict[str, DataFrame], published: dict[str, dict[str, float]], title: str) -> Figure:
    """Draw the means of methods under each option of the protocol, below the published means: a panel per quantity.

    Args:
        found: quantity -> means as `tables.option_orders` gives them: a row for each option, a column for each method.
        published: quantity -> method -> percent, as `tables.published` gives it.
        title: of the figure.
    """
    names = list(next(iter(found.values())).index)
    size = 1.5 + 4.6 * len(found), 1.9 + 0.36 * len(names)
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axes, (quantity, rows) in zip(panels[0], found.items(), strict=True):
        for method, number in published[quantity].items():
            axes.plot(number, 0, "D", color=method_colour(method), markersize=7)
            axes.plot(
                rows[method], range(1, len(names) + 1), "o", color=method_colour(method), markersize=7, alpha=0.85
            )
        for place, name in enumerate(names, 1):
            ends = rows.loc[name, list(published[quantity])]
            axes.plot([ends.min(), ends.max()], [place, place], color=COLOURS["neutral"], linewidth=0.8, zorder=0)
        axes.axhline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        axes.set(xlabel=f"{QUANTITIES[quantity].title}, %\n({QUANTITIES[quantity].better} is better)")
        axes.grid(axis="x", alpha=0.4)
    panels[0, 0].set_yticks(range(len(names) + 1), ["published (VGG16)", *names])
    panels[0, 0].invert_yaxis()
    methods = next(iter(published.values()))
    handles = [
        mpl.lines.Line2D([], [], marker="o", linestyle="", color=method_colour(m), label=find_title(m)) for m in methods
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure


@styled()
def masses(shares: DataFrame, title: str) -> Figure:
    """Draw a bar for each map: the shares of its mass on the right object, the other object and the background.

    Args:
        shares: a row for each bar, with its label as the index, and the columns `colour` (a name in COLOURS, or any
            colour of Matplotlib), `right` and `other`, both in percent.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(8.5, 1.3 + 0.42 * len(shares)))
    colours, pale = [COLOURS.get(name, name) for name in shares["colour"]], "#e6e6e6"
    parts = (
        ("right object", shares["right"], colours, COLOURS["neutral"], {}),
        ("other object", shares["other"], colours, COLOURS["neutral"], {"alpha": 0.5, "hatch": "////"}),
        ("background", 100 - shares["right"] - shares["other"], pale, pale, {}),
    )
    left, keys = np.zeros(len(shares)), []
    for name, widths, colour, key, look in parts:
        bars = axes.barh(shares.index, widths, left=left, height=0.7, color=colour, edgecolor="white", **look)
        texts = axes.bar_label(bars, [f"{width:.0f} %" for width in widths], label_type="center", fontsize=9)
        for text, bar in zip(texts, bars, strict=True):
            dark = np.dot(mpl.colors.to_rgb(bar.get_facecolor()), (0.3, 0.59, 0.11)) < 0.4 and not look
            text.set(color="white" if dark else "black", path_effects=[HALO] if look else [])
        keys.append(mpl.patches.Patch(facecolor=key, edgecolor="white", label=name, **look))
        left = left + widths.to_numpy()
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    axes.invert_yaxis()
    axes.set(xlabel="share of the map's mass, %", xlim=(0, 100))
    figure.suptitle(title, fontsize=11)
    return figure


@styled()
def spread(values: dict[str, tuple[str, Sequence[float]]], axis: str, title: str) -> Figure:
    """Draw the value of each picture as a dot, and the mean with its bootstrap 95 % interval: a row per method.

    Thin grey lines join the dots of one picture and show in which pictures the methods differ.

    Args:
        values: label -> (name of a colour, a value for each picture).
        axis: label of the axis.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(8.5, 1.2 + 0.55 * len(values)))
    axes.plot([sample for _, sample in values.values()], range(len(values)), color="#cccccc", linewidth=0.7, zorder=0)
    for y, (colour, sample) in enumerate(values.values()):
        sample = np.asarray(sample, dtype=float)
        axes.plot(sample, np.full(len(sample), y), ".", color=COLOURS[colour], alpha=0.45, markersize=9)
        axes.plot(interval(sample), [y, y], color=COLOURS[colour], linewidth=3)
        axes.plot(sample.mean(), y, "D", color=COLOURS[colour], mec="black", markersize=7)
    axes.set_yticks(range(len(values)), list(values))
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set(xlabel=f"{axis}\n(dots joined by a line: one picture; diamond: mean, with its 95 % interval)")
    figure.suptitle(title, fontsize=11)
    axes.grid(axis="x", alpha=0.4)
    return figure


@styled()
def cost(costs: DataFrame) -> Figure:
    """Draw the seconds of each method as bars. The title says how many times as long a library's Score-CAM takes.

    A hatched bar is a method that the project's engine does not run.

    Args:
        costs: as `bench.compare` gives it: `method`, `seconds` and `classifier`.
    """
    costs = costs.sort_values("seconds", ascending=False)
    slowest = costs.seconds.iloc[0]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.5 * len(costs)))
    colours = [COLOURS["union_cam" if method.startswith("UnionCAM") else "score_cam"] for method in costs.method]
    bars = axes.barh(costs.method, costs.seconds, color=colours, edgecolor="white")
    for bar, method in zip(bars, costs.method, strict=True):
        bar.set_hatch("" if method in ("UnionCAM", "Score-CAM") else "//")
    axes.bar_label(bars, [f"{seconds:.3g} s" for seconds in costs.seconds], padding=4)
    axes.set(xlabel="seconds for one explanation", xlim=(0, 1.1 * slowest))
    own = costs.loc[costs.method == "Score-CAM", "seconds"].min()
    others = costs[costs.method.str.startswith("Score-CAM of ")]
    times = [f"{row.seconds / own:.0f} times as long in {row.method.split(' of ')[1]}" for row in others.itertuples()]
    where = f"{costs.classifier.iloc[0]}, one photo"
    figure.suptitle(f"Score-CAM: {', '.join(times)} ({where})" if times else where, fontsize=11)
    return figure


@styled()
def parts(counts: DataFrame, colours: Sequence[str], axis: str, title: str) -> Figure:
    """Draw a stacked bar for each row, with a part for each column. Parts that are wide enough have their value.

    The sum stands beside each bar, unless all sums are equal, as of shares.

    Args:
        counts: values of 0 or more.
        colours: of the columns, each a name in COLOURS or any colour of Matplotlib.
        axis: label of the axis.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(9.5, 1.5 + 0.55 * len(counts)))
    left, widest = np.zeros(len(counts)), counts.sum(axis=1).max()
    for (name, values), colour in zip(counts.items(), colours, strict=True):
        colour = COLOURS.get(colour, colour)
        bars = axes.barh(counts.index, values, left=left, color=colour, edgecolor="white", height=0.65, label=name)
        dark = np.dot(mpl.colors.to_rgb(colour), (0.3, 0.59, 0.11)) < 0.5
        numbers = [f"{value:.0f}" if value > 0.04 * widest else "" for value in values]
        axes.bar_label(bars, numbers, label_type="center", color="white" if dark else "black")
        left = left + values.to_numpy()
    for y, total in enumerate([] if np.allclose(left, widest) else left):
        axes.text(total + 0.01 * widest, y, f"{total:.0f}", va="center", weight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    axes.invert_yaxis()
    axes.set(xlabel=axis, xlim=(0, 1.08 * widest))
    figure.suptitle(title, fontsize=11)
    return figure


SPANS = {"minute": 1 / 60, "hour": 1.0, "day": 24.0, "week": 168.0, "month": 730.5, "year": 8766.0}  # in hours


@styled()
def durations(estimates: DataFrame, title: str) -> Figure:
    """Draw how long each machine computes, on a logarithmic axis, in a panel for each number of pictures.

    A dot is an estimate, and its line goes from the lowest to the highest one. A dot is filled if the machine's rate
    was measured, and empty if it is assumed.

    Args:
        estimates: `pictures`, `machine`, `hours`, `low` and `high` (hours, too), `measured` (bool), and `dollars`, the
            price of the hours; NaN if there is none.
        title: of the figure.
    """
    counts = estimates["pictures"].unique()
    machines = list(dict.fromkeys(estimates["machine"]))
    size = 4 + 4.2 * len(counts), 1.9 + 0.5 * len(machines)
    figure, panels = plt.subplots(1, len(counts), figsize=size, sharey=True, squeeze=False)
    low, high = 0.4 * estimates["low"].min(), 3 * estimates["high"].max()
    ticks = {name: hours for name, hours in SPANS.items() if low < hours < high and name != "week"}  # too near a month
    colour = COLOURS["neutral"]
    for axes, count in zip(panels[0], counts, strict=True):
        for row in estimates[estimates["pictures"] == count].itertuples():
            y = machines.index(row.machine)
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=4, alpha=0.35, solid_capstyle="round")
            axes.plot(row.hours, y, "o", color=colour, mfc=colour if row.measured else "white", mew=2, markersize=9)
            price = "" if np.isnan(row.dollars) else f", ${row.dollars:,.0f}"
            above = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            axes.annotate(duration(row.hours) + price, (row.hours, y), **above)
        axes.set(title=f"{count:,} pictures", xscale="log", xlim=(low, high), ylim=(len(machines) - 0.5, -0.7))
        axes.set_xticks(list(ticks.values()), [f"1 {name}" for name in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(axis="x", alpha=0.4)
    panels[0, 0].set_yticks(range(len(machines)), machines)
    look = {"color": "none", "mec": colour, "mew": 2, "marker": "o", "markersize": 9}
    keys = [mpl.lines.Line2D([], [], mfc=face, **look) for face in (colour, "white")]
    figure.legend(keys, ["measured rate", "assumed rate"], loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=11)
    return figure


def duration(hours: float) -> str:
    """Return a time in words, in the largest unit of which it has at least one: "2.5 days".

    >>> duration(1.5), duration(60)
    ('1.5 hours', '2.5 days')
    """
    name = next((name for name in reversed(SPANS) if SPANS[name] <= hours), "minute")
    count = f"{hours / SPANS[name]:.2g}"
    return f"{count} {name}" + ("" if count == "1" else "s")


def _dots(axes: Axes, rows: DataFrame):
    """Draw a mean with its interval for each method, from the top, in the methods' colours."""
    for place, (method, row) in enumerate(rows.iterrows()):
        axes.plot([row["low"], row["high"]], [place, place], color=method_colour(method), linewidth=3, alpha=0.5)
        axes.plot(row["mean"], place, "o", color=method_colour(method), markersize=8, clip_on=False, zorder=3)


def _percent(quantity: str) -> str:
    """Return the label of an axis: its unit, and the side of the better methods."""
    return "%, ← better" if QUANTITIES[quantity].better == "lower" else "%, better →"
