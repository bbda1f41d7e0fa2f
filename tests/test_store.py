"""Tests of the folder of a run: it loses nothing, and one run at a time works in it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from filelock import FileLock
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
