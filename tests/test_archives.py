"""Tests of the archives: what is read from where it lies, short and damaged archives, and the development kit."""

import io
import logging
import os
import pickle
import tarfile
import zipfile

import archives as made
import pytest
from scipy.io import savemat

from unioncam_lab import archives
from unioncam_lab.archives import Member, devkit_labels, files, kind, opened, printable


@pytest.fixture
def content():
    return {"a.txt": b"alpha", "b/c.bin": bytes(range(256)) * 9, "empty": b"", "b/last": b"z" * 512}


@pytest.fixture
def archive(tmp_path, content):
    return made.write_tar(tmp_path / "a.tar", content)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_files_of_an_archive_are_those_of_the_folder_it_was_made_of(tmp_path, archive, content, caplog):
    folder = made.write_folder(tmp_path / "folder", content)
    inside, below = files(archive), files(folder)
    assert {name: file.read_bytes() for name, file in inside.items()} == content
    assert {name: file.read_bytes() for name, file in below.items()} == content
    assert {name: file.size for name, file in inside.items()} == {name: len(data) for name, data in content.items()}
    assert str(inside["b/c.bin"]) == f"b/c.bin in {archive}"
    assert opened(inside["a.txt"]).read() == b"alpha"
    assert opened(folder) == folder
    assert not warnings(caplog)


def test_a_member_pickles_to_little_and_reads_where_it_arrives(archive, content):
    member = files(archive)["b/c.bin"]
    pickled = pickle.dumps(member)
    assert len(pickled) < 400
    assert pickle.loads(pickled) == member
    assert pickle.loads(pickled).read_bytes() == content["b/c.bin"]


def test_links_and_folders_in_an_archive_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, type_ in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("./inside")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    assert {name: file.read_bytes() for name, file in files(tmp_path / "a.tar").items()} == {"inside": b"abc"}


def test_the_index_is_kept_until_the_archive_changes(tmp_path, archive, content, monkeypatch):
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path / "cache"))
    indexed, index = [], archives._index
    monkeypatch.setattr(archives, "_index", lambda path: indexed.append(path) or index(path))
    assert files(archive) == files(archive) == files(archive)
    assert len(indexed) == 1
    made.write_tar(archive, content | {"new": b"new"})
    assert files(archive)["new"].read_bytes() == b"new"
    os.utime(archive, (1, 1))
    assert set(files(archive)) == {*content, "new"}
    assert len(indexed) == 3
    monkeypatch.setenv("UNIONCAM_CACHE", "off")
    assert set(files(archive)) == {*content, "new"}
    assert len(indexed) == 4


def test_a_cache_that_cannot_be_written_does_not_stop_the_reading(tmp_path, archive, content, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("UNIONCAM_CACHE", str(tmp_path / "cache"))
    assert set(files(archive)) == set(content)


def test_an_archive_that_was_cut_has_the_files_before_the_cut(tmp_path, archive, content, caplog):
    """It is cut at each position; a file is there whole, or cut, or not at all, and one warning says it."""
    whole, names = archive.read_bytes(), list(content)
    members = list(files(archive).values())
    end = members[-1].offset + members[-1].size
    for length in range(1, len(whole), 97):
        caplog.clear()
        cut = tmp_path / f"{length}.tar"
        cut.write_bytes(whole[:length])
        if length < members[0].offset:
            with pytest.raises(ValueError, match=rf"{length}\.tar is not a tar archive: .*\.$"):
                files(cut)
            continue
        found = files(cut)
        assert list(found) == names[: len(found)]
        for name, file in found.items():
            if file.offset + file.size <= length:
                assert file.read_bytes() == content[name]
            else:
                with pytest.raises(ValueError, match=rf"the archive ends after \d+ of its {file.size} bytes"):
                    file.read_bytes()
        if length >= end + 512:
            assert not warnings(caplog)
            continue
        (warning,) = warnings(caplog)
        assert f"{length}.tar is short or damaged: {len(found)} files of it are found" in warning
        assert ("is cut" in warning) == any(file.offset + file.size > length for file in found.values())


def test_an_archive_that_ends_in_zeros_where_a_file_should_be_is_damaged(archive, caplog):
    """So does a download whose space was reserved before it was cut off."""
    whole = archive.read_bytes()
    begin = files(archive)["b/c.bin"].offset - 512
    archive.write_bytes(whole[:begin] + bytes(2 * 2**20))
    assert set(files(archive)) == {"a.txt"}
    (warning,) = warnings(caplog)
    assert warning.endswith("is short or damaged: 1 files of it are found. Get it again to have all of them.")


def test_an_archive_with_a_damaged_header_has_the_files_before_it(archive, caplog):
    whole = bytearray(archive.read_bytes())
    begin = files(archive)["b/c.bin"].offset - 512
    whole[begin : begin + 100] = b"?" * 100
    archive.write_bytes(whole)
    assert set(files(archive)) == {"a.txt"}
    assert "is short or damaged: 1 files" in warnings(caplog)[0]


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "it is a web page"),
        (zipped(), "it is a ZIP archive"),
        (b"\x1f\x8b\x08" + b"\0" * 600, "it is compressed by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"x" * 2000, ".+"),
    ],
)
def test_what_is_no_archive_is_one_sentence(tmp_path, data, reason):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=rf"^.*a\.tar is not a tar archive: {reason}\.$") as refused:
        files(tmp_path / "a.tar")
    assert "\n" not in str(refused.value)


