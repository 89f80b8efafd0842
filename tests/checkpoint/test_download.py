"""Weights from a URL, from a server on this machine that is honest, slow to finish, or somebody else."""

import hashlib
import http.server
import threading

import pytest
import torch

from maskrcnn.checkpoint import CheckpointError, download, read_weights, save_checkpoint
from maskrcnn.checkpoint.download import fetch, shown
from maskrcnn.config import load_config

PAGE = b"<!DOCTYPE html><html>404</html>"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """`files` by path: bytes, or (bytes, the length that is claimed); `asked` are the paths of all requests."""
    files, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            asked.append(path)
            if path not in files:
                return self.send_error(404)
            content = files[path]
            body, length = content if isinstance(content, tuple) else (content, len(content))
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.files, found.asked = files, asked
    found.url = f"http://127.0.0.1:{found.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def weights(tmp_path):
    save_checkpoint(tmp_path / "w.pth", {"layer.weight": torch.arange(6.0)})
    return (tmp_path / "w.pth").read_bytes()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def left(tmp_path):
    """What the cache holds, without locks."""
    return [p.name for p in (tmp_path / "home").rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_file_is_fetched_once_and_read(server, weights, tmp_path):
    server.files["/a%20b/model_final.pth"] = weights
    spec = f"{server.url}/a%20b/model_final.pth#sha256={digest(weights).upper()}"
    first = fetch(spec)
    assert first.read_bytes() == weights and first.parent == tmp_path / "home" / "hub" / "checkpoints"
    assert first.suffix == ".pth" and first.stem.startswith("model_final-")
    assert fetch(spec) == first and server.asked == ["/a%20b/model_final.pth"]
    assert left(tmp_path) == [first.name]
    read = read_weights(spec)
    assert torch.equal(read.tensors["layer.weight"], torch.arange(6.0))
    assert read.source == f"{server.url}/a%20b/model_final.pth"


def test_a_config_may_name_one():
    spec = f"https://host/w.pth#sha256={'0' * 64}"
    assert load_config("demo/shapes", ["MODEL.WEIGHTS", spec]).MODEL.WEIGHTS == (spec,)


def test_a_damaged_copy_is_fetched_again(server, weights):
    server.files["/w.pth"] = weights
    spec = f"{server.url}/w.pth#sha256={digest(weights)}"
    fetch(spec).write_bytes(weights[:-9])
    assert fetch(spec).read_bytes() == weights and len(server.asked) == 2


def test_a_verified_copy_in_a_folder_that_nobody_may_write_to_is_read(server, weights, monkeypatch):
    server.files["/w.pth"] = weights
    spec = f"{server.url}/w.pth#sha256={digest(weights)}"
    path = fetch(spec)

    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    monkeypatch.setattr("maskrcnn.checkpoint.download.FileLock", read_only)
    assert fetch(spec) == path and len(server.asked) == 1
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be downloaded to .*Permission denied"):
        fetch(spec)


@pytest.mark.parametrize("url", ["http://[bad/w.pth", "https://user:secret@[bad/w.pth"])
def test_what_is_no_url(url):
    with pytest.raises(CheckpointError, match=r"^https?://\.\.\. is no URL: .*IPv6") as caught:
        read_weights(f"{url}#sha256={'0' * 64}")
    assert "secret" not in str(caught.value)


def test_two_files_of_one_name_do_not_meet(server, weights):
    server.files |= {"/1/w.pth": weights, "/2/w.pth": b"others"}
    one, two = (fetch(f"{server.url}/{k}/w.pth#sha256={digest(server.files[f'/{k}/w.pth'])}") for k in (1, 2))
    assert (one.read_bytes(), two.read_bytes()) == (weights, b"others")


def test_several_at_once_ask_once(server, weights):
    server.files["/w.pth"] = weights
    spec = f"{server.url}/w.pth#sha256={digest(weights)}"
    threads = [threading.Thread(target=fetch, args=(spec,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == ["/w.pth"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda w: (w[:100], len(w)), r"the download ended after 100 of \d+ bytes; try again"),
        (lambda w: (b"", len(w)), r"the download ended after 0 of \d+ bytes"),
        (lambda w: (w[:100], None), r"its SHA-256 is [0-9a-f]{64} instead of [0-9a-f]{64}; this is another file"),
        (lambda w: w + b"x", r"its SHA-256 is [0-9a-f]{64} instead of"),
        (lambda w: b"", r"its SHA-256 is e3b0c44298fc\w* instead of"),
        (lambda w: PAGE, r"is a web page or a placeholder instead of weights \(b'<!DOCTYPE html"),
        (lambda w: b"version https://git-lfs.github.com/spec/v1", "is a web page or a placeholder"),
    ],
    ids=["truncated", "nothing of it", "truncated, length unknown", "another", "empty", "page", "git-lfs"],
)
def test_what_is_not_the_whole_file_leaves_nothing(server, weights, tmp_path, answer, message):
    server.files["/w.pth"] = answer(weights)
    with pytest.raises(CheckpointError, match=rf"^{server.url}/w.pth:? {message}"):
        read_weights(f"{server.url}/w.pth?token=secret#sha256={digest(weights)}")
    assert left(tmp_path) == []


def test_no_such_file_and_no_such_server(server, weights, tmp_path):
    with pytest.raises(CheckpointError, match=r"/absent.pth cannot be downloaded to .*: Not Found"):
        fetch(f"{server.url}/absent.pth#sha256={digest(weights)}")
    with pytest.raises(CheckpointError, match=r"^http://127.0.0.1:1/w.pth cannot be downloaded to .* refused"):
        fetch(f"http://127.0.0.1:1/w.pth#sha256={digest(weights)}")
    assert left(tmp_path) == []


@pytest.mark.parametrize("ending", ["", "#sha256=", "#sha256=abc", f"#sha256={'g' * 64}", f"#md5={'0' * 32}"])
def test_a_url_needs_a_hash_before_anything_is_asked(server, ending):
    with pytest.raises(CheckpointError, match=r"/w.pth: weights from a URL need their SHA-256, 64 hexadecimal digits"):
        fetch(f"{server.url}/w.pth{ending}")
    assert server.asked == []


def test_a_full_disk_is_one_message_and_leaves_nothing(server, weights, tmp_path, monkeypatch):
    server.files["/w.pth"] = weights

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        fetch(f"{server.url}/w.pth#sha256={digest(weights)}")
    assert left(tmp_path) == []


def test_messages_keep_secrets():
    assert shown("https://user:pass@host:8/a/b.pth?sig=1#x") == "https://host:8/a/b.pth"
