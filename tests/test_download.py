"""Tests of the downloads, with a server on this machine that gives ranges and can be cut off."""

import hashlib
import http.server
import re
import shutil
import threading
from functools import partial

import pytest

from unioncam_lab import download as module
from unioncam_lab.__main__ import main
from unioncam_lab.download import Archive, archive, download

CONTENT = bytes(range(256)) * 5000  # 1.28 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as `server.mode` says, and notes the ranges that are asked for."""

    def do_GET(self):
        self.server.asked.append(self.headers["Range"])
        mode = self.server.mode
        if mode == "missing":
            return self.send_error(404)
        if mode == "web page":
            return self.answer(200, b"<!DOCTYPE html><html>Log in</html>", kind="text/html; charset=utf-8")
        content = b"<html>Sorry</html>" if mode == "disguised" else CONTENT
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        if mode == "no ranges":
            return self.answer(200, content)
        if start >= len(content):
            return self.send_error(416)
        cut = {"cut off": 300_000, "cut off at once": 0}.get(mode)
        return self.answer(206, content[start:], cut)

    def answer(self, status, content, cut=None, kind="application/x-tar"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Say nothing when a client has gone."""


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.mode = [], "ranges"
        server.wanted = Archive(f"http://127.0.0.1:{server.server_address[1]}/a.tar", "a.tar", MD5)
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", ["ranges", "no ranges"])
def test_an_archive_gets_its_name_when_it_is_whole(server, tmp_path, mode):
    server.mode = mode
    path = download(server.wanted, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "a.tar"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["a.tar"]
    assert download(server.wanted, path.parent) == path
    assert server.asked == ["bytes=0-"], "what is there is not downloaded again"


@pytest.mark.parametrize("mode", ["ranges", "no ranges", "cut off"])
def test_a_download_goes_on_where_it_was_cut_off(server, tmp_path, mode):
    server.mode = mode
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:123_456])
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT
    later = ["bytes=423456-", "bytes=723456-", "bytes=1023456-"] if mode == "cut off" else []
    assert server.asked == ["bytes=123456-", *later]


def test_a_partial_file_that_is_whole_is_only_checked(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["a.tar"]


def test_a_connection_that_brings_nothing_is_one_sentence_and_what_arrived_is_kept(server, tmp_path):
    server.mode = "cut off at once"
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:600_000])
    with pytest.raises(OSError, match=r"was cut off; 0\.6 MB of it are kept in .*a\.tar\.part: run the same command"):
        download(server.wanted, tmp_path)
    assert names(tmp_path) == ["a.tar.part"]
    server.mode = "ranges"
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("missing", OSError, r"a\.tar cannot be had: the server answers 404 Not Found\.$"),
        ("web page", ValueError, r"a\.tar gives a web page instead of the archive: try again later"),
        ("disguised", ValueError, r"a\.tar gave is not the archive: it is a web page\. Its checksum is not .* deleted"),
    ],
)
def test_a_server_that_gives_something_else_is_one_sentence(server, tmp_path, mode, error, message):
    server.mode = mode
    with pytest.raises(error, match=message):
        download(server.wanted, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("start", [b"other", b"other" * 300_000], ids=["a part of another", "a longer one"])
def test_a_wrong_checksum_is_one_sentence_and_the_next_download_begins_anew(server, tmp_path, start):
    (tmp_path / "a.tar.part").write_bytes(start)
    with pytest.raises(ValueError, match=rf"Its checksum is not {MD5}, so it was deleted; run the same command again"):
        download(server.wanted, tmp_path)
    assert names(tmp_path) == []
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT


def test_a_file_of_that_name_with_another_content_is_left_alone(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a\.tar is there, but its checksum is not that of http.*: remove it\."):
        download(server.wanted, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == b"mine"
    assert server.asked == []


def test_without_a_network_there_is_one_sentence(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(
        OSError, match=r"http.*a\.tar cannot be reached: .*refused.*\. Check the connection, or download"
    ):
        download(server.wanted, tmp_path)
    assert names(tmp_path) == []


def test_a_disk_without_room_is_one_sentence_before_the_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"The disk of .* is full\. Free some space, and run the same command again"):
        download(server.wanted, tmp_path)
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(server, tmp_path):
    """A limit on the size of files stands for the full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(OSError, match=r"The disk of .* is full\. Free some space") as full:
            download(server.wanted, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(full.value)
    kept = (tmp_path / "a.tar.part").read_bytes()
    assert kept == CONTENT[: len(kept)]
    assert names(tmp_path) == ["a.tar.part"]
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT


def test_a_download_that_is_interrupted_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    class Interrupting:
        def __init__(self, *_, **__):
            self.seen = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            self.seen += count
            if self.seen > 300_000:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            download(server.wanted, tmp_path)
    assert names(tmp_path) == ["a.tar.part"]
    kept = (tmp_path / "a.tar.part").stat().st_size
    assert kept > 300_000
    assert download(server.wanted, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=0-", f"bytes={kept}-"]


def test_only_voc2007_can_be_downloaded():
    assert archive("voc2007").filename == "VOCtest_06-Nov-2007.tar"
    assert archive("voc2007").md5 == "b6e924de25625d8de591ea690078ad9f"
    assert archive("voc2007").url.endswith("/VOC/voc2007/VOCtest_06-Nov-2007.tar")
    with pytest.raises(
        ValueError, match=r"^ilsvrc2012 cannot be downloaded; voc2007 can\. ILSVRC2012 is handed out to"
    ):
        archive("ilsvrc2012")
    with pytest.raises(ValueError, match=r"^coco cannot be downloaded; voc2007 can\.$"):
        archive("coco")


def test_the_command_says_where_the_archive_is(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "archive", lambda name: server.wanted)
    assert main(["download", "voc2007", str(tmp_path)]) == 0
    assert f"give voc2007:{tmp_path / 'a.tar'} to --images" in capsys.readouterr().out
    (tmp_path / "a.tar").unlink()
    server.mode = "missing"
    assert main(["download", "voc2007", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"unioncam download: http\S+ cannot be had: the server answers 404 Not Found\.\n", said)
