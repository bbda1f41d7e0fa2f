"""Tests of the tables against computations by hand and scipy, and of their properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unioncam_core import capture, union_cam
from unioncam_lab import experiment, tables
from unioncam_lab.classifiers import load_classifier
from unioncam_lab.metrics import evaluate
from unioncam_lab.store import Run
from unioncam_lab.tables import holm, interval, mean_curves, paired, ranking, summary, values, wide

METHODS = ("grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam")


def some_records(n=40, seed=0, better=8.0):
    random = np.random.default_rng(seed)
    hard = random.uniform(20, 60, n)
    rows = []
    for i in range(n):
        for j, method in enumerate(METHODS):
            drop = hard[i] - better * j + random.normal(0, 3)
            rows.append(
                {
                    "image": f"{i}.jpg",
                    "method": method,
                    "drop": drop,
                    "increase": bool(random.random() < 0.1 * (j + 1)),
                    "insertion": 50 + j + random.normal(0, 1),
                    "deletion": 12 - j + random.normal(0, 1),
                    "insertion_curve": np.array([0.0, j, 1.0], dtype=np.float32),
                    "deletion_curve": np.array([1.0, i, 0.0], dtype=np.float32),
                }
            )
    return pd.DataFrame(rows)


def test_values_are_percent_in_the_order_of_the_records():
    records = some_records(3)
    found = values(records, "increase")
    assert list(found.columns) == list(METHODS)
    assert list(found.index) == ["0.jpg", "1.jpg", "2.jpg"]
    assert set(np.unique(found)) <= {0.0, 100.0}
    overall = values(records, "overall")
    assert overall.loc["1.jpg", "score_cam"] == pytest.approx(
        values(records, "insertion").loc["1.jpg", "score_cam"] - values(records, "deletion").loc["1.jpg", "score_cam"]
    )
    difference = values(records, "drop minus increase")
    pd.testing.assert_frame_equal(difference, values(records, "drop") - values(records, "increase"))


def test_a_summary_is_the_mean_with_a_bootstrap_interval():
    records = some_records()
    row = summary(records, ["drop"]).set_index("method").loc["union_cam"]
    sample = records.loc[records["method"] == "union_cam", "drop"].to_numpy()
    assert row["mean"] == pytest.approx(sample.mean())
    assert row["n"] == 40
    # By the central limit theorem, to a few percent of the interval's length.
    low, high = stats.norm.interval(0.95, sample.mean(), sample.std() / np.sqrt(40))
    assert row["low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert row["high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_an_interval_contains_the_mean_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(tables, "RESAMPLES", 500)
    random = np.random.default_rng(0)
    hits = sum(low <= 5 <= high for low, high in (interval(random.normal(5, 2, 60)) for _ in range(300)))
    assert 0.90 < hits / 300 < 0.98


@pytest.mark.parametrize("n", [2, 13, 14, 60])
def test_intervals_and_p_values_are_scipys(n):
    """The signs of up to 13 values have fewer than 9,999 combinations, and all are taken. Zeros and steps make ties."""
    random = np.random.default_rng(n)
    for sample in (random.normal(1, 5, n), random.integers(-1, 2, n) / 7, np.append(np.zeros(n - 1), 0.1)):
        resampled = stats.bootstrap((sample,), np.mean, method="percentile", rng=0).confidence_interval
        assert interval(sample) == pytest.approx((resampled.low, resampled.high), abs=1e-12)
        test = stats.permutation_test((sample,), np.mean, permutation_type="samples", vectorized=True, rng=0)
        assert tables._permutation(sample) == test.pvalue


def test_one_image_has_no_interval():
    assert np.isnan(interval(np.array([3.0]))).all()
    assert wide(summary(some_records(1), ["drop"])).iloc[0, 0].endswith("[nan, nan]")


def test_paired_differences_are_of_the_same_image():
    found = paired(some_records(), "drop").set_index("other")
    assert found.loc["score_cam", "difference"] == pytest.approx(-16, abs=2)
    assert found["low"].le(found["difference"]).all()
    assert found["difference"].le(found["high"]).all()
    assert found["better"].all()
    assert (found["p_holm"] < 0.01).all()
    # Unpaired, images differ more than methods do.
    assert found.loc["group_cam", "high"] - found.loc["group_cam", "low"] < 4


def test_the_permutation_test_is_exact_where_there_are_few_images():
    records = some_records(7)
    difference = (values(records, "drop")["union_cam"] - values(records, "drop")["grad_cam"]).to_numpy()
    signs = np.array(np.meshgrid(*[[1, -1]] * 7)).reshape(7, -1)
    means = (signs * difference[:, None]).mean(0)
    exact = (np.abs(means) >= abs(difference.mean()) - 1e-12).mean()
    assert paired(records, "drop", others=["grad_cam"])["p"].item() == pytest.approx(exact)


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_differs():
    p = [paired(some_records(20, seed, better=0.0), "drop", others=["grad_cam"])["p"].item() for seed in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.05) < 0.2


def test_equal_methods_do_not_differ():
    records = some_records(5)
    records["drop"] = records.groupby("image")["drop"].transform("first")
    found = paired(records, "drop")
    assert (found["p_holm"] == 1).all()
    assert not found["better"].any()


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_helps(p):
    p = np.array(p)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


def test_the_papers_numbers_stand_beside_ours():
    records = some_records()
    table = tables.beside_paper(summary(records), "table 1")
    mean = values(records, "drop")["union_cam"].mean()
    column = table.loc["Average drop, % ↓", "UnionCAM"]
    assert column["published"] == "43.15"
    assert column["ours, N = 40"].startswith(f"{mean:.1f} [")
    assert table.loc[("Average drop, % ↓", "rank, published")].tolist() == ["5", "4", "2", "3", "1"]
    assert table.loc[("Average drop, % ↓", "rank, ours")].tolist() == ["5", "4", "3", "2", "1"]
    assert table.shape == (8, 5)


def test_table_4_has_the_papers_names_of_its_rows():
    records = some_records()
    names = dict(zip(METHODS, tables.published("table 4")["drop"], strict=False))
    records = records[records["method"].isin(names)].assign(method=lambda r: r["method"].map(names))
    table = tables.beside_paper(summary(records), "table 4")
    assert list(table.columns) == ["Base", "+ denoising 10", "+ weights", "+ denoising 10, weights"]


def test_equal_means_share_a_rank():
    found = summary(some_records(), ["drop", "increase"])
    found["mean"] = 20.0
    assert set(tables.beside_paper(found, "table 1").loc[("Average drop, % ↓", "rank, ours")]) == {"1"}


@pytest.mark.parametrize(("name", "rows"), [("table 1", 10), ("table 2", 10), ("table 3", 15), ("table 4", 12)])
def test_the_published_tables_are_whole_and_consistent(name, rows):
    table = tables.published(name)
    assert sum(len(numbers) for numbers in table.values()) == rows
    assert set(table) <= set(tables.QUANTITIES)
    for quantity, parts, sign in (
        ("overall", ("insertion", "deletion"), -1),
        ("drop minus increase", ("drop", "increase"), -1),
    ):
        for method, value in table.get(quantity, {}).items():
            assert value == pytest.approx(table[parts[0]][method] + sign * table[parts[1]][method], abs=0.011)


@pytest.mark.slow
def test_a_ranking_that_holds_and_one_that_does_not():
    def found_in(records):
        return ranking(records, "table 1").loc["Average drop, % ↓"]

    found = found_in(some_records())
    assert found["paper, best first"].startswith("UnionCAM > Score-CAM > Group-CAM")
    assert found["ours, best first"].startswith("UnionCAM > Group-CAM > Score-CAM")
    assert found["UnionCAM best in paper"]
    assert found["UnionCAM in ours"] == "best"
    assert 0 < found["tau"] < 1
    assert found_in(some_records(better=-8.0))["UnionCAM in ours"] == "beaten"
    assert found_in(some_records(better=0.0))["UnionCAM in ours"] == "not distinguishable"


def test_another_reading_stands_for_a_method_of_the_table():
    records = some_records()
    better = records[records["method"] == "score_cam"].assign(method="score_cam:weights=score")
    better["drop"] -= 100
    found = ranking(pd.concat([records, better]), "table 1", {"score_cam": "score_cam:weights=score"})
    assert found.loc["Average drop, % ↓", "ours, best first"].startswith("Score-CAM (probability) > UnionCAM")
    assert found.loc["Average drop, % ↓", "UnionCAM in ours"] == "beaten"


def test_the_interval_of_a_proportion_is_exact():
    assert tables.mean_interval(np.zeros(7)) == pytest.approx((0, 40.96), abs=0.01)  # 100 (1 - 0.025 ** (1 / 7))
    low, high = tables.mean_interval(np.full(110, 100.0))
    assert (low, high) == (pytest.approx(100 * 0.025 ** (1 / 110)), 100)
    values = np.array([0.0, 50.0, 100.0])
    assert tables.mean_interval(values) == interval(values)
    row = summary(some_records(), ["increase"]).set_index("method").loc["union_cam"]
    assert row["low"] < row["mean"] < row["high"]


def test_pairs_of_proportions_are_compared_by_mcnemar():
    records = some_records(40)
    first, second = records["method"] == "union_cam", records["method"] == "grad_cam"
    records.loc[first, "increase"] = np.arange(40) < 12
    records.loc[second, "increase"] = np.arange(40) >= 38
    (row,) = paired(records, "increase", others=["grad_cam"]).itertuples()
    assert row.p == pytest.approx(stats.binomtest(12, 14).pvalue)
    assert row.better
    records.loc[second, "increase"] = records.loc[first, "increase"].to_numpy()
    assert paired(records, "increase", others=["grad_cam"])["p"].item() == 1


@pytest.mark.parametrize(("p", "text"), [(0.0002, "< 0.001"), (0.0014, "= 0.001"), (0.25, "= 0.250"), (1.0, "= 1.000")])
def test_a_small_p_is_a_bound(p, text):
    assert tables.p_text(p) == text


def test_a_standing_is_one_of_three():
    def of(*rows):
        return tables.standing(pd.DataFrame(rows, columns=["better", "clear"]))

    assert of((True, True), (True, True)) == "best"
    assert of((True, True), (True, False)) == "not distinguishable"
    assert of((False, False), (True, True)) == "not distinguishable"
    assert of((True, True), (False, True)) == "beaten"


def test_joined_runs_keep_the_first_ones_methods():
    records = some_records(4).assign(target=3)
    other = records.assign(drop=0.0, method=records["method"].replace("grad_cam", "LayerCAM"))
    found = tables.joined(records, other)
    assert set(found["method"]) == {*METHODS, "LayerCAM"}
    assert found.groupby("method")["image"].nunique().eq(4).all()
    assert (values(found, "drop")["union_cam"] == values(records, "drop")["union_cam"]).all()
    fewer = tables.joined(records, other[other["image"] != "0.jpg"])
    assert fewer.groupby("method")["image"].agg(set).eq({"1.jpg", "2.jpg", "3.jpg"}).all()
    with pytest.raises(ValueError, match="explain different classes of 4 images"):
        tables.joined(records, other.assign(target=4))
    with pytest.raises(ValueError, match="no image in common"):
        tables.joined(records, other.assign(image="5.jpg"))


@pytest.mark.slow
def test_the_three_maps_of_unioncam_alone():
    """The values from a run's betas are compared with new scores of the maps."""
    classifier = load_classifier("shapes_vgg", device="cpu")
    setup = experiment.Setup("shapes", classifier, ["union_cam"], ["drop", "increase"], limit=6)
    found = tables.alone(experiment.run(setup).records)
    assert set(found["method"]) == set(tables.ALONE)
    for picture in setup.chosen():
        image = picture.scene(classifier.input_size).image
        (evidence,) = capture(classifier, image[None], target_layer=classifier.target_layer)
        steps = union_cam(evidence)
        for method, cam in (("denoised", steps.denoised), ("region", steps.region), ("union", steps.united)):
            (expected,) = evaluate(evidence, [cam], ["drop", "increase"])
            (row,) = found[(found["image"] == picture.id) & (found["method"] == method)].itertuples()
            assert row.drop == pytest.approx(expected["drop"], abs=1e-2)
            assert row.masked_probability == pytest.approx(expected["masked_probability"], abs=1e-4)


