"""Tests of the folder of a run: it loses nothing, and one run at a time works in it."""

import errno
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import TINY_METHODS, same, tiny_run
from tiny import TinyClassifier

from unioncam_lab import store, tables
from unioncam_lab.classifiers import LabProtocol
from unioncam_lab.report import write_report
from unioncam_lab.store import RECORDS, Journal, load, opened

pytestmark = pytest.mark.usefixtures("one_thread")


def test_another_error_of_the_disk_is_not_called_full(tmp_path):
    with pytest.raises(OSError, match=r"(?i)is a directory|directory"):
        store.write(tmp_path, b"")


def test_a_journal_forgets_a_line_that_was_cut(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"image": "a"}\n{"image": "b", "ro')
    assert list(Journal(path, repair=False).entries()) == [{"image": "a"}]
    assert path.stat().st_size > 15
    journal = Journal(path)
    journal.append({"image": "c"})
    assert path.read_bytes() == b'{"image": "a"}\n{"image": "c"}\n'
    assert [entry["image"] for entry in journal.entries()] == ["a", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["before records.parquet", "before run.json", "before the journal goes"])
def test_killed_at_the_end_it_ends_with_the_same_records(folder, tmp_path, monkeypatch, stage):
    expected = tiny_run(folder, limit=5)
    write, written = store.write, []

    def killed(path, content):
        written.append(path.name)
        if stage == "before records.parquet" and path.name == "records.parquet":
            raise KeyboardInterrupt
        if stage == "before run.json" and written.count("run.json") == 2:
            raise KeyboardInterrupt
        write(path, content)
        if stage == "before the journal goes" and written.count("run.json") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_run(folder, tmp_path, limit=5)
    same(tiny_run(folder, tmp_path, limit=5).records, expected.records)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 5}, "whose limit is 4, not 5"),
        ({"seed": 1}, "whose seed is 0, not 1"),
        ({"methods": ["grad_cam"]}, "whose methods is "),
        ({"metrics": ["drop"]}, "whose metrics is "),
        ({"protocol": LabProtocol(relu=False)}, "whose relu is True, not False"),
    ],
)
def test_a_changed_option_is_refused_and_named(folder, tmp_path, change, message):
    tiny_run(folder, tmp_path, limit=4)
    before = (tmp_path / "records.parquet").read_bytes()
    with pytest.raises(ValueError, match=message):
        tiny_run(folder, tmp_path, **{"limit": 4} | change)
    assert (tmp_path / "records.parquet").read_bytes() == before


def test_a_second_runner_is_refused(folder, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="Another run is at work in"):
        tiny_run(folder, tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert len(tiny_run(folder, tmp_path, limit=1).records) == len(TINY_METHODS)


@pytest.mark.slow
def test_a_run_can_be_looked_at_before_it_is_finished(folder, tmp_path):
    made = tiny_run(folder, tmp_path, limit=6)
    info = json.loads((tmp_path / "run.json").read_text())
    del info["finished"], info["skipped"]
    (tmp_path / "run.json").write_text(json.dumps(info))
    entries = [
        {"image": image, "rows": json.loads(rows.to_json(orient="records"))}
        for image, rows in made.records.groupby("image", sort=False)
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries[:4]))
    (tmp_path / "records.parquet").unlink()
    assert load(tmp_path).records["image"].nunique() == 4
    page = write_report(tmp_path, TinyClassifier(), count=2).read_text(encoding="utf-8")
    assert "not finished yet" in page


INFO = {"images": "any", "options": {"seed": 0, "protocol": {"relu": True}}, "available": 3, "started": []}


def entry(image, chunk=8, date="today", **row):
    return {"image": image, "rows": [{"image": image, "method": "m"} | row], "start": {"chunk": chunk, "date": date}}


def test_a_folder_keeps_entries_and_with_what_each_was_computed(tmp_path):
    given = entry("a")
    with opened(tmp_path, INFO | {"started": []}) as folder:
        assert folder.started is None
        assert not (tmp_path / "run.json").exists(), "nothing is computed yet"
        for each in (given, entry("c", 4, "tomorrow"), entry("b", 8, "tomorrow")):
            folder.append(each)
    assert given == entry("a"), "it is left as it was"
    assert load(tmp_path).info["started"] == [{"chunk": 8, "date": "today"}, {"chunk": 4, "date": "tomorrow"}]
    with opened(tmp_path, INFO | {"started": []}) as folder:
        assert folder.started == {"chunk": 4, "date": "tomorrow"}
        assert folder.done() == {"a", "b", "c"}
        made = folder.finish(["a", "b", "c"])
    assert list(made.records["image"]) == ["a", "b", "c"]
    assert list(made.records["start"]) == [0, 0, 1]
    assert list(load(tmp_path).records["start"]) == [0, 0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "records.parquet", "run.json"]


