"""Records -> tables: means with intervals, paired tests, and the published numbers beside ours.

    values                 one quantity, a row an image, a column a method
    summary, wide          means with 95 % intervals
    paired                 one method against the others, image by image
    standing               whether a method is better than all others, beaten by one, or neither
    firsts                 the best mean of each quantity, and what it does not clearly beat
    unsigned, forgotten    what is left of maps when the network forgets, whatever its sign
    joined, alone          records of two runs as one; UnionCAM's three maps as methods of their own
    beside_paper, ranking  the paper's Tables 1-4
    readings               the same under each choice of region maps
    by_answer              right and wrong answers apart

Every quantity is in percent. Tables are data frames: `to_markdown()`, `to_latex()` and `to_csv()` export them.

A difference is called clear where its paired test, corrected for all the tests beside it (Holm), has p < 0.01. All that
says "clear", "beyond chance" or "beaten" in this project means this rule.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy import stats

from unioncam_lab import DATA
from unioncam_lab.datasets import label_of
from unioncam_lab.methods import find_title

PUBLISHED = DATA / "published.json"
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
    **_column("recall", "Recall at 0.5", "higher"),
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


def theta_effects(
    records: pd.DataFrame, quantity: str = "drop minus increase", theta: float = 10, changed: float = 0.01
) -> pd.DataFrame:
    """What each theta of a sweep changes against one of them, image by image, under each reading of Eq. 1.

    Args:
        records: with methods named union_cam:theta=…:percentile_over=….
        quantity: one of the QUANTITIES.
        theta: what the others are compared with; each reading must have it.
        changed: a difference of probabilities.

    Returns:
        For each reading and theta the columns of `paired` with the signs of theta minus the given one; `theta`,
        `reading`; and `changed`, the percentage of images in which the probability under the map differs from that at
        the smallest theta by more than the given difference. Holm's correction is for the thetas of one reading.
    """
    probabilities = records.pivot(index="image", columns="method", values="masked_probability")
    found = []
    for reading, rows in by_theta(records, [quantity]).groupby("reading", sort=False):
        names = rows.sort_values("theta").set_index("theta")["method"]
        pairs = paired(records, quantity, names[theta], list(names)).set_index("other").drop(columns="better")
        pairs[["difference", "low", "high"]] = -pairs[["difference", "high", "low"]].to_numpy() + 0.0
        pairs["better"] = pairs["difference"] * (1 if QUANTITIES[quantity].better == "higher" else -1) > 0
        moved = (probabilities[list(names)].sub(probabilities[names.iloc[0]], axis=0).abs() > changed).mean()
        thetas = names.reset_index().set_index("method")["theta"]
        pairs.loc[names[theta]] = 0.0, 0.0, 0.0, 1.0, 1.0, len(probabilities), False, False
        pairs = pairs.assign(theta=thetas, changed=100 * moved, reading=reading)
        found.append(pairs.sort_values("theta").reset_index(names="other"))
    return pd.concat(found, ignore_index=True)


def theta_verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    """Whether the paper's Figure 8 is seen: that no denoising is worse than theta = 10, and that all above it is worse.

    Args:
        effects: `theta_effects` against 10, with `network`.

    Returns:
        Rows (claim, reading), a column for each network. A claim "holds" where all its comparisons are clearly in its
        favour, is "contradicted" where one is clearly against it, and is "not distinguishable" elsewhere.
    """
    claims = {"θ = 0 is worse than 10": effects["theta"] == 0, "each θ above 10 is worse": effects["theta"] > 10}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for claim, chosen in claims.items():
        for (reading, network), rows in effects[chosen].groupby(["reading", "network"], sort=False):
            in_favour, against = (rows["clear"] & (rows["better"] == better) for better in (False, True))
            verdict = "holds" if in_favour.all() else "contradicted" if against.any() else "not distinguishable"
            found.setdefault((claim, reading), {})[f"{network}, N = {rows['n'].max():,}"] = verdict
    return pd.DataFrame.from_dict(found, orient="index")


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


def unsigned(records: pd.DataFrame) -> pd.DataFrame:
    """Records in which a map and its negative count as equal when the network is randomized.

    The `sanity_curve` of older runs is of one seed and has a sign. Here it becomes `sanity_rho`, and `sanity_curve` and
    its mean `sanity` are of its size. Records that have `sanity_rho` are returned as they are.
    """
    if "sanity_curve" not in records or "sanity_rho" in records:
        return records
    sizes = [np.abs(curve) for curve in records["sanity_curve"]]
    sanity = [float(size.mean()) for size in sizes]
    return records.assign(sanity_rho=records["sanity_curve"], sanity_curve=sizes, sanity=sanity)


def forgotten(records: pd.DataFrame) -> pd.DataFrame:
    """How alike maps remain as ever more layers are shuffled: the mean |rho|, in percent, with its 95 % interval.

    Returns:
        A row for each method and `stage`, from 1 (the last layer alone): `mean`, `low`, `high`, and `n` images.
    """
    rows = []
    for method, curves in unsigned(records).groupby("method", sort=False)["sanity_curve"]:
        stages = np.stack(list(curves)).T
        rows += [(method, i, sizes.mean(), *interval(sizes), len(sizes)) for i, sizes in enumerate(stages, 1)]
    return pd.DataFrame(rows, columns=["method", "stage", "mean", "low", "high", "n"])


def last_layer(records: pd.DataFrame) -> pd.DataFrame:
    """What is left of the maps once the last layer alone is shuffled, all seeds together, in percent.

    Returns:
        For each method: the mean of `rho` and of its size, `|rho|`; `turned` and `kept`, the share of maps with rho
        below -50 % and above +50 %; and how many `maps`, images times seeds.
    """
    rows = {}
    for method, group in unsigned(records).groupby("method", sort=False):
        stages = len(group["sanity_curve"].iloc[0])
        rho = np.stack(list(group["sanity_rho"])).reshape(len(group), -1, stages)[:, :, 0].flatten()
        turned, kept = 100 * (rho < -50).mean(), 100 * (rho > 50).mean()
        rows[method] = rho.mean(), np.abs(rho).mean(), turned, kept, len(rho)
    return pd.DataFrame.from_dict(rows, "index", columns=["rho", "|rho|", "turned", "kept", "maps"])


def firsts(records: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """For each quantity the method with the best mean, and which of the others it does not clearly beat.

    Returns:
        A row for each quantity: `best mean`, `%`, `not clearly worse`, `N`; methods as tables name them.
    """
    rows = {}
    for quantity in quantities:
        table, quality = values(records, quantity), QUANTITIES[quantity]
        means = table.mean()
        best = means.idxmin() if quality.better == "lower" else means.idxmax()
        pairs = paired(records, quantity, best)
        near = ", ".join(find_title(other) for other in pairs.loc[~pairs["clear"], "other"])
        rows[quality.heading] = find_title(best), f"{means[best]:.1f}", near or "none", len(table)
    return pd.DataFrame.from_dict(rows, "index", columns=["best mean", "%", "not clearly worse", "N"])


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
    return compared(table, method, others, QUANTITIES[quantity].better)


def compared(
    table: pd.DataFrame, method: str, others: Sequence[str] | None = None, better: str = "higher"
) -> pd.DataFrame:
    """As `paired`, of any numbers: a row for each image, a column for each method; in percent, if they are shares."""
    others = [other for other in (others or table.columns) if other != method]
    rows = []
    for other in others:
        both = table[[method, other]].dropna().to_numpy()
        difference = both[:, 0] - both[:, 1]
        test = _mcnemar if np.isin(both, (0, 100)).all() else _permutation
        rows.append((other, difference.mean(), *interval(difference), test(difference), len(difference)))
    found = pd.DataFrame(rows, columns=["other", "difference", "low", "high", "p", "n"])
    found.insert(5, "p_holm", holm(found["p"].to_numpy()))
    found["better"] = found["difference"] < 0 if better == "lower" else found["difference"] > 0
    found["clear"] = found["p_holm"] < LEVEL
    return found


def couples(records: pd.DataFrame, quantity: str, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Methods with their partners, image by image: rows as of `paired` with `method`, corrected for all the pairs."""
    found = pd.concat([paired(records, quantity, method, [other]) for method, other in pairs], ignore_index=True)
    found["p_holm"] = holm(found["p"].to_numpy())
    found["clear"] = found["p_holm"] < LEVEL
    found.insert(0, "method", [method for method, _ in pairs])
    return found


