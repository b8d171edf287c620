"""Files that are whole or not there, whatever kill, power cut or full disk; damage to them is found."""

import errno
import glob
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk, or of a person's share of it, that has no room."""
DIGEST_BYTES = hashlib.sha256().digest_size
ABANDONED_SECONDS = 7 * 24 * 3600
"""After so long nobody writes a draft any more."""


class BrokenFileError(ValueError):
    """A file is not what was written."""


def draft_beside(path: Path) -> Path:
    """A new name for a draft of `path`; drafts of it that a killed process left long ago are removed.

    Process numbers would not do: machines, and containers, that share a folder have the same ones.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.draft"):
        with suppress(OSError):  # another process may remove it, too
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.draft")


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the place of `path` when it lies on the disk; if not, it is removed."""
    draft = draft_beside(path)
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def draft_folder_of(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when it lies on the disk; if not, it is removed.

    For a folder that one process writes at a time: what a killed one left is removed. The former folder is set aside
    until the new one is in its place.
    """
    draft, former = (folder.with_name(f"{folder.name}.{kind}") for kind in ("draft", "former"))
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            flush(path)
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)
            folder.rename(former)
        draft.rename(folder)
        flush(folder.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def hash_of_file(file: Path) -> str:
    """SHA-256 in hex of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(path: Path) -> None:
    """Have a file end with the SHA-256 of all before it, where readers of its format do not look."""
    with path.open("rb+") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
        stream.write(digest)


@contextmanager
def sealed_draft_of(path: Path) -> Iterator[Path]:
    """As `draft_of`; what was written is sealed before it takes the place of `path`."""
    with draft_of(path) as draft:
        yield draft
        seal(draft)


def take_room(path: Path) -> None:
    """Have the disk keep room for all of a file: into one that is mapped, a full disk would end the process.

    Raises:
        OSError: there is none.
    """
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


class _Hashing:
    """A stream to write to that hashes what goes by."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, part: bytes | memoryview) -> int:
        self.sha256.update(part)
        return self.stream.write(part)

    def flush(self) -> None:
        self.stream.flush()


def save_checked(content: Any, path: Path) -> None:
    """Write tensors and plain data as `torch.save` does, and their SHA-256 after them, where torch does not look.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    import torch

    with draft_of(path) as draft, draft.open("wb") as stream:
        hashing = _Hashing(stream)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:  # what torch makes of a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        stream.write(hashing.sha256.digest())


def load_checked(path: Path) -> Any:
    """What `save_checked` wrote, on the CPU; tensors and plain data only, no code is run.

    Raises:
        BrokenFileError: the file is not what was written.
    """
    import pickle

    import torch

    if not is_whole(path):
        raise BrokenFileError(f"{path} is damaged: its content does not fit its checksum")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BrokenFileError(f"{path} holds something else than tensors and plain data") from error


def is_kept(path: Path) -> bool:
    """Whether what is kept in a file need not be made; says so where it must be made anew, as the file is damaged."""
    whole = is_found_whole(path)
    if not whole and path.exists():
        log.warning("%s: not what was written, and made anew (it was broken)", path)
    return whole


def is_found_whole(path: Path) -> bool:
    """As `is_whole`; a file that does not change is read once a process, as the jobs of a sweep all ask."""
    if not path.is_file():
        return False
    facts = path.stat()
    return _was_whole(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _was_whole(path: Path, _inode: int, _size: int, _changed: int) -> bool:
    return is_whole(path)


def is_whole(path: Path) -> bool:
    """Whether a file is there and ends with the SHA-256 of all before it."""
    if not path.is_file():
        return False
    left = path.stat().st_size - DIGEST_BYTES
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, 2**20))):
            sha256.update(part)
            left -= len(part)
        return left == 0 and stream.read() == sha256.digest()