def test_a_sweep_is_sorted_out_by_theta_and_reading():
    records = some_records(4)
    names = {
        "grad_cam": "union_cam:theta=10:percentile_over=map",
        "group_cam": "union_cam:theta=50:percentile_over=map",
    }
    records["method"] = records["method"].replace(names)
    found = tables.by_theta(records, ["drop"])
    assert list(found["theta"]) == [10, 50]
    assert list(found["reading"]) == ["map", "map"]
    assert found["mean"].iloc[1] == pytest.approx(values(records, "drop")[names["group_cam"]].mean())


def test_the_effect_of_an_option_is_taken_on_the_same_images():
    records = some_records(10)
    protocol = {"relu": True, "clamp_beta": False}
    default = Run(records, {"options": {"protocol": protocol}})
    changed = records[records["image"].isin(["1.jpg", "2.jpg"])].copy()
    changed["drop"] += 3
    other = Run(changed, {"options": {"protocol": protocol | {"relu": False}}})
    readings = records.assign(method=records["method"].replace("score_cam", "union_cam:clamp_beta=True"))
    found = tables.option_effects(default, Run(readings, {}), [other]).set_index(["other", "quantity"])
    assert found.loc[("relu=False", "drop"), "difference"] == pytest.approx(3)
    assert found.loc[("relu=False", "increase"), "difference"] == 0
    assert found.loc[("relu=False", "drop"), "n"] == 2
    drops = values(records, "drop")
    expected = (drops["score_cam"] - drops["union_cam"]).mean()
    assert found.loc[("clamp_beta=True", "drop"), "difference"] == pytest.approx(expected)


