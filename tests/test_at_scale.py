"""Tests of the records of 50,000 pictures and 8 methods: their size on disk, and the memory that they need."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unioncam_lab import store, tables

PICTURES, STEPS = 50_000, 28
METHODS = {  # method -> the method of the committed records that it resembles
    "grad_cam": "grad_cam",
    "grad_cam_plus_plus": "grad_cam_plus_plus",
    "score_cam": "score_cam",
    "group_cam": "group_cam",
    "union_cam": "union_cam",
    "fusion_cam": "fusion_cam",
    "score_cam:weights=score": "LayerCAM",
    "union_cam:region_weights=softmax": "union_cam:theta=0",
}


def shifted(probabilities, by):
    """Move probabilities by a number of logits, in single precision as a network's are."""
    given = np.clip(probabilities, 1e-9, 1 - 1e-7)
    return (1 / (1 + (1 - given) / given * np.exp(-by))).astype(np.float32)


def resampled(pictures: int, seed: int = 0) -> pa.Table:
    """Records like those of 500 photos: each picture is one of them, with noise on its curves and its other numbers.

    The noise is smooth along a curve, with a small part that is not, so that no two pictures share a number.
    """
    source = store.load(store.RECORDS / "imagenet_500").records
    random, along = np.random.default_rng(seed), np.linspace(0, 1, STEPS + 1)
    of_picture = random.integers(0, 500, pictures)
    sizes, parts = random.normal(0, 0.3, (2, pictures, 1)), []
    for method, alike in METHODS.items():
        rows = source[source["method"] == alike].iloc[of_picture]
        rows = rows.assign(method=method, image=[f"ILSVRC2012_val_{k:08}.JPEG" for k in range(pictures)], start=0)
        rows["label"] = rows["class"]
        rows["seconds"] *= random.normal(1, 0.02, pictures)
        for kind, whole in (("insertion", along), ("deletion", 1 - along)):
            inner = np.sin(np.pi * along)
            noise = sizes[0] * whole + sizes[1] * (1 - whole) + random.normal(0, 0.2, (pictures, 1)) * inner
            noise += random.normal(0, 0.01, (pictures, STEPS + 1)) * (inner > 1e-9)
            curves = shifted(np.stack(list(rows[f"{kind}_curve"])).astype(float), noise)
            rows[kind], rows[f"{kind}_curve"] = 100 * np.trapezoid(curves.astype(float), along), list(curves)
        before = curves[:, 0].astype(float)
        after = shifted(rows["masked_probability"].to_numpy(), sizes[0, :, 0]).astype(float)
        rows = rows.assign(probability=before, masked_probability=after, increase=after > before)
        rows["drop"] = 100 * np.clip(before - after, 0, None) / before
        for beta in ("beta_denoising", "beta_region", "beta_united"):
            rows[beta] = (rows[beta] * random.normal(1, 0.1, pictures)).astype(np.float32).astype(float)
        parts.append(pa.Table.from_pandas(rows, preserve_index=False))
    whole = pa.concat_tables(parts, promote_options="permissive").replace_schema_metadata()
    order = (np.arange(pictures)[:, None] + pictures * np.arange(len(METHODS))).flatten()
    return whole.take(order)


@pytest.fixture(scope="module")
def table():
    return resampled(PICTURES)


@pytest.mark.slow
def test_50_000_pictures_resume_load_and_fit(table, tmp_path, monkeypatch):
    """49,900 pictures lie in parts, as a run writes them. The journal has only the last ones."""
    info = {"images": "any", "options": {"protocol": {}}, "available": PICTURES, "started": [{"chunk": 8}]}
    names, rows = table["image"].to_pylist()[:: len(METHODS)], len(METHODS)
    with store.opened(tmp_path, info) as folder:
        folder._write_info()
        for i, first in enumerate(range(0, 49_000, store.PART)):
            part = table.slice(first * rows, store.PART * rows)
            pictures = dict.fromkeys(names[first : first + store.PART])
            part = part.replace_schema_metadata({store.PICTURES: store.json.dumps(pictures)})
            store.write(tmp_path / f"records-{i:05}.parquet", store._parquet(part))
        last = table.slice(49_000 * rows).to_pylist()
        for first in range(0, len(last), rows):
            line = {"image": last[first]["image"], "rows": last[first : first + rows]}
            monkeypatch.setattr(store.os, "fsync", lambda _: None)
            if first // rows < 900:
                folder._journal.append(line)
    with store.opened(tmp_path, info) as folder:
        tracemalloc.start()
        assert len(folder.done()) == 49_900
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
        tracemalloc.stop()
        for first in range(900 * rows, len(last), rows):
            start = {"chunk": 8}
            folder.append({"image": last[first]["image"], "rows": last[first : first + rows], "start": start})
        made = folder.finish(names[::-1])
    assert (tmp_path / "records.parquet").stat().st_size < 100e6
    assert made.records["image"].tolist()[::rows] == names[::-1]
    assert made.records["method"].tolist()[:rows] == list(METHODS)
    loaded = store.load(tmp_path).records
    pd.testing.assert_frame_equal(loaded.drop(columns=CURVES), made.records.drop(columns=CURVES), check_exact=True)
    expected = table["insertion_curve"].combine_chunks().flatten().to_numpy().reshape(-1, rows, STEPS + 1)[::-1]
    assert np.array_equal(np.stack(list(loaded["insertion_curve"])), expected.reshape(-1, STEPS + 1))


CURVES = ["insertion_curve", "deletion_curve"]


@pytest.mark.slow
def test_tables_of_50_000_pictures_need_little_memory(table):
    records = table.drop_columns(CURVES).to_pandas()
    tracemalloc.start()
    means = tables.summary(records)
    tables.wide(means)
    tables.readings(records, "table 1")
    tables.orders(records, "table 3")
    assert tracemalloc.get_traced_memory()[1] < 1.5e9
    tracemalloc.stop()
    assert (means["n"] == PICTURES).all()
    assert (means["low"] < means["mean"]).all()
    assert (means["mean"] < means["high"]).all()
