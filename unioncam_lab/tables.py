"""Records -> tables: means with intervals, paired tests, and the published numbers beside ours.

    values                 one quantity, a row an image, a column a method
    summary, wide          means with 95 % intervals
    paired                 one method against the others, image by image
    standing               whether a method is better than all others, beaten by one, or neither
    joined, alone          records of two runs as one; UnionCAM's three maps as methods of their own
    beside_paper, ranking  the paper's Tables 1-4

Every quantity is in percent. Tables are data frames: `to_markdown()`, `to_latex()` and `to_csv()` export them.

A difference is called clear where its paired test, corrected for all the tests beside it (Holm), has p < 0.01. All that
says "clear", "beyond chance" or "beaten" in this project means this rule.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from unioncam_lab.baselines import find_title

PUBLISHED = Path(__file__).parent.parent / "data" / "published.json"
TABLES = ("table 1", "table 2", "table 3", "table 4")
LIBRARY = "xplain-cam"  # what the library of a Fusion-CAM author reports, on VGG19
RESAMPLES = 9999
LEVEL = 0.01  # of significance, after Holm's correction


@dataclass(frozen=True)
class Quantity:
    """Something that a table shows.

    Attributes:
        title: as a table shows it.
        better: "lower" or "higher".
        of: records -> its value for each, in percent.
    """

    title: str
    better: str
    of: Callable[[pd.DataFrame], pd.Series]

    @property
    def heading(self) -> str:
        return f"{self.title}, % {'↓' if self.better == 'lower' else '↑'}"


def _column(name: str, title: str, better: str) -> dict[str, Quantity]:
    return {name: Quantity(title, better, lambda records: records[name])}


QUANTITIES = {
    **_column("drop", "Average drop", "lower"),
    "increase": Quantity("Average increase", "higher", lambda records: 100.0 * records["increase"]),
    "drop minus increase": Quantity("Drop − increase", "lower", lambda r: r["drop"] - 100.0 * r["increase"]),
    **_column("insertion", "Insertion", "higher"),
    **_column("deletion", "Deletion", "lower"),
    "overall": Quantity("Insertion − deletion", "higher", lambda records: records["insertion"] - records["deletion"]),
    **_column("pointing", "Pointing game", "higher"),
    **_column("energy", "Mass on the object", "higher"),
    **_column("iou", "IoU at 0.5", "higher"),
    **_column("best_iou", "Best IoU", "higher"),
    **_column("complexity", "Complexity", "lower"),
    **_column("coherency", "Coherency", "higher"),
    **_column("adcc", "ADCC", "higher"),
    **_column("stability_shift", "Stability, shift", "higher"),
    **_column("stability_flip", "Stability, flip", "higher"),
    **_column("stability_noise", "Stability, noise", "higher"),
    **_column("stability", "Stability", "higher"),
    **_column("sanity", "Left when randomized", "lower"),
    "signed sanity": Quantity(
        "Left when randomized, signed", "lower", lambda r: r["sanity_rho"].map(np.mean) if len(r) else r["sanity"]
    ),
}


def measured(records: pd.DataFrame) -> list[str]:
    """The QUANTITIES that the records' metrics give."""
    needs = {"drop minus increase": ["drop", "increase"], "overall": ["insertion", "deletion"]}
    needs["signed sanity"] = ["sanity_rho"]
    return [name for name in QUANTITIES if set(needs.get(name, [name])) <= set(records.columns)]