def test_curves_are_averaged():
    found = mean_curves(some_records(3))
    np.testing.assert_allclose(found["insertion"]["score_cam"], [0, 2, 1])
    np.testing.assert_allclose(found["deletion"]["grad_cam"], [1, 1, 0])


def test_a_wide_table_says_how_many_pictures_it_is_of():
    assert wide(summary(some_records(6))).index.name == "N = 6"


def test_wrong_names_are_one_sentence():
    records = some_records(2).drop(columns="insertion")
    with pytest.raises(ValueError, match="no quantity 'nss'; there are drop"):
        values(records, "nss")
    with pytest.raises(
        ValueError, match="records hold no overall; they give drop, increase, drop minus increase, deletion"
    ):
        values(records, "overall")
    with pytest.raises(ValueError, match="hold no fusion_cam; they hold grad_cam"):
        paired(records, "drop", "fusion_cam")
    with pytest.raises(ValueError, match="no 'table 9'"):
        tables.published("table 9")


def test_a_scorecard_marks_what_nothing_beats_clearly():
    records = some_records().assign(seconds=1.0)
    records.loc[records["method"] == "grad_cam", "seconds"] = 0.5
    # Score-CAM's insertion equals UnionCAM's but for noise that cancels out.
    union = records.loc[records["method"] == "union_cam", "insertion"].to_numpy()
    records.loc[records["method"] == "score_cam", "insertion"] = union - np.where(np.arange(len(union)) % 2, 1.0, -0.99)
    parts = [("a", "drop", records, "drop"), ("a", "in", records, "insertion"), ("b", "s", records, "seconds")]
    card = tables.scorecard(parts, METHODS).set_index(["label", "method"])
    best = card[card["among the best"]].index.tolist()
    assert best == [("drop", "union_cam"), ("in", "score_cam"), ("in", "union_cam"), ("s", "grad_cam")]
    assert card.loc[("s", "grad_cam"), ["mean", "unit"]].tolist() == [0.5, "s"]
    assert card.loc[("drop", "group_cam"), "mean"] == pytest.approx(values(records, "drop")["group_cam"].mean())
    assert card.loc[("in", "union_cam"), "better"] == "higher"


