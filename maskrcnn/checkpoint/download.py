"""Weights from a URL: fetched once, and read only if they are what their SHA-256 says."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import torch
from filelock import FileLock
from tqdm import tqdm

from maskrcnn.atomic import WholeFile
from maskrcnn.checkpoint.files import PLACEHOLDERS, CheckpointError

SCHEMES = ("https://", "http://")
HASH = "#sha256="  # of a URL with its hash as one word
CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte


def fetch(spec: str) -> Path:
    """The local copy of `https://HOST/FILE#sha256=HASH`, in the cache folder of torch.hub; downloaded if need be.

    The copy appears when it is complete and verified. Processes that want the same file at once wait for one of them.

    Raises:
        CheckpointError: no hash is given, or the server cannot be reached, ends too early, sends a web page or another
            file; nothing is left behind.
    """
    url, _, digest = spec.partition(HASH)
    digest = digest.lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        given = f"{digest!r} is none" if digest else "none is given"
        raise CheckpointError(
            f"{shown(url)}: weights from a URL need their SHA-256, 64 hexadecimal digits, and {given}; write "
            f"{shown(url)}{HASH}..., or download the file and give its path"
        )
    try:
        path = cached(url, digest)
    except ValueError as error:  # of urllib
        raise CheckpointError(f"{shown(url)} is no URL: {error}") from error
    try:
        if path.exists() and hash_of(path) == digest:  # without a lock: the folder may not be ours to write to
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists() or hash_of(path) != digest:
                with WholeFile(path) as part:
                    download(url, part, digest)
    except (HTTPException, OSError) as error:  # no network, no such host, a connection that broke, a full disk
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise CheckpointError(f"{shown(url)} cannot be downloaded to {path}: {reason}") from error
    return path


def cached(url: str, digest: str) -> Path:
    """Where the copy is: by the file's name and hash, so that two files of one name do not meet."""
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    stem = re.sub(r"[^\w.-]", "_", name.stem) or "weights"
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{stem}-{digest[:16]}{name.suffix or '.pth'}"


def download(url: str, path: Path, digest: str) -> None:
    """Write what a server sends to a file, with a progress bar, and compare it with its SHA-256.

    Raises:
        CheckpointError: it is not the whole file, or another one.
        OSError, HTTPException: of the connection or of the disk.
    """
    found, start, received = hashlib.sha256(), b"", 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar:  # None: on a terminal
            while block := response.read(CHUNK):
                start = start or block[:64]
                found.update(block)
                file.write(block)
                received += len(block)
                bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received != total:
        raise CheckpointError(f"{shown(url)}: the download ended after {received} of {total} bytes; try again")
    if found.hexdigest() == digest:
        return
    if start.lstrip().startswith(PLACEHOLDERS):
        raise CheckpointError(f"{shown(url)} is a web page or a placeholder instead of weights ({start[:30]!r}...)")
    raise CheckpointError(
        f"{shown(url)}: its SHA-256 is {found.hexdigest()} instead of {digest}; this is another file than was asked for"
    )


def check_hash(path: Path, digest: str) -> None:
    """Raises CheckpointError: a file has another SHA-256."""
    if (found := hash_of(path)) != digest.lower():
        raise CheckpointError(
            f"{path}: its SHA-256 is {found} instead of {digest}; this is another file than was asked for"
        )


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(url: str) -> str:
    """A URL for messages, without what may be a secret: user, password and query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # nobody knows what is the password in it
        return f"{url.partition(':')[0]}://..."
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