def standing(pairs: pd.DataFrame) -> str:
    """From `paired`, of one method against others: "best", "not distinguishable" or "beaten".

    best: clearly better than each of them. beaten: one of them is clearly better. Otherwise the pictures cannot tell.
    """
    if (pairs["better"] & pairs["clear"]).all():
        return "best"
    return "beaten" if (~pairs["better"] & pairs["clear"]).any() else "not distinguishable"


def joined(*records: pd.DataFrame) -> pd.DataFrame:
    """The records of several runs as one: of the images that all have; a method that several have is the first one's.

    Raises:
        ValueError: the runs have no image in common, or explain another class of one.
    """
    targets = [part.drop_duplicates("image").set_index("image")["target"] for part in records]
    common = targets[0].index[targets[0].index.isin(set.intersection(*(set(each.index) for each in targets)))]
    if common.empty:
        raise ValueError(f"The {len(records)} runs have no image in common.")
    parts, seen = [], set()
    for part, target in zip(records, targets, strict=True):
        if not target[common].equals(targets[0][common]):
            raise ValueError(
                f"The runs explain other classes of {(target[common] != targets[0][common]).sum()} images."
            )
        parts.append(part[part["image"].isin(common) & ~part["method"].isin(seen)])
        seen |= set(part["method"])
    return pd.concat(parts, ignore_index=True)