@pytest.mark.slow
def test_several_summaries_stand_below_the_published_row():
    records = some_records()
    table = tables.beside_paper({"one": summary(records), "two": summary(records)}, "table 1")
    assert list(table.loc["Average drop, % ↓"].index) == [
        "published",
        "one, N = 40",
        "two, N = 40",
        "rank, published",
        "rank, one",
        "rank, two",
    ]


def test_a_substituted_method_has_the_name_of_the_one_it_stands_for():
    records = some_records(4)
    other = records[records["method"] == "score_cam"].assign(method="score_cam:weights=score", drop=1.0)
    found = tables.substituted(pd.concat([records, other]), {"score_cam": "score_cam:weights=score"})
    assert sorted(found["method"].unique()) == sorted(METHODS)
    assert (values(found, "drop")["score_cam"] == 1).all()


@pytest.mark.slow
def test_a_table_is_read_with_like_and_with_unlike_region_maps():
    """UnionCAM beats Score-CAM (probability) and loses to Score-CAM (softmax): the verdict depends on region maps."""
    records = some_records()
    kinds = {"score_cam:weights=score": ("score_cam", 30), "fusion_cam": ("union_cam", 0)}
    kinds |= {
        "union_cam:region_weights=softmax": ("union_cam", -60),
        "fusion_cam:region_weights=score": ("union_cam", 0),
    }
    records.loc[records["method"] == "score_cam", "drop"] -= 40
    more = [
        records[records["method"] == of].assign(method=name, drop=lambda rows, by=by: rows["drop"] + by)
        for name, (of, by) in kinds.items()
    ]
    found = tables.readings(pd.concat([records, *more]), "table 1").loc["Average drop, % ↓"]
    assert found["UnionCAM is best"].to_dict() == {
        "unlike region maps": "contradicted",
        "probability in both": "holds",
        "softmax in both": "holds",
    }
    found = tables.readings(pd.concat([records, *more]), "table 3")
    assert set(found.loc["Deletion, % ↓", "UnionCAM is best"]) == {"no claim"}, "Score-CAM is best in the paper"


