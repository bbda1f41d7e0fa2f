"""Tables of the records: means with intervals, paired tests, and the published numbers beside ours.

    values                 one quantity: a row for each image, a column for each method
    summary, wide          means with 95 % intervals
    paired                 one method against the others on the same images
    standing               whether a method is clearly better than all others, clearly worse than one, or neither
    firsts                 the method with the best mean of each quantity, and the methods that it does not clearly beat
    unsigned, forgotten    similarity of maps after the network's layers are shuffled, without its sign
    joined, alone          the records of several runs as one; UnionCAM's three maps as separate methods
    beside_paper, ranking  comparison with the paper's Tables 1-4
    readings               the same comparison for each choice of region maps
    by_answer              records of right and of wrong answers, separated

Every quantity is in percent. Tables are data frames: `to_markdown()`, `to_latex()` and `to_csv()` export them.

A difference is clear if its paired test has p < 0.01 after Holm's correction for all tests of the same comparison.
The words "clear", "beyond chance" and "beaten" always refer to this rule.

Up to DRAWN images, intervals and tests draw 9,999 resamples or signs. Above, drawing takes long and much memory, and
the limit that the drawn means approach is closer to their exact distribution than 9,999 draws are: `interval` and
`paired` say how. Where a few images decide, the limit does not hold, and the means are drawn at every number of images.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from unioncam_lab import DATA
from unioncam_lab.datasets import label_of
from unioncam_lab.methods import find_title

PUBLISHED = DATA / "published.json"
TABLES = ("table 1", "table 2", "table 3", "table 4")
LIBRARY = "xplain-cam"  # the library of a Fusion-CAM author; its reported numbers are for VGG19
RESAMPLES = 9999
DRAWN = 2000  # number of images up to which resamples and signs are drawn: as many as the paper's tables have
DECISIVE = 100  # the limit holds if the values spread like those of more than so many equal ones
LEVEL = 0.01  # level of significance, after Holm's correction


@dataclass(frozen=True)
class Quantity:
    """A quantity that tables show.

    Attributes:
        title: its name in tables.
        better: "lower" or "higher".
        of: function of the records that returns one value per record, in percent.
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
    """Return the names of the QUANTITIES that can be computed from the records' columns."""
    needs = {"drop minus increase": ["drop", "increase"], "overall": ["insertion", "deletion"]}
    needs["signed sanity"] = ["sanity_rho"]
    return [name for name in QUANTITIES if set(needs.get(name, [name])) <= set(records.columns)]


def values(records: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return one of the QUANTITIES in percent: a row for each image, a column for each method, in the records' order.

    Raises:
        ValueError: the quantity does not exist, or the records do not hold its columns, or hold a method twice for an
            image.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"There is no quantity {quantity!r}; there are {', '.join(QUANTITIES)}.")
    if quantity not in measured(records):
        raise ValueError(f"The records hold no {quantity}; they give {', '.join(measured(records)) or 'nothing'}.")
    # Several times faster than DataFrame.pivot.
    (i, images), (j, methods) = (pd.factorize(records[name]) for name in ("image", "method"))
    if (twice := pd.Series(i * len(methods) + j).duplicated()).any():
        image, method = records.loc[twice.to_numpy(), ["image", "method"]].iloc[0]
        raise ValueError(f"The records hold {image} with {method} twice.")
    given = QUANTITIES[quantity].of(records).to_numpy()
    table = np.full((len(images), len(methods)), np.nan, given.dtype if given.dtype.kind == "f" else float)
    table[i, j] = given
    # Not copied, because the order in memory decides the last digit of means.
    return pd.DataFrame(table, images.rename("image"), methods.rename("method"), copy=False)