def test_a_columns_name_says_what_it_holds(tmp_path):
    with opened(tmp_path, INFO | {"started": []}) as folder:
        folder.append(entry("a", any_curve=[0.1, 0.2], any_rho=[1], beta_any=None, other=[1]))
        folder.append({"image": "b", "skipped": "a reason", "start": {"chunk": 8, "date": "today"}})
        for records in (load(tmp_path).records, folder.finish(["a", "b"]).records, load(tmp_path).records):
            (row,) = records.itertuples()
            assert row.any_curve.dtype == row.any_rho.dtype == np.float32
            np.testing.assert_array_equal(row.any_curve, np.float32([0.1, 0.2]))
            assert records["beta_any"].dtype == float
            assert list(row.other) == [1]
    assert load(tmp_path).info["skipped"] == {"b": "a reason"}


def many(count):
    """Entries of pictures with two methods each; every fifth is skipped, and some columns are empty or rare."""
    entries, random = [], np.random.default_rng(0)
    for i in range(count):
        name = f"{i * 7 % count:03}.png"
        if i % 5 == 3:
            entries.append({"image": name, "skipped": f"reason {i}", "start": {"chunk": 8, "date": "today"}})
            continue
        row = {"label": None if i < 6 else "a", "target": i, "any_curve": random.random(3).astype(np.float32).tolist()}
        row |= {"beta_any": None, "drop": random.random(), "increase": bool(i % 2)}
        rows = [{"image": name, "method": m, "selected": "region" if m == "b" else None} | row for m in "ab"]
        if i == 8:
            rows[0]["rare"] = 0.5
        entries.append({"image": name, "rows": rows, "start": {"chunk": 8 + i // 9, "date": "today"}})
    return entries


def kept(out, entries, order=None, known=()):
    """Keep the entries that a run in a folder lacks, and finish it if there is an order, as `experiment.run` does.

    `known`, if it is a set, then has the ids of the pictures that were certainly kept.
    """
    with opened(out, INFO | {"started": []}) as folder:
        if "finished" in folder.info:
            return load(out)
        done = folder.done()
        known = known if isinstance(known, set) else set()
        known |= done
        for each in entries:
            if each["image"] not in done:
                folder.append(each)
                known.add(each["image"])
        return folder.finish(order) if order else None


def parts_of(out):
    return sorted(path.name for path in out.iterdir() if path.name.startswith("records-"))


@pytest.fixture(scope="module")
def uncompacted(tmp_path_factory):
    """The records of 20 entries, of a run whose journal never moves."""
    out = tmp_path_factory.mktemp("uncompacted")
    return kept(out, many(20), sorted(entry["image"] for entry in many(20)))


def test_records_are_the_same_with_parts_and_without(uncompacted, tmp_path, monkeypatch):
    order = sorted(entry["image"] for entry in many(20))
    rows = [row for each in sorted(many(20), key=lambda each: each["image"]) for row in each.get("rows", [])]
    assert uncompacted.records["drop"].tolist() == [row["drop"] for row in rows]
    assert uncompacted.records["image"].is_monotonic_increasing
    assert list(uncompacted.info["skipped"]) == sorted(uncompacted.info["skipped"])
    monkeypatch.setattr(store, "PART", 3)
    kept(tmp_path, many(20))
    assert len(parts_of(tmp_path)) == 6
    assert sum(1 for _ in Journal(tmp_path / "journal.jsonl").entries()) == 2
    unfinished = load(tmp_path)
    made = kept(tmp_path, [], order)
    pd.testing.assert_frame_equal(made.records, uncompacted.records, check_exact=True)
    pd.testing.assert_frame_equal(load(tmp_path).records, uncompacted.records, check_exact=True)
    again = unfinished.records.sort_values("image", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(again, uncompacted.records, check_exact=True)
    assert unfinished.info["skipped"] == made.info["skipped"] == uncompacted.info["skipped"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "records.parquet", "run.json"]


def test_an_unfinished_run_without_parts_continues(uncompacted, tmp_path, monkeypatch):
    """A long journal, as runs have it that never moved their pictures, becomes several parts at once."""
    kept(tmp_path, many(20)[:11])
    monkeypatch.setattr(store, "PART", 3)
    assert load(tmp_path).records["image"].nunique() == 9
    kept(tmp_path, many(20)[:12])
    assert len(parts_of(tmp_path)) == 4
    made = kept(tmp_path, many(20), sorted(entry["image"] for entry in many(20)))
    pd.testing.assert_frame_equal(made.records, uncompacted.records, check_exact=True)


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_after(steps, out, patch):
    """Raise Killed before or after the given step of the disk: a synchronization, a replacement or a deletion.

    A file that is not synchronized loses its end.
    """
    count = iter(range(steps, -1, -1))

    def wrap(change, tear=lambda *_: None):
        def changed(first, *rest, **options):
            if isinstance(first, Path) and first.parent != out:
                return change(first, *rest, **options)
            if next(count, None) == 0:
                tear(first)
                raise Killed
            result = change(first, *rest, **options)
            if next(count, None) == 0:
                raise Killed
            return result

        return changed

    patch.setattr(store.os, "fsync", wrap(lambda _: None, lambda file: os.ftruncate(file, os.fstat(file).st_size - 2)))
    patch.setattr(Path, "replace", wrap(Path.replace))
    patch.setattr(Path, "unlink", wrap(Path.unlink))


def run_killed(out, kills, entries, order):
    """Run until it is finished, killed at the given steps; after each, the folder holds what was kept, each once."""
    expected = {entry["image"]: entry for entry in entries}
    for steps in kills:
        known: set[str] = set()
        with pytest.MonkeyPatch.context() as patch:
            killed_after(steps, out, patch)
            try:
                made = kept(out, entries, order, known)
                (out / "ended").touch()
                return made
            except Killed:
                pass
        if not (out / "run.json").exists():
            assert not known
            continue
        found = load(out)
        rows = found.records.value_counts("image") if len(found.records) else pd.Series(dtype=int)
        skipped = set(found.info["skipped"])
        assert (rows == 2).all()
        assert not skipped & set(rows.index)
        assert known <= skipped | set(rows.index) <= set(expected)
        assert len(skipped | set(rows.index)) - len(known) <= 1 or not known, "only the one at work can be more"
        assert skipped == {name for name in skipped | set(rows.index) if "skipped" in expected[name]}
    return kept(out, entries, order)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(kills=st.lists(st.integers(0, 40), max_size=6))
def test_killed_at_any_step_nothing_is_lost_or_twice(uncompacted, kills):
    order = sorted(entry["image"] for entry in many(20))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as out:
        patch.setattr(store, "PART", 3)
        made = run_killed(Path(out), kills, many(20), order)
        pd.testing.assert_frame_equal(made.records, uncompacted.records, check_exact=True)
        pd.testing.assert_frame_equal(load(out).records, uncompacted.records, check_exact=True)
        assert made.info["skipped"] == uncompacted.info["skipped"]
        kept(Path(out), [])
        assert {path.name for path in Path(out).iterdir()} - {"ended"} == {".lock", "records.parquet", "run.json"}


@pytest.mark.slow
def test_killed_at_each_step_nothing_is_lost_or_twice(tmp_path, monkeypatch):
    """The steps of a run from its beginning to its end, one after the other."""
    entries, order = many(8), sorted(entry["image"] for entry in many(8))
    expected = kept(tmp_path / "whole", entries, order).records
    monkeypatch.setattr(store, "PART", 3)
    out, steps = tmp_path, 0
    while not (out / "ended").exists():
        out = tmp_path / str(steps)
        out.mkdir()
        made = run_killed(out, [steps], entries, order)
        pd.testing.assert_frame_equal(made.records, expected, check_exact=True)
        steps += 1
    assert steps > 40


def test_a_full_disk_keeps_what_the_journal_had(uncompacted, tmp_path, monkeypatch):
    """Space is lacking for the first part, then for the end of the run."""
    monkeypatch.setattr(store, "PART", 3)
    order, sync = sorted(entry["image"] for entry in many(20)), os.fsync
    for file in ("records-00000", "records.parquet"):

        def full(number, file=file):
            if any(path.name.endswith(".part") and path.name.startswith(file) for path in tmp_path.iterdir()):
                raise OSError(errno.ENOSPC, "no space")
            sync(number)

        with monkeypatch.context() as patch:
            patch.setattr(store.os, "fsync", full)
            with pytest.raises(OSError, match=r"The disk is full\. What was computed is kept in"):
                kept(tmp_path, many(20), order)
        assert not list(tmp_path.glob("*.part"))
        assert len(load(tmp_path).records) == (6 if file == "records-00000" else 32)
    pd.testing.assert_frame_equal(kept(tmp_path, [], order).records, uncompacted.records, check_exact=True)


def test_a_run_is_loaded_while_its_pictures_move_and_while_it_ends(uncompacted, tmp_path, monkeypatch):
    order, find = sorted(entry["image"] for entry in many(20)), store._parts
    kept(tmp_path, many(20)[:10])
    with opened(tmp_path, INFO) as folder:

        def moved_first(out):
            monkeypatch.setattr(store, "_parts", find)
            folder._compact()
            return find(out)

        monkeypatch.setattr(store, "_parts", moved_first)
        assert load(tmp_path).records["image"].nunique() == len(load(tmp_path).records) / 2 == 8
        assert parts_of(tmp_path) == ["records-00000.parquet"]
        for each in many(20)[10:]:
            folder.append(each)

        def ended_first(out):
            monkeypatch.setattr(store, "_parts", find)
            found = find(out)
            folder.finish(order)
            return found

        monkeypatch.setattr(store, "_parts", ended_first)
        pd.testing.assert_frame_equal(load(tmp_path).records, uncompacted.records, check_exact=True)


def test_a_damaged_part_is_named_and_its_pictures_can_be_computed_again(uncompacted, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART", 3)
    kept(tmp_path, many(20))
    part = tmp_path / "records-00001.parquet"
    part.write_bytes(part.read_bytes()[:-30])
    for read in (lambda: load(tmp_path), lambda: kept(tmp_path, [])):
        with pytest.raises(ValueError, match=r"records-00001.parquet is damaged: delete it and run again"):
            read()
    part.unlink()
    made = kept(tmp_path, many(20), sorted(entry["image"] for entry in many(20)))
    pd.testing.assert_frame_equal(made.records, uncompacted.records, check_exact=True)


def test_what_is_kept_keeps_every_bit(tmp_path):
    """Curves have single precision, other numbers double precision."""
    bits = np.random.default_rng(0).integers(0, 2**32, (6, 8), dtype=np.uint32)
    curves = np.where(np.isnan(bits.view(np.float32)), np.float32(0), bits.view(np.float32))
    entries = [entry(str(i), any_curve=curves[i].tolist(), drop=float(np.pi / 7**i)) for i in range(6)]
    kept(tmp_path, entries, [str(i) for i in range(6)])
    records = load(tmp_path).records
    assert np.stack(list(records["any_curve"])).tobytes() == curves.tobytes()
    assert records["drop"].tolist() == [np.pi / 7**i for i in range(6)]


def test_pictures_that_are_all_skipped_make_empty_records(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART", 2)
    skipped = [{"image": name, "skipped": "why", "start": {"chunk": 8}} for name in "abc"]
    kept(tmp_path, skipped)
    assert load(tmp_path).records.empty
    with opened(tmp_path, INFO) as folder:
        assert folder.done() == set("abc")
    made = kept(tmp_path, [], list("cab"))
    assert list(made.info["skipped"]) == list("cab")
    assert load(tmp_path).records.empty


def test_another_file_of_the_folder_is_left_alone(tmp_path):
    tmp_path.joinpath("records-of-mine.parquet").write_bytes(b"mine")
    kept(tmp_path, [entry("a")], ["a"])
    assert tmp_path.joinpath("records-of-mine.parquet").read_bytes() == b"mine"


def test_a_folder_of_another_run_is_refused(tmp_path):
    with opened(tmp_path, INFO | {"started": []}) as folder:
        folder.append(entry("a"))
    for other, message in (
        ({"seed": 1, "protocol": {"relu": True}}, "whose seed is 0, not 1"),
        ({"seed": 0, "protocol": {"relu": False}}, "whose relu is True, not False"),
        ({"seed": 0, "protocol": {"relu": True}, "precision": "bf16"}, "whose precision is None, not bf16"),
    ):
        with pytest.raises(ValueError, match=message), opened(tmp_path, INFO | {"options": other}):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RECORDS.rglob("run.json")), ids=lambda path: path.parent.name)
def test_committed_records_load(path):
    made = load(path.parent)
    assert asdict(LabProtocol(**made.info["options"]["protocol"])) == made.info["options"]["protocol"]
    shown = tables.summary(made.records)
    assert shown["mean"].notna().all()
    assert set(shown["method"]) == set(made.info["options"]["methods"])


@pytest.mark.slow
def test_a_report_of_records_of_an_older_protocol(folder, tmp_path):
    """Older records lack options that were added later, and how masked images were scored."""
    tiny_run(folder, tmp_path, limit=3)
    info = json.loads((tmp_path / "run.json").read_text())
    del info["options"]["protocol"]["clamp_beta"], info["options"]["protocol"]["image_fit"]
    info["started"] = [{"date": "long ago", "torch": "2.6"}]
    (tmp_path / "run.json").write_text(json.dumps(info))
    records = load(tmp_path).records.drop(columns="start")
    records.to_parquet(tmp_path / "records.parquet")
    page = write_report(tmp_path, TinyClassifier(), count=2).read_text(encoding="utf-8")
    assert "long ago" in page
    assert page.count("<img") == 3
    assert tables.values(load(tmp_path).records, "drop").shape == (3, len(TINY_METHODS))