def test_right_and_wrong_answers_are_told_apart_by_the_names_of_the_files():
    records = some_records(3).assign(**{"class": "tiger cat"})
    names = {"0.jpg": "n01_0.jpg", "1.jpg": "n02123159_tiger_cat.jpg", "2.jpg": "n02085620_Chihuahua.jpg"}
    named = records.assign(image=records["image"].map(names))
    found = tables.by_answer(named[named["image"] != "n01_0.jpg"])
    assert {name: list(rows["image"].unique()) for name, rows in found.items()} == {
        "right": [names["1.jpg"]],
        "wrong": [names["2.jpg"]],
    }
    assert len(found["right"]) == len(METHODS)
    with pytest.raises(ValueError, match=r"The names of 1 pictures hold no label, such as n01_0\.jpg"):
        tables.by_answer(named)


def test_curve_differences_are_paired_means_with_the_bootstraps_interval():
    records = some_records(30)
    for i, row in enumerate(records.index[records["method"] == "union_cam"]):
        records.at[row, "insertion_curve"] = np.array([0.0, 4 + i / 10, 1.0], dtype=np.float32)
    (found,) = tables.curve_differences(records, "insertion", ["union_cam"], "group_cam").values()
    assert found["share"].tolist() == [0, 50, 100]
    expected = 100 * (1 + np.arange(30) / 10)
    assert found["difference"].tolist() == pytest.approx([0, expected.mean(), 0], abs=1e-4)
    assert [found.loc[1, "low"], found.loc[1, "high"]] == pytest.approx(interval(expected), rel=0.03)
    assert (found.loc[[0, 2], ["low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("percent", "n", "possible"),
    [("33.33", 3, True), ("33.3", 3, True), ("33.34", 3, False), ("10.72", 2000, False), ("22.15", 2000, True),
     ("12.5", 8, True), ("0.5", 1000, True), ("0.1", 2000, True), ("0.13", 800, True), ("0.12", 800, True),
     ("100.00", 7, True), ("27.41", 4952, False), ("10.72", 4952, True)],
)  # fmt: skip
def test_a_percentage_is_possible_if_a_whole_number_of_n_rounds_to_it(percent, n, possible):
    assert tables.possible(percent, n) == possible


@given(st.integers(1, 3000), st.data())
def test_every_share_that_is_printed_is_possible(n, data):
    k = data.draw(st.integers(0, n))
    assert tables.possible(f"{100 * k / n:.2f}", n)


def a_sweep(n=30, better=8.0):
    """grad_cam stands for theta = 10, score_cam for 0, and group_cam for 90, whose masked probability is 0.5 less."""
    records = some_records(n, better=better)
    thetas = {"score_cam": 0, "grad_cam": 10, "group_cam": 90}
    records = records[records["method"].isin(thetas)]
    names = {name: f"union_cam:theta={theta}:percentile_over=map" for name, theta in thetas.items()}
    low = records["method"] == "group_cam"
    return records.assign(method=records["method"].replace(names), masked_probability=0.7 - 0.5 * low), names


def test_a_sweeps_effects_are_theta_minus_10():
    records, names = a_sweep()
    found = tables.theta_effects(records, "drop").set_index("theta")
    assert list(found.index) == [0, 10, 90]
    assert list(found["changed"]) == [0, 0, 100]
    assert found.loc[10, "difference"] == 0
    drops = values(records, "drop")
    for theta, name in ((0, "score_cam"), (90, "group_cam")):
        row, difference = found.loc[theta], drops[names[name]] - drops[names["grad_cam"]]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["low"] < row["difference"] < row["high"]
        assert row["better"] == (difference.mean() < 0)
    pairs = paired(records, "drop", names["grad_cam"]).set_index("other")
    assert found.loc[90, "p_holm"] == pairs.loc[names["group_cam"], "p_holm"], "of the other thetas alone"


def test_any_numbers_are_compared_as_records_are():
    records = some_records(20)
    found = tables.compared(values(records, "drop"), "union_cam", better="lower")
    pd.testing.assert_frame_equal(found, paired(records, "drop"))


def test_table_4_is_taken_apart_image_by_image():
    variants = list(tables.published("table 4")["drop"])
    records = pd.concat(
        [
            pd.DataFrame({"image": range(40), "method": m, "drop": 20.0 - 5 * ("weighted" not in m), "increase": 0.0})
            for m in variants
        ]
    )
    found = tables.table_4_effects(records)
    lower = tables.QUANTITIES["drop"].heading
    assert found.loc[("weights, with denoising", lower), "ours"] == "-5.00 [-5.00, -5.00]"
    assert found.loc[("weights, with denoising", lower), "published"] == "-1.49"
    assert list(found.xs(lower, level=1)["on ours"]) == ["not distinguishable"] * 2 + ["holds"] * 2
    assert list(found.xs(lower, level=1)["pictures that differ"]) == ["0 of 40"] * 2 + ["40 of 40"] * 2
    assert set(found.xs(tables.QUANTITIES["increase"].heading, level=1)["on ours"]) == {"not distinguishable"}


def test_figure_8_holds_only_where_all_of_it_is_clear():
    rows = pd.DataFrame({"theta": [0, 10, 50, 90], "reading": "map", "n": 300, "clear": [True, False, True, True]})
    networks = {"one": [False] * 4, "two": [False, False, False, True], "three": [True, False, False, False]}
    effects = [rows.assign(network=name, better=better) for name, better in networks.items()]
    effects.append(rows.assign(network="four", better=False, clear=False))
    found = tables.theta_verdicts(pd.concat(effects))
    assert list(found.columns) == [f"{name}, N = 300" for name in ("one", "two", "three", "four")]
    assert list(found.loc[("θ = 0 is worse than 10", "map")]) == [
        "holds",
        "holds",
        "contradicted",
        "not distinguishable",
    ]
    above = found.loc[("each θ above 10 is worse", "map")]
    assert list(above) == ["holds", "contradicted", "holds", "not distinguishable"]


@pytest.mark.slow
def test_the_orders_are_those_of_the_paper_the_library_and_each_choice_of_region_maps():
    records = some_records()
    more = [
        records[records["method"] == name.partition(":")[0]].assign(method=name)
        for name in ("score_cam:weights=score", "union_cam:region_weights=softmax")
    ]
    found, alike = tables.orders(pd.concat([records, *more]), "table 3")
    assert list(found) == ["insertion", "deletion", "overall"]
    paper, library, *ours = found["overall"]
    assert found["overall"][paper]["union_cam"] == 45.3
    assert found["overall"][library]["union_cam"] == 45.54
    assert ours == [f"ours, {name}\n(N = 40)" for name in tables.REGION_MAPS]
    mean = values(records, "overall")["union_cam"].mean()
    assert all(found["overall"][name]["union_cam"] == pytest.approx(mean) for name in ours)
    assert set(alike["overall"]) == set(ours)
    assert "grad_cam" not in alike["overall"][ours[0]]


def sanity_records(*, signed: bool) -> pd.DataFrame:
    """Two images of one method and two stages, as older runs recorded them, or with two seeds and a separate sign."""
    rho = [np.array([-80.0, 10.0]), np.array([60.0, -30.0])]
    records = pd.DataFrame({"image": ["a", "b"], "method": "union_cam"})
    if signed:
        return records.assign(sanity_curve=rho, sanity=[-35.0, 15.0])
    rho = [np.array([-80.0, 10.0, 40.0, -10.0]), np.array([60.0, -30.0, 70.0, 30.0])]
    sizes = [np.array([60.0, 10.0]), np.array([65.0, 30.0])]
    return records.assign(sanity_rho=rho, sanity_curve=sizes, sanity=[35.0, 47.5])


def test_what_is_left_of_a_map_has_no_sign_in_older_records_too():
    old = tables.unsigned(sanity_records(signed=True))
    np.testing.assert_allclose(np.stack(list(old["sanity_curve"])), [[80, 10], [60, 30]])
    np.testing.assert_allclose(np.stack(list(old["sanity_rho"])), [[-80, 10], [60, -30]])
    assert old["sanity"].tolist() == [45, 45]
    assert values(old, "signed sanity")["union_cam"].tolist() == [-35, 15]
    new = sanity_records(signed=False)
    assert tables.unsigned(new) is new
    assert tables.unsigned(some_records(2))["method"].tolist() == some_records(2)["method"].tolist()


def test_each_stage_of_forgetting_has_its_mean_and_interval():
    found = tables.forgotten(sanity_records(signed=True))
    assert found[["method", "stage", "mean", "n"]].to_numpy().tolist() == [
        ["union_cam", 1, 70, 2],
        ["union_cam", 2, 20, 2],
    ]
    assert found[["low", "high"]].to_numpy().tolist() == [[60, 80], [10, 30]]


def test_after_the_last_layer_maps_are_kept_or_turned():
    one = tables.last_layer(sanity_records(signed=True)).loc["union_cam"]
    assert one.tolist() == [-10, 70, 50, 50, 2]
    three = tables.last_layer(sanity_records(signed=False)).loc["union_cam"]
    assert three.tolist() == pytest.approx([22.5, 62.5, 25, 50, 4]), "-80, 40, 60 and 70"


def test_a_first_method_is_named_with_those_that_it_does_not_clearly_beat():
    records = some_records()
    union = records.loc[records["method"] == "union_cam", "insertion"].to_numpy()
    records.loc[records["method"] == "score_cam", "insertion"] = union - np.where(np.arange(len(union)) % 2, 1.0, -0.99)
    found = tables.firsts(records, ["drop", "insertion"])
    assert found["best mean"].tolist() == ["UnionCAM", "UnionCAM"]
    assert found["not clearly worse"].tolist() == ["none", "Score-CAM"]
    assert found["N"].tolist() == [40, 40]


def test_a_scorecard_compares_no_control_and_leaves_out_what_was_not_measured():
    records = some_records()
    control = records[records["method"] == "union_cam"].assign(method="fake_cam", drop=0.0)
    parts = [("a", "drop", pd.concat([records, control]), "drop"), ("a", "in", records, "insertion")]
    card = tables.scorecard(parts, [*METHODS, "fusion_cam"], ["fake_cam"]).set_index(["label", "method"])
    assert card.loc[("drop", "union_cam"), "among the best"], "fake_cam's drop of 0 does not count"
    assert not card.loc[("drop", "fake_cam"), "among the best"]
    assert card.loc[("drop", "fake_cam"), ["mean", "n", "control"]].tolist() == [0, 40, True]
    assert np.isnan(card.loc[("in", "fake_cam"), "mean"])
    assert np.isnan(card.loc[("drop", "fusion_cam"), "mean"])


def test_a_paired_comparison_in_words():
    records = some_records()
    better = tables.in_words(paired(records, "drop", "union_cam", ["grad_cam"]), "drop", "union_cam")
    worse = tables.in_words(paired(records, "drop", "grad_cam", ["union_cam"]), "drop", "grad_cam", str.upper)
    assert better[0].startswith("Average drop, UnionCAM − Grad-CAM: −3")
    assert better[0].endswith("] points, p < 0.001, clearly better")
    assert worse[0].startswith("Average drop, GRAD_CAM − UNION_CAM: +3")
    assert worse[0].endswith("clearly worse")
    same = records[records["method"] == "union_cam"].assign(method="twin")
    (line,) = tables.in_words(paired(pd.concat([records, same]), "drop", "twin", ["union_cam"]), "drop", "twin")
    assert line.endswith("+0.00 [+0.00, +0.00] points, p = 1.000, not clearly different")


def test_options_are_compared_by_the_order_that_they_make():
    usual = some_records()
    turned = usual.assign(drop=100 - usual["drop"])
    found = tables.option_orders({"default": usual, "turned=True": turned}, "drop")
    assert found.loc["default", "order"] == "UnionCAM > Group-CAM > Score-CAM > Grad-CAM++ > Grad-CAM"
    assert found["tau"].tolist() == pytest.approx([1, -1])
    assert found.loc["default", "tau paper"] == pytest.approx(0.8)
    assert found.loc["turned=True", "tau paper"] == pytest.approx(-0.8)
    assert found["UnionCAM"].tolist() == ["best", "beaten"]
    means = values(usual, "drop").mean()
    distance = np.mean([abs(means[m] - number) for m, number in tables.published("table 1")["drop"].items()])
    assert found.loc["default", "distance"] == pytest.approx(distance)
    assert found.loc["default", "score_cam"] == pytest.approx(means["score_cam"])
    assert found["n"].tolist() == [40, 40]


def test_answers_are_judged_by_the_label_in_the_name():
    records = pd.DataFrame(
        {
            "image": ["n01440764_tench.jpg", "n02012849_crane.jpg", "glioma/1.jpg", "coffee"] * 2,
            "class": ["tench", "heron", "glioma", "espresso"] * 2,
        }
    )
    assert tables.named_rightly(records).to_dict() == {
        "n01440764_tench.jpg": True, "n02012849_crane.jpg": False, "glioma/1.jpg": True
    }  # fmt: skip


def test_a_table_in_the_papers_layout_has_a_row_for_each_choice_of_region_maps():
    records = some_records(8)
    more = [
        records[records["method"] == name.partition(":")[0]].assign(method=name, drop=drop)
        for name, drop in (("score_cam:weights=score", 7.0), ("union_cam:region_weights=softmax", 5.0))
    ]
    table = tables.in_the_papers_layout(pd.concat([records, *more]), "table 1").loc["Average drop, % ↓"]
    assert table.loc["probability in both, N = 8", "Score-CAM"].startswith("7.0 [")
    assert table.loc["softmax in both, N = 8", "UnionCAM"].startswith("5.0 [")
    assert not table.loc["unlike region maps, N = 8", "UnionCAM"].startswith("5.0 [")


def test_region_maps_that_the_records_do_not_hold_are_left_out():
    records = some_records(8)
    assert list(tables.region_maps(records, "table 1")) == ["unlike region maps"]
    more = records[records["method"] == "score_cam"].assign(method="score_cam:weights=score")
    both = ["unlike region maps", "probability in both"]
    assert list(tables.region_maps(pd.concat([records, more]), "table 1")) == both
    found = tables.readings(pd.concat([records, more]), "table 1")
    assert list(found.loc["Average drop, % ↓"].index) == both


def test_couples_are_corrected_for_all_of_them():
    records = some_records()
    pairs = [("union_cam", "grad_cam"), ("score_cam", "group_cam"), ("grad_cam", "score_cam")]
    found = tables.couples(records, "drop", pairs)
    assert list(zip(found["method"], found["other"], strict=True)) == pairs
    alone = [paired(records, "drop", method, [other])["p"].item() for method, other in pairs]
    assert found["p"].tolist() == alone
    assert found["p_holm"].tolist() == tables.holm(np.array(alone)).tolist()
    assert (found["clear"] == (found["p_holm"] < tables.LEVEL)).all()


def test_above_a_number_of_images_the_limit_of_infinitely_many_draws_is_taken(monkeypatch):
    """At this number both agree to 0.15 standard errors of the mean and 5 standard deviations of the drawn p."""
    n = 400
    random = np.random.default_rng(1)
    for sample in (random.normal(0.1, 1, n), random.exponential(1, n) - 0.9, random.normal(0, 1, n) ** 3 + 0.1):
        monkeypatch.setattr(tables, "DRAWN", n)
        drawn, p = interval(sample), tables._permutation(sample)
        assert drawn == tables._interval(sample.tobytes()), "at the bound nothing changes"
        assert p == tables._p_of_signs(sample.tobytes())
        monkeypatch.setattr(tables, "DRAWN", n - 1)
        error = sample.std() / np.sqrt(n)
        assert interval(sample) != drawn
        assert interval(sample) == pytest.approx(drawn, abs=0.15 * error)
        assert tables._permutation(sample) == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / 9999) + 0.03 * p)


