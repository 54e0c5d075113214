"""Where the shards of a data set are, and what kind they are of."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_engine.schema import (
    MANIFEST_NAME,
    SchemaError,
    ShardEntry,
    ShardManifest,
)
from training.errors import DataError
from training.randomness import derive_seed
from training.streaming.storage import file_system, is_url, write_whole

LATENTS_MANIFEST_NAME = "latents.json"
"""In the folder that `stiv encode` writes; it looks like the manifest of clip shards."""

Kind = Literal["clips", "latents", "tar"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar. `identity` changes with its bytes; `entry` is its index, where a manifest holds one."""

    location: str
    kind: Kind
    identity: str
    entry: ShardEntry | None = None


_MANIFESTS: tuple[tuple[Kind, str], ...] = (
    ("clips", f"shards/{MANIFEST_NAME}"),
    ("latents", LATENTS_MANIFEST_NAME),
)


def find_shards(dataset: str) -> tuple[list[Shard], str]:
    """The shards of one data set in order, and a fingerprint that changes with the bytes or order of any.

    `dataset` is a folder that `stiv curate` or `stiv encode` wrote, any folder of tars, one tar, or the
    URL of such a folder or tar.

    Raises:
        DataError: it holds no shards, or its manifest is unreadable or does not fit them.
    """
    for kind, manifest in _MANIFESTS:
        location = f"{dataset.rstrip('/')}/{manifest}"
        content = _read_whole(location)
        if content is not None:
            return _of_manifest(location, kind, content), hashlib.sha256(content).hexdigest()
    listed = _list_tars(dataset)
    shards = [Shard(location, "tar", f"{Path(location).name}-{i}") for location, i in listed]
    return shards, _identity(listed)


def fingerprint_of(dataset: str, memory: Path | None) -> str:
    """The fingerprint alone, without parsing the manifest: that of a million samples takes half a minute.

    In the folder `memory` is kept what a manifest on disk hashed to, under its size, times and inode: manifests appear
    by rename, so that another one is another inode.

    Raises:
        DataError: it holds no shards, or they are out of reach.
    """
    for _, manifest in _MANIFESTS:
        location = f"{dataset.rstrip('/')}/{manifest}"
        remembered = None if memory is None else _memory_of(location, memory)
        if remembered is not None and remembered.exists():
            return remembered.read_text()
        content = _read_whole(location)
        if content is None:
            continue
        fingerprint = hashlib.sha256(content).hexdigest()
        if remembered is not None:
            write_whole(remembered, fingerprint.encode())
        return fingerprint
    return _identity(_list_tars(dataset))


def _memory_of(location: str, memory: Path) -> Path | None:
    if is_url(location) or not (path := Path(location)).exists():
        return None
    stat = path.stat()
    facts = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return memory / "manifests" / f"{derive_seed(location, *facts):016x}.sha256"


def _identity(tars: Sequence[tuple[str, str]]) -> str:
    identities = json.dumps([[Path(location).name, identity] for location, identity in tars])
    return hashlib.sha256(identities.encode()).hexdigest()


def dataset_names(datasets: Sequence[str | Path]) -> list[str]:
    """Folders as absolute paths, so that a worker elsewhere finds them; URLs as they are."""
    return [str(d) if is_url(str(d)) else str(Path(d).resolve()) for d in datasets]


def _of_manifest(location: str, kind: Kind, content: bytes) -> list[Shard]:
    try:
        manifest = ShardManifest.from_json(content)
    except (SchemaError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{location} is not a readable shard manifest: {error}") from error
    folder = location.rpartition("/")[0]
    shards = [Shard(f"{folder}/{e.name}", kind, e.sha256, e) for e in manifest.shards]
    check_sizes([shard.location for shard in shards], [e.size_bytes for e in manifest.shards])
    return shards


def check_sizes(locations: Sequence[str], sizes_bytes: Sequence[int | None]) -> None:
    """See that shards are as long as their manifests say; None where none says it.

    Raises:
        DataError: one is missing or has another size.
    """
    said = {
        location: size_bytes
        for location, size_bytes in zip(locations, sizes_bytes, strict=True)
        if size_bytes is not None
    }
    sizes = {folder: _sizes(folder) for folder in {name.rpartition("/")[0] for name in said}}
    for location, size_bytes in said.items():
        folder, _, name = location.rpartition("/")
        found_bytes = sizes[folder].get(name)
        if found_bytes != size_bytes:
            found = "is missing" if found_bytes is None else f"has {found_bytes} bytes"
            raise DataError(
                f"shard {location} {found}, its manifest says {size_bytes} bytes; "
                "copy it again or build the data set again"
            )


def _read_whole(location: str) -> bytes | None:
    """The bytes of a small file; None if there is none."""
    try:
        if not is_url(location):
            return Path(location).read_bytes()
        files, path = file_system(location)
        return bytes(files.cat_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {location}: {error}") from error


def _sizes(folder: str) -> dict[str, int]:
    if not is_url(folder):
        return {path.name: path.stat().st_size for path in Path(folder).glob("*.tar")}
    files, path = file_system(folder)
    found = files.find(path, maxdepth=1, detail=True)
    return {name.rpartition("/")[2]: int(info["size"]) for name, info in found.items()}


def _list_tars(dataset: str) -> list[tuple[str, str]]:
    """Location and identity of each tar, by name.

    Raises:
        DataError: there is none.
    """
    found = _local_tars(dataset) if not is_url(dataset) else _remote_tars(dataset)
    if not found:
        raise DataError(
            f"no shards: {dataset} holds neither shards/{MANIFEST_NAME}, {LATENTS_MANIFEST_NAME} nor a tar; "
            "build the data set first, or give its folder"
        )
    return found


def _local_tars(dataset: str) -> list[tuple[str, str]]:
    path = Path(dataset)
    tars = [path] if path.suffix == ".tar" and path.is_file() else sorted(path.glob("*.tar"))
    facts = [(tar, tar.stat()) for tar in tars]
    return [(str(tar), f"{stat.st_size}-{stat.st_mtime_ns}") for tar, stat in facts]


def _remote_tars(dataset: str) -> list[tuple[str, str]]:
    files, path = file_system(dataset)
    scheme = dataset.partition("://")[0]
    try:
        found = files.find(path, maxdepth=1, detail=True)
    except OSError as error:
        raise DataError(f"cannot list {dataset}: {error}") from error
    return [
        (
            f"{scheme}://{name}",
            f"{info['size']}-{info.get('ETag') or info.get('LastModified', '')}",
        )
        for name, info in sorted(found.items())
        if name.endswith(".tar")
    ]
