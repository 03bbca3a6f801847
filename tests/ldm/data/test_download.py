import errno
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ldm.data.download import download
from ldm.errors import UserError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of CONTENT that knows ranges; it can break off, ignore ranges, or change its content."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.server.asked.append(self.headers.get("Range"))
            if self.path != "/file":
                return self.send_error(404)
            content, start = self.server.content, 0
            if self.headers.get("Range") and self.server.knows_ranges:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", hashlib.md5(content).hexdigest())
            self.end_headers()
            body = content[start:]
            self.wfile.write(body[: self.server.limit] if self.server.limit else body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.limit, server.knows_ranges = CONTENT, [], None, True
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(server, target, size=1_200_000):
    server.limit = size
    with pytest.raises(UserError, match="stopped after.*run again"):
        download(server.url, target)
    server.limit = None


def test_whole_and_noted(server, tmp_path):
    told = []
    assert (
        download(server.url, tmp_path / "new" / "a", SHA256, lambda *progress: told.append(progress))
        == SHA256
    )
    assert (tmp_path / "new" / "a").read_bytes() == CONTENT and names(tmp_path / "new") == ["a"]
    assert told[-1] == (len(CONTENT), len(CONTENT)) and server.asked == [None]


def test_goes_on_where_it_broke_off(server, tmp_path):
    target = tmp_path / "a"
    break_off(server, target)
    assert names(tmp_path) == ["a.part", "a.part.json"]
    held = (tmp_path / "a.part").stat().st_size
    assert 0 < held <= 1_200_000
    assert download(server.url, target, SHA256) == SHA256
    assert server.asked == [None, f"bytes={held}-"] and names(tmp_path) == ["a"]


def test_begins_again_when_the_file_is_another_now(server, tmp_path):
    break_off(server, tmp_path / "a")
    server.content = CONTENT[::-1]
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_begins_again_when_the_server_knows_no_ranges(server, tmp_path):
    break_off(server, tmp_path / "a")
    server.knows_ranges = False
    assert download(server.url, tmp_path / "a") == SHA256


def test_begins_again_when_the_file_is_shorter_now(server, tmp_path):
    break_off(server, tmp_path / "a")
    server.content = CONTENT[:1000]
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[:1000]


def test_what_is_left_of_another_address_is_not_gone_on_with(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.part.json").write_text('{"url": "http://elsewhere", "version": null}')
    assert download(server.url, tmp_path / "a") == SHA256 and server.asked == [None]


def test_another_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(UserError, match=f"sha256 {SHA256}, expected {'0' * 64}"):
        download(server.url, tmp_path / "a", "0" * 64)
    assert names(tmp_path) == []


def test_addresses_that_do_not_answer(server, tmp_path):
    with pytest.raises(UserError, match="/other cannot be downloaded .*404"):
        download(server.url.replace("file", "other"), tmp_path / "a")
    with pytest.raises(UserError, match="cannot be downloaded"):
        download("http://127.0.0.1:1/file", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_named_and_gone_on_from(server, tmp_path, monkeypatch):
    real = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if self.file.tell() > 1_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

    def open_on_full_disk(path, mode="r", *rest, **options):
        file = real(path, mode, *rest, **options)
        return Full(file) if path.name == "a.part" and "b" in mode and mode != "rb" else file

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(UserError, match="cannot write .*a.part: No space left on device; free some space"):
        download(server.url, tmp_path / "a")
    monkeypatch.setattr(Path, "open", real)
    assert not (tmp_path / "a").exists()
    assert download(server.url, tmp_path / "a") == SHA256 and server.asked[1].startswith("bytes=")