def interval(sample: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap 95 % interval (percentile, 9,999 resamples) of a mean; NaN for fewer than two values.

    For more than DRAWN values it is the limit of infinitely many resamples, by Cornish and Fisher's expansion up to the
    skewness: the resampled mean has the cumulants of the sample, the r-th divided by N^(r-1) (Hall 1992, *The Bootstrap
    and Edgeworth Expansion*, chapters 2 and 3). What is left out moves an end by less than 0.003 standard errors.
    9,999 resamples move it by 0.027 (one standard deviation).
    """
    sample = np.asarray(sample, dtype=float)
    if len(sample) <= DRAWN:
        return _interval(sample.tobytes())
    centred = sample - sample.mean()
    if not _many_decide(centred):
        low, high = np.percentile(_resampled_means(sample), [2.5, 97.5])
        return float(low), float(high)
    z, error = stats.norm.ppf([0.025, 0.975]), centred.std() / np.sqrt(len(sample))
    skewness = (centred**3).mean() / len(sample) ** 2 / error**3 if error else 0.0
    low, high = sample.mean() + error * (z + skewness * (z**2 - 1) / 6)
    return float(low), float(high)


def _many_decide(values: np.ndarray) -> bool:
    """Return whether the mean of values with resampled images, or with random signs, is close to its limit.

    The squares of k equal values and any number of zeros have sum(v²)² / sum(v⁴) = k. This number bounds the skewness
    and the kurtosis of the mean, and must be above DECISIVE.
    """
    squares = values**2
    return squares.sum() ** 2 >= DECISIVE * (squares**2).sum()


def _resampled_means(sample: np.ndarray) -> np.ndarray:
    """Return the means of RESAMPLES resamples, one at a time. Zeros are not drawn, but only how many values are."""
    drawn, random = sample[sample != 0], np.random.default_rng(0)
    counts = random.binomial(len(sample), len(drawn) / len(sample), RESAMPLES)
    return np.array([drawn[random.integers(0, len(drawn), count)].sum() for count in counts]) / len(sample)


# Tables and verdicts need the statistics of the same values again and again.
@lru_cache(4096)
def _interval(sample: bytes) -> tuple[float, float]:
    values = np.frombuffer(sample)
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(_resamples(len(values), RESAMPLES) @ values / len(values), [2.5, 97.5])
    return float(low), float(high)


# Drawing takes most of the time, and depends on the number of values alone.
@lru_cache(4)
def _resamples(n: int, count: int) -> np.ndarray:
    """Return how often each of n values is in each resample, for the resamples that `stats.bootstrap` draws."""
    drawn = np.random.default_rng(0).integers(0, n, (count, n)) + n * np.arange(count)[:, None]
    return np.bincount(drawn.flatten(), minlength=drawn.size).reshape(drawn.shape).astype(np.uint8)


def mean_interval(sample: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean in percent.

    If each value is 0 or 100 the interval is exact (Clopper-Pearson), otherwise it is `interval`. For 0 successes in 7
    a bootstrap would return 0 to 0; the exact interval is 0 to 41.
    """
    sample = np.asarray(sample, dtype=float)
    if len(sample) == 0 or not np.isin(sample, (0, 100)).all():
        return interval(sample)
    exact = stats.binomtest(int((sample == 100).sum()), len(sample)).proportion_ci(0.95, "exact")
    return 100 * float(exact.low), 100 * float(exact.high)


def p_text(p: float) -> str:
    """Return a p-value as text. 9,999 random signs cannot give less than 0.0002, so small values are "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def summary(records: pd.DataFrame, quantities: Sequence[str] | None = None) -> pd.DataFrame:
    """Return for each method and quantity the `mean`, its 95 % interval `low` to `high`, and `n`, the number of images.

    `mean_interval` computes the intervals.
    """
    rows = []
    for quantity in quantities or measured(records):
        for method, column in values(records, quantity).items():
            column = column.dropna()
            rows.append((method, quantity, column.mean(), *mean_interval(column.to_numpy()), len(column)))
    return pd.DataFrame(rows, columns=["method", "quantity", "mean", "low", "high", "n"])


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """Return a `summary` for display: a row for each method, a column for each quantity, cells "43.2 [41.0, 45.4]".

    The name of the index shows N.
    """
    table = found.assign(cell=_cells(found)).pivot(index="method", columns="quantity", values="cell")
    table = table.loc[found["method"].drop_duplicates(), found["quantity"].drop_duplicates()]
    table.index = [find_title(method) for method in table.index]
    table.columns = [QUANTITIES[quantity].heading for quantity in table.columns]
    table.index.name = f"N = {found['n'].max():,}"
    return table


def _cells(means: pd.DataFrame) -> list[str]:
    triples = means[["mean", "low", "high"]].to_numpy()
    return [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in triples]


def by_theta(records: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Return the `summary` of a sweep with the columns `theta` and `reading`.

    The methods of a sweep are named union_cam:theta=…:percentile_over=….
    """
    means = summary(records[records["method"].str.contains("percentile_over=")], quantities)
    options = [dict(option.split("=") for option in method.split(":")[1:]) for method in means["method"]]
    return means.assign(theta=[float(o["theta"]) for o in options], reading=[o["percentile_over"] for o in options])


def theta_effects(
    records: pd.DataFrame, quantity: str = "drop minus increase", theta: float = 10, changed: float = 0.01
) -> pd.DataFrame:
    """Compare each theta of a sweep with one theta on the same images, for each reading of Eq. 1.

    Args:
        records: of a sweep; its methods are named union_cam:theta=…:percentile_over=….
        quantity: one of the QUANTITIES.
        theta: the theta that the others are compared with; each reading must have it.
        changed: difference of probabilities above which an image counts as changed.

    Returns:
        For each reading and theta: the columns of `paired`, where a difference is "this theta minus the given theta";
        `theta`; `reading`; and `changed`, the percentage of images whose masked probability differs from that at the
        smallest theta by more than the given difference. Holm's correction covers the thetas of one reading.
    """
    probabilities = records.pivot(index="image", columns="method", values="masked_probability")
    parts = []
    for reading, rows in by_theta(records, [quantity]).groupby("reading", sort=False):
        names = rows.sort_values("theta").set_index("theta")["method"]
        pairs = paired(records, quantity, names[theta], list(names)).set_index("other").drop(columns="better")
        pairs[["difference", "low", "high"]] = -pairs[["difference", "high", "low"]].to_numpy() + 0.0
        pairs["better"] = pairs["difference"] * (1 if QUANTITIES[quantity].better == "higher" else -1) > 0
        moved = (probabilities[list(names)].sub(probabilities[names.iloc[0]], axis=0).abs() > changed).mean()
        thetas = names.reset_index().set_index("method")["theta"]
        pairs.loc[names[theta]] = 0.0, 0.0, 0.0, 1.0, 1.0, len(probabilities), False, False
        pairs = pairs.assign(theta=thetas, changed=100 * moved, reading=reading)
        parts.append(pairs.sort_values("theta").reset_index(names="other"))
    return pd.concat(parts, ignore_index=True)


def theta_verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    """Test the two claims of the paper's Figure 8: theta = 0 is worse than 10, and each theta above 10 is worse.

    Args:
        effects: `theta_effects` against 10, with the additional column `network`.

    Returns:
        Rows (claim, reading), a column for each network. A claim "holds" if all its comparisons are clearly in its
        favour. It is "contradicted" if one comparison is clearly against it. Otherwise it is "not distinguishable".
    """
    claims = {"θ = 0 is worse than 10": effects["theta"] == 0, "each θ above 10 is worse": effects["theta"] > 10}
    verdicts: dict[tuple[str, str], dict[str, str]] = {}
    for claim, chosen in claims.items():
        for (reading, network), rows in effects[chosen].groupby(["reading", "network"], sort=False):
            in_favour, against = (rows["clear"] & (rows["better"] == better) for better in (False, True))
            verdict = "holds" if in_favour.all() else "contradicted" if against.any() else "not distinguishable"
            verdicts.setdefault((claim, reading), {})[f"{network}, N = {rows['n'].max():,}"] = verdict
    return pd.DataFrame.from_dict(verdicts, orient="index")


def mean_curves(records: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Return the mean curve of each method: kind -> method -> values, for the kinds that the records hold.

    The kinds are `insertion` and `deletion` (class probability, steps + 1 values) and `sanity` (percent, one value for
    each stage of randomization).
    """
    groups = records.groupby("method", sort=False)
    return {
        kind: {method: np.mean(np.stack(list(rows[f"{kind}_curve"])), axis=0).tolist() for method, rows in groups}
        for kind in ("insertion", "deletion", "sanity")
        if f"{kind}_curve" in records
    }


def unsigned(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with the absolute rank correlation as `sanity_curve`, so that a negated map counts as equal.

    Older runs have one seed, and their `sanity_curve` has a sign. Here that curve becomes `sanity_rho`; `sanity_curve`
    holds its absolute values, and `sanity` their mean. Records that have `sanity_rho` are returned unchanged.
    """
    if "sanity_curve" not in records or "sanity_rho" in records:
        return records
    sizes = [np.abs(curve) for curve in records["sanity_curve"]]
    sanity = [float(size.mean()) for size in sizes]
    return records.assign(sanity_rho=records["sanity_curve"], sanity_curve=sizes, sanity=sanity)


def forgotten(records: pd.DataFrame) -> pd.DataFrame:
    """Return the similarity of maps while more and more layers are shuffled: the mean |rho| with its 95 % interval.

    Returns:
        A row for each method and `stage`: `mean`, `low` and `high` in percent, and `n`, the number of images. In stage
        1 only the last layer is shuffled.
    """
    rows = []
    for method, curves in unsigned(records).groupby("method", sort=False)["sanity_curve"]:
        stages = np.stack(list(curves)).T
        rows += [(method, i, sizes.mean(), *interval(sizes), len(sizes)) for i, sizes in enumerate(stages, 1)]
    return pd.DataFrame(rows, columns=["method", "stage", "mean", "low", "high", "n"])


def last_layer(records: pd.DataFrame) -> pd.DataFrame:
    """Return the similarity of maps after only the last layer is shuffled, over all seeds, in percent.

    Returns:
        For each method: the mean of `rho` and of `|rho|`; `turned` and `kept`, the shares of maps with rho below -50 %
        and above +50 %; and `maps`, the number of images times the number of seeds.
    """
    rows = {}
    for method, group in unsigned(records).groupby("method", sort=False):
        stages = len(group["sanity_curve"].iloc[0])
        rho = np.stack(list(group["sanity_rho"])).reshape(len(group), -1, stages)[:, :, 0].flatten()
        turned, kept = 100 * (rho < -50).mean(), 100 * (rho > 50).mean()
        rows[method] = rho.mean(), np.abs(rho).mean(), turned, kept, len(rho)
    return pd.DataFrame.from_dict(rows, "index", columns=["rho", "|rho|", "turned", "kept", "maps"])


def firsts(records: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Return for each quantity the method with the best mean, and the methods that it does not clearly beat.

    Returns:
        A row for each quantity: `best mean`, `%`, `not clearly worse`, `N`. Methods have their titles.
    """
    rows = {}
    for quantity in quantities:
        table, quality = values(records, quantity), QUANTITIES[quantity]
        means = table.mean()
        best = means.idxmin() if quality.better == "lower" else means.idxmax()
        pairs = paired(records, quantity, best)
        rivals = ", ".join(find_title(other) for other in pairs.loc[~pairs["clear"], "other"])
        rows[quality.heading] = find_title(best), f"{means[best]:.1f}", rivals or "none", len(table)
    return pd.DataFrame.from_dict(rows, "index", columns=["best mean", "%", "not clearly worse", "N"])


def paired(
    records: pd.DataFrame, quantity: str, method: str = "union_cam", others: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compare one method with others on the same images.

    Returns:
        A row for each other method: `difference` of the means in percentage points (method - other) with its bootstrap
        95 % interval `low` to `high`; `p` of a two-sided test; `p_holm`, corrected for the number of rows; `n`, the
        number of images; `better`: whether the method is better, by the sign alone; `clear`: whether p_holm < LEVEL.

    The test is a permutation test of the mean: it draws the signs of the images' differences 9,999 times, or takes all
    combinations of signs if there are fewer. If each value is 0 or 100, the test is McNemar's exact test on the images
    where the two methods differ. For more than DRAWN differences that are not 0, the mean with random signs has its
    normal limit, with variance sum(d²) / N² (Lehmann and Romano 2005, *Testing Statistical Hypotheses*, section
    15.2). At p = 0.01 this is within 3 % of the exact p; 9,999 draws are within 10 % (one standard deviation).
    """
    table = values(records, quantity)
    if method not in table:
        raise ValueError(f"The records hold no {method}; they hold {', '.join(table.columns)}.")
    return compared(table, method, others, QUANTITIES[quantity].better)


def compared(
    table: pd.DataFrame, method: str, others: Sequence[str] | None = None, better: str = "higher"
) -> pd.DataFrame:
    """Do what `paired` does for any table with a row for each image and a column for each method.

    Shares must be in percent, because values that are all 0 or 100 select McNemar's test.
    """
    others = [other for other in (others or table.columns) if other != method]
    rows = []
    for other in others:
        both = table[[method, other]].dropna().to_numpy()
        difference = both[:, 0] - both[:, 1]
        test = _mcnemar if np.isin(both, (0, 100)).all() else _permutation
        rows.append((other, difference.mean(), *interval(difference), test(difference), len(difference)))
    pairs = pd.DataFrame(rows, columns=["other", "difference", "low", "high", "p", "n"])
    pairs.insert(5, "p_holm", holm(pairs["p"].to_numpy()))
    pairs["better"] = pairs["difference"] < 0 if better == "lower" else pairs["difference"] > 0
    pairs["clear"] = pairs["p_holm"] < LEVEL
    return pairs


def couples(records: pd.DataFrame, quantity: str, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Compare each method with its own partner: rows of `paired` with `method`; Holm's correction covers all pairs."""
    rows = pd.concat([paired(records, quantity, method, [other]) for method, other in pairs], ignore_index=True)
    rows["p_holm"] = holm(rows["p"].to_numpy())
    rows["clear"] = rows["p_holm"] < LEVEL
    rows.insert(0, "method", [method for method, _ in pairs])
    return rows


def standing(pairs: pd.DataFrame) -> str:
    """Return "best", "not distinguishable" or "beaten" for the rows of `paired` of one method.

    The method is best if it is clearly better than every other one. It is beaten if another one is clearly better.
    """
    if (pairs["better"] & pairs["clear"]).all():
        return "best"
    return "beaten" if (~pairs["better"] & pairs["clear"]).any() else "not distinguishable"


def joined(*records: pd.DataFrame) -> pd.DataFrame:
    """Return the records of several runs as one table, for the images that all runs have in common.

    If several runs hold the same method, its records are those of the first of these runs.

    Raises:
        ValueError: the runs have no image in common, or explain different classes of the same image.
    """
    targets = [part.drop_duplicates("image").set_index("image")["target"] for part in records]
    common = targets[0].index[targets[0].index.isin(set.intersection(*(set(target.index) for target in targets)))]
    if common.empty:
        raise ValueError(f"The {len(records)} runs have no image in common.")
    parts, seen = [], set()
    for part, target in zip(records, targets, strict=True):
        if not target[common].equals(targets[0][common]):
            raise ValueError(
                f"The runs explain different classes of {(target[common] != targets[0][common]).sum()} images."
            )
        parts.append(part[part["image"].isin(common) & ~part["method"].isin(seen)])
        seen |= set(part["method"].unique())
    return pd.concat(parts, ignore_index=True)


def named_rightly(records: pd.DataFrame) -> pd.Series:
    """Return whether the network's class is the label in the image's name: image -> bool, for names with a label."""
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
    """Return the drop and increase of each of UnionCAM's three maps alone, and of the selected map.

    A contribution is the map's score minus the score of the black image, and UnionCAM's rows hold the score of the
    selected map. So the scores of all three maps follow from these rows. The methods have the names in ALONE; "region"
    is Score-CAM with the same weights. The class score of the run must be the probability.
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
    """Return all criteria for each method: the table that `figures.scorecard` draws.

    Args:
        parts: (group, label, records, quantity). The quantity is one of the QUANTITIES, or "seconds" for the median.
        methods: the methods that are compared; where the records lack one, its values are NaN.
        controls: methods that are shown below the others and not compared.

    Returns:
        Rows with `group`, `label`, `method`, `mean`, its interval `low` to `high`, `better`, `unit`, `among the best`,
        `n` (number of images) and `control`. A method is among the best if the method with the best mean is not
        clearly better (`paired` against all compared methods); for seconds, if it is at most a tenth above the minimum.
    """
    rows = []
    for group, label, records, quantity in parts:
        known, rivals = set(records["method"].unique()), records[records["method"].isin(methods)]
        if quantity == "seconds":
            better, unit, n = "lower", "s", records["image"].nunique()
            middle = records.groupby("method")["seconds"].median()
            best = set(middle.index[middle <= 1.1 * middle[middle.index.isin(methods)].min()])
            statistics = pd.DataFrame({"mean": middle, "low": np.nan, "high": np.nan, "n": n})
        else:
            better, unit = QUANTITIES[quantity].better, "%"
            shown = records[records["method"].isin([*methods, *controls])]
            statistics = summary(shown, [quantity]).set_index("method")
            means = statistics.loc[statistics.index.isin(methods), "mean"]
            first = means.idxmin() if better == "lower" else means.idxmax()
            against = paired(rivals, quantity, first)
            best = {first, *against.loc[~against["clear"], "other"]}
        for method in (*methods, *controls):
            row = statistics.loc[method, ["mean", "low", "high", "n"]] if method in known else (np.nan,) * 3 + (0,)
            mean, low, high, n = row
            among_best = method in best and method in methods
            rows.append((group, label, method, mean, low, high, better, unit, among_best, int(n), method in controls))
    columns = ["group", "label", "method", "mean", "low", "high", "better", "unit", "among the best", "n", "control"]
    return pd.DataFrame(rows, columns=columns)


def option_effects(default, readings, captures: Sequence) -> pd.DataFrame:
    """Return UnionCAM with each option of the Protocol minus UnionCAM with the default, on the same images.

    Args:
        default: a run of `union_cam` with the default Protocol.
        readings: a run with methods such as union_cam:relu=False.
        captures: runs of `union_cam`, each with a different Protocol, on some of the default's images.

    Returns:
        Rows with `other` (the option), `quantity` (drop or increase), `difference`, its bootstrap 95 % interval `low`
        to `high`, and `n`, the number of images.
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
    """Return the order of a table's methods under each option of the Protocol, and its distance from the paper.

    Args:
        runs: name of the option -> records of the table's methods, on the same images. The first one is the default.
        quantity: a quantity of the table.
        table: "table 1" to "table 4".

    Returns:
        A row for each option: the mean of each method in a column of its own; the `order`; `tau` and `tau paper`,
        Kendall's correlation with the default's and with the published order, 0 if all means are equal; `distance`,
        the mean of |ours - published| over the methods, in percentage points; `UnionCAM`, the `standing` of UnionCAM;
        and `n`, the number of images.
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
    """Return p of McNemar's exact test, whose null hypothesis is that each method wins half of the differing images."""
    won, differing = int((difference > 0).sum()), int((difference != 0).sum())
    return float(stats.binomtest(won, differing).pvalue) if differing else 1.0


def _permutation(difference: np.ndarray) -> float:
    """Return p of the two-sided permutation test of the mean, which draws the signs of the differences."""
    values = np.asarray(difference, dtype=float)
    if len(values) > DRAWN:
        values = values[values != 0]  # a zero's sign changes nothing
    if len(values) <= DRAWN:
        return _p_of_signs(values.tobytes())
    if _many_decide(values):
        return float(2 * stats.norm.sf(abs(values.sum()) / np.sqrt((values**2).sum())))
    random = np.random.default_rng(0)
    sums = np.array([values[random.integers(0, 2, len(values), dtype=bool)].sum() for _ in range(RESAMPLES)])
    return _p((2 * sums - values.sum()) / len(values), values.mean(), drawn=True)


@lru_cache(4096)
def _p_of_signs(difference: bytes) -> float:
    values = np.frombuffer(difference)
    if not values.any():
        return 1.0
    means = _signs(len(values), RESAMPLES) @ values / len(values)
    return _p(means, values.mean(), drawn=2 ** len(values) > RESAMPLES)


def _p(means: np.ndarray, observed: float, drawn: bool) -> float:
    """Return the two-sided p of a mean among those with other signs. If they are drawn, it counts as one more draw."""
    rounding = 100 * np.finfo(float).eps * abs(observed)  # the observed signs are among those drawn
    least = min((means <= observed + rounding).sum(), (means >= observed - rounding).sum())
    return float(min(1, 2 * (least + drawn) / (len(means) + drawn)))


@lru_cache(4)
def _signs(n: int, count: int) -> np.ndarray:
    """Return all combinations of n signs; if they are more than `count`, those that `stats.permutation_test` draws."""
    if 2**n <= count:
        return np.array(list(product((1, -1), repeat=n)), dtype=np.int8)
    both = np.tile(np.array([1, -1], dtype=np.int8), (count, n, 1))
    return np.ascontiguousarray(np.random.default_rng(0).permuted(both, axis=2)[:, :, 0])


def holm(p: np.ndarray) -> np.ndarray:
    """Correct the p-values of a family of tests by Holm's step-down method (1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def published(table: str) -> dict[str, dict[str, float]]:
    """Return a table of the paper, "table 1" to "table 4", or the LIBRARY's numbers: quantity -> method -> percent."""
    if table not in (*TABLES, LIBRARY):
        raise ValueError(f"There is no {table!r}; there are {', '.join((*TABLES, LIBRARY))}.")
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))[table]["quantities"]


def beside_paper(found: pd.DataFrame | dict[str, pd.DataFrame], table: str) -> pd.DataFrame:
    """Return one of the paper's tables in its layout, with our means below the published ones.

    The published numbers come from other networks and other pictures, so only the orders can be compared, not the
    numbers. Therefore each quantity has rows for the published numbers, for ours, and for the ranks in both.

    Args:
        found: a `summary` with the table's methods and quantities, or several: name of the rows -> summary.
        table: "table 1" to "table 4".
    """
    rows, named = {}, found if isinstance(found, dict) else {"ours": found}
    for quantity, theirs in published(table).items():
        heading, ascending = QUANTITIES[quantity].heading, QUANTITIES[quantity].better == "lower"
        ours = {
            name: means[means["quantity"] == quantity].set_index("method").loc[list(theirs)]
            for name, means in named.items()
        }
        rows[heading, "published"] = [f"{number:g}" for number in theirs.values()]
        for name, means in ours.items():
            rows[heading, f"{name}, N = {means['n'].max():,}"] = _cells(means)
        rows[heading, "rank, published"] = _ranks(pd.Series(theirs), ascending)
        for name, means in ours.items():
            rows[heading, f"rank, {name}"] = _ranks(means["mean"], ascending)
    columns = [table_4_title(method) if table == "table 4" else find_title(method) for method in theirs]
    return pd.DataFrame(rows, index=columns).T


def table_4_title(method: str) -> str:
    """Return the name of a variant of UnionCAM in the paper's Table 4."""
    parts = {"union_cam": "+ denoising 10, weights", "union_cam:theta=0": "+ weights"}
    parts |= {"union_cam:weighted=False": "+ denoising 10", "union_cam:theta=0:weighted=False": "Base"}
    return parts[method]


# Effects in Table 4: (the variant with a part, the variant without it).
TABLE_4_EFFECTS = {
    "denoising, without weights": ("union_cam:weighted=False", "union_cam:theta=0:weighted=False"),
    "denoising, with weights": ("union_cam", "union_cam:theta=0"),
    "weights, without denoising": ("union_cam:theta=0", "union_cam:theta=0:weighted=False"),
    "weights, with denoising": ("union_cam", "union_cam:weighted=False"),
}


def table_4_effects(records: pd.DataFrame) -> pd.DataFrame:
    """Return the effect of denoising and of the weights in the paper's Table 4, on the same images.

    Returns:
        A row for each of the TABLE_4_EFFECTS and each of drop and increase. `published` and `ours` are the value with
        the part minus the value without it, in percentage points. Further columns are `pictures that differ`; the
        `test`; its `p`, corrected for all rows (Holm); and `on ours`, the verdict on the claim that the part is an
        improvement, as in every published row: "holds" or "contradicted" if the difference is clear.
    """
    rows, paper = {}, published("table 4")
    for effect, (with_it, without) in TABLE_4_EFFECTS.items():
        for quantity in ("drop", "increase"):
            (pair,) = paired(records, quantity, with_it, [without]).to_dict("records")
            both = values(records, quantity)[[with_it, without]]
            theirs = paper[quantity][with_it] - paper[quantity][without]
            pair |= {"published": f"{theirs:+.2f}", "differ": int((both[with_it] != both[without]).sum())}
            pair["test"] = "McNemar" if quantity == "increase" else "permutation"
            rows[effect, QUANTITIES[quantity].heading] = pair
    effects = pd.DataFrame.from_dict(rows, orient="index")
    p = pd.Series(holm(effects["p"].to_numpy()), index=effects.index)
    triples = effects[["difference", "low", "high"]].to_numpy() + 0.0
    return pd.DataFrame(
        {
            "published": effects["published"],
            "ours": [f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" for mean, low, high in triples],
            "pictures that differ": [f"{k} of {n}" for k, n in zip(effects["differ"], effects["n"], strict=True)],
            "test": effects["test"],
            "p": p.map(p_text),
            "on ours": np.where(p < LEVEL, np.where(effects["better"], "holds", "contradicted"), "not distinguishable"),
        }
    )


def _ranks(means: pd.Series, ascending: bool) -> list[str]:
    return [f"{rank:g}" for rank in means.rank(ascending=ascending, method="min")]


def against_table(records: pd.DataFrame, table: str, method: str = "union_cam") -> dict[str, pd.DataFrame]:
    """Compare a method with the others of one of the paper's tables: quantity -> `paired`."""
    return {quantity: paired(records, quantity, method, list(theirs)) for quantity, theirs in published(table).items()}


def ranking(records: pd.DataFrame, table: str, methods: dict[str, str] | None = None) -> pd.DataFrame:
    """Compare the order of a table's methods with our order, and return the standing of UnionCAM.

    Args:
        records: records with the table's methods.
        table: "table 1" to "table 4".
        methods: method of the table -> method of the records that replaces it, as in {"score_cam":
            "score_cam:weights=score"}; by default each method stands for itself.

    Returns:
        For each quantity: the paper's order and ours; `tau`, Kendall's rank correlation of the two, 1 if they are the
        same; whether UnionCAM is best in the paper; and the `standing` of UnionCAM in our records.
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


# The paper does not say how UnionCAM's region map and Score-CAM weigh their channels. These are the possible choices:
# method of the table -> method of the records that replaces it.
REGION_MAPS = {
    "unlike region maps": {},  # Score-CAM softmax, UnionCAM probability
    "probability in both": {"score_cam": "score_cam:weights=score", "fusion_cam": "fusion_cam:region_weights=score"},
    "softmax in both": {"union_cam": "union_cam:region_weights=softmax"},
}
VERDICTS = {"best": "holds", "not distinguishable": "not distinguishable", "beaten": "contradicted"}


def substituted(records: pd.DataFrame, methods: dict[str, str]) -> pd.DataFrame:
    """Return the records with the rows of some methods replaced by those of other methods, under the old names.

    Args:
        methods: name -> the method whose rows replace it, as in REGION_MAPS.
    """
    kept = records[~records["method"].isin(methods)]
    return kept.assign(method=kept["method"].replace({stand_in: name for name, stand_in in methods.items()}))


def region_maps(records: pd.DataFrame, table: str) -> dict[str, dict[str, str]]:
    """Return those of the REGION_MAPS for which the records hold all methods of one of the paper's tables."""
    methods = set.union(*(set(theirs) for theirs in published(table).values()))
    has = set(records["method"].unique())
    return {name: own for name, own in REGION_MAPS.items() if {own.get(method, method) for method in methods} <= has}


def in_the_papers_layout(records: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return `beside_paper` with rows for each of the REGION_MAPS that the records hold."""
    quantities, means = published(table), {}
    methods = set.union(*(set(theirs) for theirs in quantities.values()))
    for name, own in region_maps(records, table).items():
        read = substituted(records, own)
        means[name] = summary(read[read["method"].isin(methods)], list(quantities))
    return beside_paper(means, table)


def readings(records: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the `ranking` of one of the paper's tables for each of the REGION_MAPS that the records hold.

    Rows are (quantity, region maps). The last column is the verdict on the claim that UnionCAM is best. It is "no
    claim" if UnionCAM is not the best method in the paper's table.
    """
    held = region_maps(records, table)
    rankings = pd.concat({name: ranking(records, table, own) for name, own in held.items()}, names=["region maps"])
    rankings = rankings.swaplevel().loc[[QUANTITIES[quantity].heading for quantity in published(table)]]
    claimed = rankings.pop("UnionCAM best in paper")
    verdict = rankings["UnionCAM in ours"].map(VERDICTS).where(claimed, "no claim")
    return rankings.drop(columns="paper, best first").assign(**{"UnionCAM is best": verdict})


def orders(
    records: pd.DataFrame, table: str
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, set[str]]]]:
    """Return the means of a table's methods in the paper, in the LIBRARY and in our records, for `figures.ranks`.

    Our records have a column for each of the REGION_MAPS that they hold.

    Returns:
        quantity -> name of the column -> method -> percent; and, for our columns, quantity -> name of the column ->
        the methods that are not clearly different from UnionCAM.
    """
    means, alike, library = {}, {}, published(LIBRARY)
    library["overall"] = {m: library["insertion"][m] - library["deletion"][m] for m in library["insertion"]}
    for quantity, theirs in published(table).items():
        means[quantity], alike[quantity] = {"the paper\n(VGG16)": theirs}, {}
        if quantity in library and table != "table 2":  # table 2 uses other pictures than the library
            means[quantity]["the library\n(VGG19, N = 100)"] = {m: round(library[quantity][m], 2) for m in theirs}
        for name, own in region_maps(records, table).items():
            read = substituted(records, own)
            column = f"ours, {name}\n(N = {read['image'].nunique():,})"
            ours = values(read, quantity)[list(theirs)]
            means[quantity][column] = ours.mean().to_dict()
            pairs = compared(ours, "union_cam", better=QUANTITIES[quantity].better)
            alike[quantity][column] = set(pairs["other"][~pairs["clear"]])
    return means, alike


def in_words(pairs: pd.DataFrame, quantity: str, method: str, title: Callable[[str], str] = find_title) -> list[str]:
    """Return a line for each row of `paired`: "Average drop, UnionCAM − Score-CAM: … points, p < 0.001, clearly …".

    Args:
        pairs: rows of `paired`; p is corrected for all of them.
        quantity, method: the arguments with which `paired` was called.
        title: function from a method's name to its title.
    """
    lines = []
    for row in pairs.itertuples():
        points = f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}] points".replace("-", "−")
        verdict = ("clearly better" if row.better else "clearly worse") if row.clear else "not clearly different"
        names = f"{QUANTITIES[quantity].title}, {title(method)} − {title(row.other)}"
        lines.append(f"{names}: {points}, p {p_text(row.p_holm)}, {verdict}")
    return lines