def named_rightly(records: pd.DataFrame) -> pd.Series:
    """Whether the network names each image as its file is labelled: image -> bool, where its name holds a label."""
    first = records.drop_duplicates("image").set_index("image")
    labels = pd.Series({image: label_of(image) for image in first.index})
    return (first["class"] == labels)[labels.notna()]


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


def scorecard(
    parts: Sequence[tuple[str, str, pd.DataFrame, str]], methods: Sequence[str], controls: Sequence[str] = ()
) -> pd.DataFrame:
    """What is asked of a map, for each method: the table that `figures.scorecard` draws.

    Args:
        parts: group, label, records, and one of the QUANTITIES or "seconds", whose median is taken.
        methods: which are shown and compared with each other; those that some records lack are NaN there.
        controls: which are shown below them and compared with nothing.

    Returns:
        Rows with `group`, `label`, `method`, `mean`, its interval `low` to `high`, `better`, `unit`; and `among the
        best`: the method with the best mean is not clearly better, by `paired` against all compared; or, of seconds,
        by more than a tenth; `n` images; and `control`.
    """
    rows = []
    for group, label, records, quantity in parts:
        known, rivals = set(records["method"]), records[records["method"].isin(methods)]
        if quantity == "seconds":
            better, unit, n = "lower", "s", records["image"].nunique()
            middle = records.groupby("method")["seconds"].median()
            best = set(middle.index[middle <= 1.1 * middle[middle.index.isin(methods)].min()])
            found = pd.DataFrame({"mean": middle, "low": np.nan, "high": np.nan, "n": n})
        else:
            better, unit = QUANTITIES[quantity].better, "%"
            found = summary(records[records["method"].isin([*methods, *controls])], [quantity]).set_index("method")
            means = found.loc[found.index.isin(methods), "mean"]
            first = means.idxmin() if better == "lower" else means.idxmax()
            against = paired(rivals, quantity, first)
            best = {first, *against.loc[~against["clear"], "other"]}
        for method in (*methods, *controls):
            numbers = found.loc[method, ["mean", "low", "high", "n"]] if method in known else (np.nan,) * 3 + (0,)
            near = method in best and method in methods
            mean, low, high, n = numbers
            rows.append((group, label, method, mean, low, high, better, unit, near, int(n), method in controls))
    columns = ["group", "label", "method", "mean", "low", "high", "better", "unit", "among the best", "n", "control"]
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