def test_the_limit_of_the_resampled_mean_has_its_skewness():
    """The mean of values from a gamma distribution has one too, which scipy knows by its skewness."""
    n, shape = 2500, 0.5
    sample = stats.gamma.ppf((np.arange(n) + 0.5) / n, shape)
    error, skewness = sample.std() / np.sqrt(n), stats.skew(sample) / np.sqrt(n)
    low, high = (np.array(interval(sample)) - sample.mean()) / error
    exact = stats.pearson3.ppf([0.025, 0.975], skewness)
    assert (low, high) == pytest.approx(tuple(exact), abs=0.003)
    assert high + low > 0.04, "the normal limit alone would be symmetric"


def test_a_few_images_that_decide_are_drawn_at_any_number():
    """9 differences of the same sign among 3,000 have p = 2 / 2^9; the normal limit would say 0.0027."""
    few = np.zeros(3000)
    few[:9] = 1
    assert tables._permutation(few) == 2 / 2**9
    assert tables._permutation(np.zeros(3000)) == 1
    low, high = interval(few)
    exact = stats.binom.ppf([0.025, 0.975], 3000, 9 / 3000) / 3000
    assert (low, high) == pytest.approx(exact)
    assert interval(np.full(3000, 5.0)) == (5, 5)
    # One difference is larger than all others together: its sign decides, and p is 1.
    heavy = np.append(np.random.default_rng(0).normal(0, 1e-4, 2999), 1)
    assert tables._permutation(heavy) == pytest.approx(1, abs=0.05)
    low, high = interval(heavy)
    assert (low, high * 3000) == pytest.approx((0, 3), abs=0.05)


