"""An object store (S3 and what speaks like it): every request that is made of it.

Three things differ from a disk. Nothing can be renamed: an object is copied, then the first is deleted. An object
appears whole or not at all, and is replaced as a whole; its ETag says which one it is. Two machines can ask at the
same time: who may is decided elsewhere, by a lock in PostgreSQL, and here is made sure that nothing is deleted but
what was copied.

Where the store is and who asks is said as everywhere with S3: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, a profile, or the role of the machine.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.exceptions import (
    FileMissingError,
    FileStillChangingError,
    StorageUnavailableError,
)
from bulk_upload_pipeline.places import Key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNFINISHED = ".part"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one listing says of an object, or of a folder: of all that lies below it.

    Attributes:
        modified_ns: When the object was put there.
        etag: What changes with its content.
    """

    name: str
    is_folder: bool
    size: int = 0
    modified_ns: int = 0
    etag: str = ""


@contextmanager
def _asked(key: Key) -> Iterator[Any]:
    """Yield the file system of the store; what it does not do is said in a sentence.

    Raises:
        FileMissingError: There is no such object.
        StorageUnavailableError: It does not answer, does not allow it, or has no such bucket.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from s3fs import S3FileSystem

    try:
        # What a listing said is never remembered: others put files there.
        yield S3FileSystem(use_listings_cache=False)
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error.__cause__):
            raise FileMissingError(key) from error
        raise StorageUnavailableError(key.url, str(error)) from error
    except (BotoCoreError, ClientError, PermissionError, ConnectionError, TimeoutError) as error:
        raise StorageUnavailableError(key.url, str(error)) from error


def listed(folder: Key) -> list[Entry]:
    """Return what lies directly in a folder, by name; nothing when nobody has put anything there."""
    try:
        with _asked(folder) as store:
            found = store.ls(folder.url, detail=True)
    except FileMissingError:
        return []
    inside = f"{folder.url.partition('://')[2]}/"
    entries = [_entry(info, info["name"].removeprefix(inside)) for info in found]
    return [entry for entry in entries if entry.name and "/" not in entry.name]


def found(key: Key) -> Entry | None:
    """Return what there is to know of an object; None when there is none."""
    try:
        with _asked(key) as store:
            info = store.info(key.url)
    except FileMissingError:
        return None
    return _entry(info, key.name) if info["type"] == "file" else None


def _entry(info: dict[str, Any], name: str) -> Entry:
    if info["type"] == "directory":
        return Entry(name.rstrip("/"), is_folder=True)
    modified_ns = int(info["LastModified"].timestamp() * 1_000_000_000)
    return Entry(name, False, info["size"], modified_ns, info["ETag"])


def fetch(key: Key, path: Path) -> None:
    """Copy an object to this machine, where it appears whole.

    Raises:
        FileMissingError: There is no such object.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    with _asked(key) as store:
        store.get_file(key.url, str(unfinished))
    unfinished.replace(path)


def put(path: Path, key: Key) -> None:
    """Copy a file of this machine into the store; an object that has the key already is replaced."""
    with _asked(key) as store:
        store.put_file(str(path), key.url)


def put_new(path: Path, key: Key) -> bool:
    """Copy a file into the store unless the key is taken, also by somebody who puts one at the same time.

    Returns:
        Whether it is there now.
    """
    if found(key) is not None:
        return False
    try:
        with _asked(key) as store:
            store.put_file(str(path), key.url, mode="create")
    except FileExistsError:
        return False
    return True


def move(source: Key, target: Key) -> None:
    """Bring an object to another key. At every moment one of them is whole.

    What somebody puts at the source meanwhile stays there: it is deleted only as the object that was copied.

    Raises:
        FileMissingError: There is no such object.
        FileStillChangingError: It was replaced while it was copied, and is where it was.
    """
    before = found(source)
    if before is None:
        raise FileMissingError(source)
    with _asked(source) as store:
        store.cp_file(source.url, target.url)
    after = found(source)
    if after is None or after.etag != before.etag:
        remove(target)
        raise FileStillChangingError(source)
    _delete(source, before.etag)


def finish_moving(source: Key, target: Key) -> None:
    """Delete the source of a move that was cut off after its copy; another object at that key stays."""
    left, copied = found(source), found(target)
    if left and copied and left.size == copied.size and (left.etag == copied.etag or _same(source, target)):
        _delete(source, left.etag)


def _same(one: Key, other: Key) -> bool:
    """Compare contents: the ETag of an object that was put in parts says nothing of its copy."""
    digests = set()
    for key in (one, other):
        with _asked(key) as store, store.open(key.url, "rb") as file:
            digests.add(hashlib.file_digest(file, "sha256").hexdigest())
    return len(digests) == 1


def _delete(key: Key, etag: str) -> None:
    """Delete the object that has this ETag; one that was put there since stays, if the store can tell."""
    try:
        with _asked(key) as store:
            bucket, name, _ = store.split_path(key.url)
            store.call_s3("delete_object", Bucket=bucket, Key=name, IfMatch=etag)
    except FileMissingError:
        return
    except OSError:
        now = found(key)
        if now is not None and now.etag == etag:
            raise


def remove(place: Key) -> int:
    """Delete an object and all that lies below it; return how many objects they were."""
    with _asked(place) as store:
        keys = [name for name, info in store.find(place.url, detail=True).items() if info["type"] == "file"]
        for key in keys:
            store.rm_file(key)
    return len(keys)