def by_answer(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Separate the records by the network's answer: "right" if it is the label in the image's name, else "wrong".

    The explained class of the run must be the network's first answer.

    Raises:
        ValueError: the name of an image holds no label.
    """
    known = named_rightly(records)
    if missing := set(records["image"].unique()) - set(known.index):
        raise ValueError(f"The names of {len(missing)} pictures hold no label, such as {min(missing)}.")
    right = records["image"].map(known).astype(bool)
    return {"right": records[right], "wrong": records[~right]}


def curve_differences(
    records: pd.DataFrame, kind: str, methods: Sequence[str], other: str = "grad_cam"
) -> dict[str, pd.DataFrame]:
    """Return the mean insertion or deletion curve of each method minus that of one other method, on the same images.

    Args:
        kind: "insertion" or "deletion".

    Returns:
        Method -> rows with `share` of the pixels, in percent, and `difference` with its bootstrap 95 % interval `low`
        to `high`, in percentage points. Each interval covers one step alone, not the whole curve.
    """
    table = records.pivot(index="image", columns="method", values=f"{kind}_curve")
    n = len(table)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) if n <= DRAWN else None
    differences = {}
    for method in methods:
        curves = 100 * (np.stack(list(table[method])) - np.stack(list(table[other]))).astype(float)
        if drawn is None:
            low, high = np.transpose([interval(step) for step in curves.T])
        else:
            low, high = np.percentile(drawn @ curves / n, [2.5, 97.5], axis=0)
        share = np.linspace(0, 100, curves.shape[1])
        differences[method] = pd.DataFrame({"share": share, "difference": curves.mean(0), "low": low, "high": high})
    return differences


def possible(percent: str, n: int) -> bool:
    """Return whether a printed percentage can be a share k / n (the GRIM test of Brown and Heathers, 2017).

    The arithmetic is exact, and a half may be rounded up or down.
    """
    shown = Fraction(percent)
    half = Fraction(1, 2 * 10 ** len(percent.partition(".")[2]))
    nearest = round(shown * n / 100)
    return any(abs(Fraction(100 * k, n) - shown) <= half for k in (nearest - 1, nearest, nearest + 1))