def option_orders(runs: dict[str, pd.DataFrame], quantity: str, table: str = "table 1") -> pd.DataFrame:
    """What each option of the protocol makes of the order of a table's methods, and how near it comes to the paper.

    Args:
        runs: name of the option -> records of the table's methods; the first is the default. All on the same images.
        quantity: of the table.

    Returns:
        A row for each option: a column for each method with its mean; the `order`; `tau`, Kendall's correlation with
        the default's order, and `tau paper` with the published one, 0 where all means are equal; `distance`, the mean
        of |ours - published| over the methods, in points; `UnionCAM`, its `standing`; and `n` images.
    """
    theirs, rows = pd.Series(published(table)[quantity]), {}
    usual, ascending = None, QUANTITIES[quantity].better == "lower"
    for name, records in runs.items():
        means = values(records, quantity)[list(theirs.index)].mean()
        usual = means if usual is None else usual
        order = means.sort_values(ascending=ascending, kind="stable").index
        rows[name] = {
            **means.to_dict(),
            "order": " > ".join(map(find_title, order)),
            "tau": float(np.nan_to_num(stats.kendalltau(usual, means).statistic)),
            "tau paper": float(np.nan_to_num(stats.kendalltau(theirs, means).statistic)),
            "distance": float((means - theirs).abs().mean()),
            "UnionCAM": standing(paired(records, quantity, "union_cam", list(theirs.index))),
            "n": records["image"].nunique(),
        }
    return pd.DataFrame.from_dict(rows, "index")


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


def beside_paper(found: pd.DataFrame | dict[str, pd.DataFrame], table: str) -> pd.DataFrame:
    """One of the paper's tables in its own layout, ours below it: a column for each method.

    The numbers are of other networks and other pictures, so not their difference but their order can be compared: each
    quantity has four rows, published and ours, and the rank of each method in either.

    Args:
        found: a `summary` with the table's methods and quantities; or several, each with the name of its rows.
        table: "table 1" to "table 4".
    """
    rows, named = {}, found if isinstance(found, dict) else {"ours": found}
    for quantity, theirs in published(table).items():
        heading, ascending = QUANTITIES[quantity].heading, QUANTITIES[quantity].better == "lower"
        ours = {
            name: each[each["quantity"] == quantity].set_index("method").loc[list(theirs)]
            for name, each in named.items()
        }
        rows[heading, "published"] = [f"{number:g}" for number in theirs.values()]
        for name, each in ours.items():
            rows[heading, f"{name}, N = {each['n'].max():,}"] = _cells(each)
        rows[heading, "rank, published"] = _ranks(pd.Series(theirs), ascending)
        for name, each in ours.items():
            rows[heading, f"rank, {name}"] = _ranks(each["mean"], ascending)
    columns = [table_4_title(method) if table == "table 4" else find_title(method) for method in theirs]
    return pd.DataFrame(rows, index=columns).T


def table_4_title(method: str) -> str:
    """How the paper's Table 4 names a variant of UnionCAM."""
    parts = {"union_cam": "+ denoising 10, weights", "union_cam:theta=0": "+ weights"}
    parts |= {"union_cam:weighted=False": "+ denoising 10", "union_cam:theta=0:weighted=False": "Base"}
    return parts[method]


# Table 4 taken apart: the variant with a part, and the one without it.
TABLE_4_EFFECTS = {
    "denoising, without weights": ("union_cam:weighted=False", "union_cam:theta=0:weighted=False"),
    "denoising, with weights": ("union_cam", "union_cam:theta=0"),
    "weights, without denoising": ("union_cam:theta=0", "union_cam:theta=0:weighted=False"),
    "weights, with denoising": ("union_cam", "union_cam:weighted=False"),
}