def values(records: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One of the QUANTITIES, in percent: a row for each image, a column for each method, ordered as the records are."""
    if quantity not in QUANTITIES:
        raise ValueError(f"There is no quantity {quantity!r}; there are {', '.join(QUANTITIES)}.")
    if quantity not in measured(records):
        raise ValueError(f"The records hold no {quantity}; they give {', '.join(measured(records)) or 'nothing'}.")
    long = pd.DataFrame(
        {"image": records["image"], "method": records["method"], "value": QUANTITIES[quantity].of(records)}
    )
    table = long.pivot(index="image", columns="method", values="value")
    return table.loc[records["image"].drop_duplicates(), records["method"].drop_duplicates()]


def interval(sample: np.ndarray) -> tuple[float, float]:
    """The bootstrap 95 % interval (percentile, 9,999 resamples) of a mean; NaN for fewer than two values."""
    if len(sample) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (np.asarray(sample, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // len(sample)),
        confidence_level=0.95,
        method="percentile",
        rng=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_interval(sample: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean in percent: exact (Clopper-Pearson) where each value is 0 or 100, else `interval`.

    A bootstrap of 0 successes in 7 would say 0 to 0; exact it is 0 to 41.
    """
    sample = np.asarray(sample, dtype=float)
    if len(sample) == 0 or not np.isin(sample, (0, 100)).all():
        return interval(sample)
    found = stats.binomtest(int((sample == 100).sum()), len(sample)).proportion_ci(0.95, "exact")
    return 100 * float(found.low), 100 * float(found.high)


def p_text(p: float) -> str:
    """A p-value as it is read. 9,999 random signs cannot give less than 0.0002, so small ones are "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def summary(records: pd.DataFrame, quantities: Sequence[str] | None = None) -> pd.DataFrame:
    """For each method and quantity: `mean`, its 95 % interval `low` to `high`, and the number of images `n`.

    The intervals are those of `mean_interval`.
    """
    rows = []
    for quantity in quantities or measured(records):
        for method, column in values(records, quantity).items():
            column = column.dropna()
            rows.append((method, quantity, column.mean(), *mean_interval(column.to_numpy()), len(column)))
    return pd.DataFrame(rows, columns=["method", "quantity", "mean", "low", "high", "n"])


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """A `summary` as it is read: a row a method, a column a quantity, "43.2 [41.0, 45.4]"; N in the corner."""
    table = found.assign(cell=_cells(found)).pivot(index="method", columns="quantity", values="cell")
    table = table.loc[found["method"].drop_duplicates(), found["quantity"].drop_duplicates()]
    table.index = [find_title(method) for method in table.index]
    table.columns = [QUANTITIES[quantity].heading for quantity in table.columns]
    table.index.name = f"N = {found['n'].max():,}"
    return table


def _cells(found: pd.DataFrame) -> list[str]:
    numbers = found[["mean", "low", "high"]].to_numpy()
    return [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in numbers]


def by_theta(records: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """The `summary` of a sweep, its methods named union_cam:theta=…:percentile_over=…, with `theta` and `reading`."""
    found = summary(records[records["method"].str.contains("percentile_over=")], quantities)
    options = [dict(option.split("=") for option in method.split(":")[1:]) for method in found["method"]]
    return found.assign(theta=[float(o["theta"]) for o in options], reading=[o["percentile_over"] for o in options])


def mean_curves(records: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """The mean curve of each method: insertion, deletion (class probability, steps + 1) or sanity (percent, networks).

    As far as the records have them: kind -> method -> values.
    """
    groups = records.groupby("method", sort=False)
    return {
        kind: {method: np.mean(np.stack(list(rows[f"{kind}_curve"])), axis=0).tolist() for method, rows in groups}
        for kind in ("insertion", "deletion", "sanity")
        if f"{kind}_curve" in records
    }


def paired(
    records: pd.DataFrame, quantity: str, method: str = "union_cam", others: Sequence[str] | None = None
) -> pd.DataFrame:
    """One method against others on the same images.

    Returns:
        A row for each other method: `difference` of the means in percentage points (method - other) with its bootstrap
        95 % interval `low` to `high`; `p` of a two-sided test; `p_holm`, corrected for the number of rows; `n` images;
        `better`: whether the method is better, by the sign alone; and `clear`: whether p_holm is below LEVEL.

    The test is the permutation test of the mean (the signs of the images' differences drawn at random, 9,999 times, or
    all of them where there are fewer). Where each value is 0 or 100 it is McNemar's exact test of the images in which
    the two methods differ.
    """
    table = values(records, quantity)
    if method not in table:
        raise ValueError(f"The records hold no {method}; they hold {', '.join(table.columns)}.")
    others = [other for other in (others or table.columns) if other != method]
    rows = []
    for other in others:
        both = table[[method, other]].dropna().to_numpy()
        difference = both[:, 0] - both[:, 1]
        test = _mcnemar if np.isin(both, (0, 100)).all() else _permutation
        rows.append((other, difference.mean(), *interval(difference), test(difference), len(difference)))
    found = pd.DataFrame(rows, columns=["other", "difference", "low", "high", "p", "n"])
    found.insert(5, "p_holm", holm(found["p"].to_numpy()))
    found["better"] = found["difference"] < 0 if QUANTITIES[quantity].better == "lower" else found["difference"] > 0
    found["clear"] = found["p_holm"] < LEVEL
    return found


def standing(pairs: pd.DataFrame) -> str:
    """From `paired`, of one method against others: "best", "not distinguishable" or "beaten".

    best: clearly better than each of them. beaten: one of them is clearly better. Otherwise the pictures cannot tell.
    """
    if (pairs["better"] & pairs["clear"]).all():
        return "best"
    return "beaten" if (~pairs["better"] & pairs["clear"]).any() else "not distinguishable"


def joined(*records: pd.DataFrame) -> pd.DataFrame:
    """The records of several runs over the same images as one; a method that several have is taken from the first.

    Raises:
        ValueError: the runs explain other images or other classes.
    """
    first = records[0].drop_duplicates("image").set_index("image")["target"].sort_index()
    parts, seen = [], set()
    for part in records:
        targets = part.drop_duplicates("image").set_index("image")["target"].sort_index()
        if not targets.equals(first):
            raise ValueError(f"The runs explain {len(first)} and {len(targets)} images; they must be the same classes.")
        parts.append(part[~part["method"].isin(seen)])
        seen |= set(part["method"])
    return pd.concat(parts, ignore_index=True)


ALONE = {
    "denoised": "Denoised map alone",
    "region": "Region map alone",
    "union": "Union alone",
    "union_cam": "UnionCAM",
}


def alone(records: pd.DataFrame, method: str = "union_cam") -> pd.DataFrame:
    """The drop and increase of UnionCAM's three maps, each as if it were the explanation, and of the selected one.

    A contribution is the map's score less the black image's, and the selected map's score is recorded, so all three
    scores follow from UnionCAM's own rows. The methods are named as in ALONE; "region" is Score-CAM with the same
    weights. For runs whose class score is the probability.
    """
    rows = records[records["method"] == method]
    chosen = rows["beta_united"].where(rows["selected"] == "united", rows["beta_region"])
    black = rows["masked_probability"] - chosen
    parts = []
    for name, beta in (("denoised", "beta_denoising"), ("region", "beta_region"), ("union", "beta_united")):
        after, before = rows[beta] + black, rows["probability"]
        drop = 100 * (before - after).clip(lower=0) / before
        parts.append(rows.assign(method=name, masked_probability=after, drop=drop, increase=after > before))
    return pd.concat([*parts, rows.assign(method="union_cam")], ignore_index=True)


def scorecard(parts: Sequence[tuple[str, str, pd.DataFrame, str]], methods: Sequence[str]) -> pd.DataFrame:
    """What is asked of a map, for each method: the table that `figures.scorecard` draws.

    Args:
        parts: group, label, records, and one of the QUANTITIES or "seconds", whose median is taken.
        methods: which are shown.

    Returns:
        Rows with `group`, `label`, `method`, `mean`, its interval `low` to `high`, `better`, `unit`; and `among the
        best`: the method with the best mean is not clearly better, by `paired` against all shown; or, of seconds, by
        more than a tenth; and `n` images.
    """
    rows = []
    for group, label, records, quantity in parts:
        records = records[records["method"].isin(methods)]
        if quantity == "seconds":
            middle = records.groupby("method")["seconds"].median()
            for method in methods:
                near = middle[method] <= 1.1 * middle.min()
                n = records["image"].nunique()
                rows.append((group, label, method, middle[method], np.nan, np.nan, "lower", "s", near, n))
            continue
        found, better = summary(records, [quantity]).set_index("method"), QUANTITIES[quantity].better
        best = found["mean"].idxmin() if better == "lower" else found["mean"].idxmax()
        against = paired(records, quantity, best).set_index("other")
        for method in methods:
            near = method == best or not against.loc[method, "clear"]
            mean, low, high, n = found.loc[method, ["mean", "low", "high", "n"]]
            rows.append((group, label, method, mean, low, high, better, "%", near, int(n)))
    columns = ["group", "label", "method", "mean", "low", "high", "better", "unit", "among the best", "n"]
    return pd.DataFrame(rows, columns=columns)


def option_effects(default, readings, captures: Sequence) -> pd.DataFrame:
    """UnionCAM under each protocol option minus UnionCAM under the default, on the same images.

    Args:
        default: a finished run of `union_cam` under the default Protocol.
        readings: a run with methods such as union_cam:relu=False.
        captures: runs of `union_cam`, each with another Protocol, on some of the default's images.

    Returns:
        Rows as of `paired` with `quantity`, drop and increase; `other` names the option.
    """
    changed = []
    for name in readings.records["method"].drop_duplicates():
        if name.startswith("union_cam:") and "theta" not in name:
            changed.append((name.removeprefix("union_cam:"), readings.records, name))
    for run in captures:
        protocol, usual = run.info["options"]["protocol"], default.info["options"]["protocol"]
        name = ", ".join(f"{key}={value}" for key, value in protocol.items() if value != usual[key])
        changed.append((name, run.records, "union_cam"))
    rows = []
    for quantity in ("drop", "increase"):
        usual_values = values(default.records, quantity)["union_cam"]
        for name, records, method in changed:
            difference = (values(records, quantity)[method] - usual_values).dropna().to_numpy()  # aligned by image
            rows.append((name, quantity, difference.mean(), *interval(difference), len(difference)))
    return pd.DataFrame(rows, columns=["other", "quantity", "difference", "low", "high", "n"])


def _mcnemar(difference: np.ndarray) -> float:
    """McNemar's exact test: of the images in which two methods differ, could half be in favour of each?"""
    won, differing = int((difference > 0).sum()), int((difference != 0).sum())
    return float(stats.binomtest(won, differing).pvalue) if differing else 1.0


def _permutation(difference: np.ndarray) -> float:
    if not difference.any():
        return 1.0
    found = stats.permutation_test(
        (difference,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // len(difference)),
        rng=0,
    )
    return float(found.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values of a family of tests corrected by Holm's step-down method (1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def published(table: str) -> dict[str, dict[str, float]]:
    """A table of the paper, "table 1" to "table 4", or the LIBRARY's numbers: quantity -> method -> percent."""
    if table not in (*TABLES, LIBRARY):
        raise ValueError(f"There is no {table!r}; there are {', '.join((*TABLES, LIBRARY))}.")
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))[table]["quantities"]


def beside_paper(found: pd.DataFrame, table: str) -> pd.DataFrame:
    """One of the paper's tables in its own layout, ours below it: a column for each method.

    The numbers are of other networks and other pictures, so not their difference but their order can be compared: each
    quantity has four rows, published and ours, and the rank of each method in either.

    Args:
        found: a `summary` with the table's methods and quantities.
        table: "table 1" to "table 4".
    """
    cells, means = (
        found.assign(cell=_cells(found)).pivot(index="quantity", columns="method", values=name)
        for name in ("cell", "mean")
    )
    n, rows = int(found["n"].max()), {}
    for quantity, theirs in published(table).items():
        heading, ascending = QUANTITIES[quantity].heading, QUANTITIES[quantity].better == "lower"
        ours = means.loc[quantity, list(theirs)]
        rows[heading, "published"] = [f"{number:g}" for number in theirs.values()]
        rows[heading, f"ours, N = {n:,}"] = cells.loc[quantity, list(theirs)].tolist()
        rows[heading, "rank, published"] = _ranks(pd.Series(theirs), ascending)
        rows[heading, "rank, ours"] = _ranks(ours, ascending)
    columns = [table_4_title(method) if table == "table 4" else find_title(method) for method in theirs]
    return pd.DataFrame(rows, index=columns).T


def table_4_title(method: str) -> str:
    """How the paper's Table 4 names a variant of UnionCAM."""
    parts = {"union_cam": "+ denoising 10, weights", "union_cam:theta=0": "+ weights"}
    parts |= {"union_cam:weighted=False": "+ denoising 10", "union_cam:theta=0:weighted=False": "Base"}
    return parts[method]


def _ranks(numbers: pd.Series, ascending: bool) -> list[str]:
    return [f"{rank:g}" for rank in numbers.rank(ascending=ascending, method="min")]


def against_table(records: pd.DataFrame, table: str, method: str = "union_cam") -> dict[str, pd.DataFrame]:
    """A method against the others of one of the paper's tables: quantity -> `paired`."""
    return {q: paired(records, q, method, list(numbers)) for q, numbers in published(table).items()}


def ranking(records: pd.DataFrame, table: str, methods: dict[str, str] | None = None) -> pd.DataFrame:
    """Whether a table's order of methods holds, and where UnionCAM stands.

    Args:
        records: with the table's methods.
        table: "table 1" to "table 4".
        methods: for a method of the table, which one of the records stands for it: {"score_cam":
            "score_cam:weights=score"}; itself by default.

    Returns:
        For each quantity the paper's order and ours; `tau`, Kendall's rank correlation of the two, 1 where they are the
        same; whether UnionCAM is best in the paper; and its `standing` in ours.
    """
    rows, own = [], methods or {}
    for quantity, theirs in published(table).items():
        ascending = QUANTITIES[quantity].better == "lower"
        used = [own.get(method, method) for method in theirs]
        means = values(records, quantity)[used].mean()
        order = means.sort_values(ascending=ascending, kind="stable").index
        paper = pd.Series(theirs).sort_values(ascending=ascending, kind="stable").index
        pairs = paired(records, quantity, own.get("union_cam", "union_cam"), used)
        rows.append(
            {
                "quantity": QUANTITIES[quantity].heading,
                "paper, best first": " > ".join(map(find_title, paper)),
                "ours, best first": " > ".join(map(find_title, order)),
                "tau": round(float(stats.kendalltau(list(theirs.values()), means.to_numpy()).statistic), 2),
                "UnionCAM best in paper": paper[0] == "union_cam",
                "UnionCAM in ours": standing(pairs),
            }
        )
    return pd.DataFrame(rows).set_index("quantity")