def test_a_web_page_is_known_by_its_beginning():
    for page in (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", b"<HTML lang=en>", b"<?xml version='1.0'?><html xmlns='x'>"):
        assert kind(page) == "it is a web page"
    assert kind(made.photo(1)[:512]) is None
    assert kind(b"<?xml version='1.0'?><annotation>") is None


def test_a_path_that_is_not_utf8_can_be_printed(tmp_path):
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"
    assert printable(tmp_path / "café.jpg") == str(tmp_path / "café.jpg")
    assert str(Member(tmp_path, os.fsdecode(b"\xff"), 0, 0)) == rf"\xff in {tmp_path}"


def test_a_link_that_leads_to_a_folder_above_is_not_followed(tmp_path):
    made.write_folder(tmp_path, {"a/b": b"x"})
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert set(files(tmp_path)) == {"a/b", "self"}


@pytest.fixture
def forbidden(tmp_path):
    folder = tmp_path / "secret"
    made.write_folder(folder, {"a": b"x"})
    folder.chmod(0)
    if os.access(folder, os.R_OK):
        folder.chmod(0o700)
        pytest.skip("this user may read every folder")
    yield folder
    folder.chmod(0o700)


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, forbidden, caplog):
    with pytest.raises(OSError, match=r"^The folder .*secret cannot be read: Permission denied\.$"):
        files(forbidden)
    (tmp_path / "b").touch()
    assert set(files(tmp_path)) == {"b"}
    assert warnings(caplog) == [f"The folder {forbidden} cannot be read: Permission denied; its pictures are left out."]


def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path, monkeypatch, caplog):
    """As above, for a user who may read every folder."""
    made.write_folder(tmp_path, {"a/x": b"x", "b/y": b"y"})
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("a"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert set(files(tmp_path)) == {"b/y"}
    assert "a cannot be read: Permission denied; its pictures are left out." in warnings(caplog)[0]
    with pytest.raises(OSError, match=r"^The folder .*a cannot be read: Permission denied\.$"):
        files(tmp_path / "a")


def test_the_development_kit_gives_each_picture_its_wordnet_id(tmp_path):
    labels = devkit_labels(made.devkit(tmp_path, 12))
    assert labels == {number: made.wordnet_id(number) for number in range(1, 13)}
    assert len(set(labels.values())) == 5
    assert "n00001740" not in labels.values(), "a synset with others below it is no class"


def broken_devkits():
    meta = io.BytesIO()
    savemat(meta, {"other": 1})
    inside = "ILSVRC2012_devkit_t12/data/"
    whole = {f"{inside}meta.mat": meta.getvalue(), f"{inside}ILSVRC2012_validation_ground_truth.txt": b"1\n"}
    return [
        ({}, r"it has no meta\.mat"),
        (whole, "it has no synsets"),
        ({f"{inside}meta.mat": b"no MATLAB file"}, ".+"),
    ]


@pytest.mark.parametrize(("inside", "reason"), broken_devkits())
def test_a_broken_development_kit_is_one_sentence(tmp_path, inside, reason):
    path = made.write_tar(tmp_path / made.DEVKIT, inside, "w:gz")
    with pytest.raises(ValueError, match=rf"^The development kit .*t12\.tar\.gz cannot be used: {reason}\.$") as error:
        devkit_labels(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"<html>", made.photo(1)])
def test_what_is_no_development_kit_is_one_sentence(tmp_path, data):
    (tmp_path / made.DEVKIT).write_bytes(data)
    with pytest.raises(ValueError, match=r"^The development kit .*t12\.tar\.gz cannot be used: .+") as error:
        devkit_labels(tmp_path / made.DEVKIT)
    assert "\n" not in str(error.value)


def test_a_development_kit_that_was_cut_is_one_sentence(tmp_path):
    path = made.devkit(tmp_path, 12)
    whole = path.read_bytes()
    for length in range(0, len(whole), 100):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cannot be used: .+") as error:
            devkit_labels(path)
        assert "\n" not in str(error.value)