def table_4_effects(records: pd.DataFrame) -> pd.DataFrame:
    """What denoising and the weights each add in the paper's Table 4, image by image, beside what is published.

    Returns:
        A row for each of the TABLE_4_EFFECTS and for drop and increase: with the part minus without it, `published`
        and `ours` in percentage points; `pictures that differ`; the `test`, its `p` corrected for all rows (Holm); and
        the verdict on the paper's claim, of which the published sign is always the better one: "holds" and
        "contradicted" where the difference is clear.
    """
    rows, numbers = {}, published("table 4")
    for effect, (with_it, without) in TABLE_4_EFFECTS.items():
        for quantity in ("drop", "increase"):
            (pair,) = paired(records, quantity, with_it, [without]).to_dict("records")
            both = values(records, quantity)[[with_it, without]]
            theirs = numbers[quantity][with_it] - numbers[quantity][without]
            pair |= {"published": f"{theirs:+.2f}", "differ": int((both[with_it] != both[without]).sum())}
            pair["test"] = "McNemar" if quantity == "increase" else "permutation"
            rows[effect, QUANTITIES[quantity].heading] = pair
    found = pd.DataFrame.from_dict(rows, orient="index")
    p = pd.Series(holm(found["p"].to_numpy()), index=found.index)
    triples = found[["difference", "low", "high"]].to_numpy() + 0.0
    return pd.DataFrame(
        {
            "published": found["published"],
            "ours": [f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" for mean, low, high in triples],
            "pictures that differ": [f"{k} of {n}" for k, n in zip(found["differ"], found["n"], strict=True)],
            "test": found["test"],
            "p": p.map(p_text),
            "on ours": np.where(p < LEVEL, np.where(found["better"], "holds", "contradicted"), "not distinguishable"),
        }
    )


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


# How the paper leaves it open to weigh the channels of a region map, in UnionCAM and in the Score-CAM beside it: for a
# method of the table, which one of the records stands for it.
REGION_MAPS = {
    "unlike region maps": {},  # Score-CAM softmax, UnionCAM probability
    "probability in both": {"score_cam": "score_cam:weights=score", "fusion_cam": "fusion_cam:region_weights=score"},
    "softmax in both": {"union_cam": "union_cam:region_weights=softmax"},
}
VERDICTS = {"best": "holds", "not distinguishable": "not distinguishable", "beaten": "contradicted"}


def substituted(records: pd.DataFrame, methods: dict[str, str]) -> pd.DataFrame:
    """The records with other methods in the place, and under the name, of some.

    Args:
        methods: name -> the method whose rows come in its place, as one of the REGION_MAPS.
    """
    kept = records[~records["method"].isin(methods)]
    return kept.assign(method=kept["method"].replace({stand_in: name for name, stand_in in methods.items()}))


def region_maps(records: pd.DataFrame, table: str) -> dict[str, dict[str, str]]:
    """Those of the REGION_MAPS for which the records hold all methods of one of the paper's tables."""
    methods = set.union(*(set(numbers) for numbers in published(table).values()))
    has = set(records["method"])
    return {name: own for name, own in REGION_MAPS.items() if {own.get(method, method) for method in methods} <= has}


def in_the_papers_layout(records: pd.DataFrame, table: str) -> pd.DataFrame:
    """`beside_paper` of the records under each of the REGION_MAPS that they hold."""
    quantities, found = published(table), {}
    methods = set.union(*(set(numbers) for numbers in quantities.values()))
    for name, own in region_maps(records, table).items():
        read = substituted(records, own)
        found[name] = summary(read[read["method"].isin(methods)], list(quantities))
    return beside_paper(found, table)


def readings(records: pd.DataFrame, table: str) -> pd.DataFrame:
    """The `ranking` of one of the paper's tables under each of the REGION_MAPS that the records hold.

    Rows are (quantity, region maps).

    The last column is the verdict on the claim that UnionCAM is best, where the paper's table says so; "no claim"
    where it does not.
    """
    held = region_maps(records, table)
    found = pd.concat({name: ranking(records, table, own) for name, own in held.items()}, names=["region maps"])
    found = found.swaplevel().loc[[QUANTITIES[quantity].heading for quantity in published(table)]]
    claimed = found.pop("UnionCAM best in paper")
    verdict = found["UnionCAM in ours"].map(VERDICTS).where(claimed, "no claim")
    return found.drop(columns="paper, best first").assign(**{"UnionCAM is best": verdict})


def orders(
    records: pd.DataFrame, table: str
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, set[str]]]]:
    """A table's methods as the paper, the LIBRARY, and our records under each of the REGION_MAPS that they hold.

    Returns:
        What `figures.ranks` draws: quantity -> name of the column -> method -> percent, and, for ours, quantity -> name
        of the column -> the methods that are not clearly different from UnionCAM.
    """
    found, alike, library = {}, {}, published(LIBRARY)
    library["overall"] = {m: library["insertion"][m] - library["deletion"][m] for m in library["insertion"]}
    for quantity, theirs in published(table).items():
        found[quantity], alike[quantity] = {"the paper\n(VGG16)": theirs}, {}
        if quantity in library and table != "table 2":  # whose pictures are others
            found[quantity]["the library\n(VGG19, N = 100)"] = {m: round(library[quantity][m], 2) for m in theirs}
        for name, own in region_maps(records, table).items():
            read = substituted(records, own)
            column = f"ours, {name}\n(N = {read['image'].nunique():,})"
            found[quantity][column] = values(read, quantity)[list(theirs)].mean().to_dict()
            pairs = paired(read, quantity, "union_cam", list(theirs))
            alike[quantity][column] = set(pairs["other"][~pairs["clear"]])
    return found, alike


