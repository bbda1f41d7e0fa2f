"""Tables against hand computations and scipy, and their properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unioncam_lab import tables
from unioncam_lab.experiment import Run
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
    row = table.loc[("Average drop, % ↓", "UnionCAM")]
    assert row["published"] == 43.15
    mean = values(records, "drop")["union_cam"].mean()
    assert row["difference"] == f"{mean - 43.15:+.1f}"
    assert row["ours, N = 40"].startswith(f"{mean:.1f} [")
    assert len(table) == 10


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


def test_a_ranking_that_holds_and_one_that_does_not():
    def found_in(records):
        return ranking(records, "table 1", tables.against_table(records, "table 1")).loc["Average drop, % ↓"]

    found = found_in(some_records())
    assert found["paper, best first"].startswith("UnionCAM > Score-CAM > Group-CAM")
    assert found["ours, best first"].startswith("UnionCAM > Group-CAM > Score-CAM")
    assert found["and in ours"]
    assert found["p_holm"] < 0.01
    assert 0 < found["tau"] < 1
    worse = found_in(some_records(better=-8.0))
    assert not worse["and in ours"]
    assert worse["p_holm"] == 1


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


def test_a_table_is_exported_as_markdown_and_latex():
    table = wide(summary(some_records(6)))
    assert "| UnionCAM " in table.to_markdown()
    assert r"\begin{tabular}" in table.to_latex()
    assert table.index.name == "N = 6"


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