def test_curves_above_the_bound_have_the_same_intervals(monkeypatch):
    records = some_records(60)
    drawn = tables.curve_differences(records, "deletion", ["union_cam"])["union_cam"]
    assert (drawn[["low", "high"]] == 0).all(axis=None), "the same curves"
    noise = np.random.default_rng(0).normal(0, 0.1, (len(records), 3))
    records["deletion_curve"] = [curve + some for curve, some in zip(records["deletion_curve"], noise, strict=True)]
    drawn = tables.curve_differences(records, "deletion", ["union_cam"])["union_cam"]
    monkeypatch.setattr(tables, "DRAWN", 59)
    monkeypatch.setattr(tables, "DECISIVE", 10)
    limit = tables.curve_differences(records, "deletion", ["union_cam"])["union_cam"]
    assert limit[["share", "difference"]].equals(drawn[["share", "difference"]])
    width = (drawn["high"] - drawn["low"]).mean()
    assert limit[["low", "high"]].to_numpy() == pytest.approx(drawn[["low", "high"]].to_numpy(), abs=0.05 * width)


def test_a_method_twice_for_an_image_is_refused():
    records = some_records(3)
    with pytest.raises(ValueError, match=r"The records hold 0\.jpg with grad_cam twice"):
        values(pd.concat([records, records[:1]]), "drop")