def in_words(pairs: pd.DataFrame, quantity: str, method: str, title: Callable[[str], str] = find_title) -> list[str]:
    """What `paired` found, a line for each row: "Average drop, UnionCAM − Score-CAM: … points, p < 0.001, clearly …".

    Args:
        pairs: as `paired` gives them; p is corrected for all its rows.
        quantity, method: what it was asked for.
        title: of a method.
    """
    lines = []
    for row in pairs.itertuples():
        numbers = f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}] points".replace("-", "−")
        verdict = ("clearly better" if row.better else "clearly worse") if row.clear else "not clearly different"
        names = f"{QUANTITIES[quantity].title}, {title(method)} − {title(row.other)}"
        lines.append(f"{names}: {numbers}, p {p_text(row.p_holm)}, {verdict}")
    return lines


def by_answer(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The records of the pictures that the network names as their files are labelled, "right", and of the others.

    For runs whose explained class is the network's first answer.
    """
    known = named_rightly(records)
    if missing := set(records["image"]) - set(known.index):
        raise ValueError(f"The names of {len(missing)} pictures hold no label, such as {min(missing)}.")
    right = records["image"].map(known).astype(bool)
    return {"right": records[right], "wrong": records[~right]}


def curve_differences(
    records: pd.DataFrame, kind: str, methods: Sequence[str], other: str = "grad_cam"
) -> dict[str, pd.DataFrame]:
    """The mean insertion or deletion curve of each method minus that of another, on the same images.

    Args:
        kind: "insertion" or "deletion".

    Returns:
        Method -> rows with `share` of the pixels, `difference`, and its bootstrap 95 % interval `low` to `high`, all in
        percent or percentage points. The intervals hold for each step by itself.
    """
    table = records.pivot(index="image", columns="method", values=f"{kind}_curve")
    drawn = np.random.default_rng(0).multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
    found = {}
    for method in methods:
        curves = 100 * (np.stack(list(table[method])) - np.stack(list(table[other]))).astype(float)
        low, high = np.percentile(drawn @ curves / len(table), [2.5, 97.5], axis=0)
        share = np.linspace(0, 100, curves.shape[1])
        found[method] = pd.DataFrame({"share": share, "difference": curves.mean(0), "low": low, "high": high})
    return found


def possible(percent: str, n: int) -> bool:
    """Whether a percentage that is printed so can be a share k / n (the GRIM test of Brown and Heathers, 2017).

    In exact arithmetic, and whichever way halves are rounded.
    """
    shown = Fraction(percent)
    half = Fraction(1, 2 * 10 ** len(percent.partition(".")[2]))
    nearest = round(shown * n / 100)
    return any(abs(Fraction(100 * k, n) - shown) <= half for k in (nearest - 1, nearest, nearest + 1))
