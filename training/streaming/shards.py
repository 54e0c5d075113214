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
from training.streaming.storage import file_system, is_url

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


def find_shards(dataset: str) -> tuple[list[Shard], str]:
    """The shards of one data set in order, and a fingerprint that changes with the bytes or order of any.

    `dataset` is a folder that `stiv curate` or `stiv encode` wrote, any folder of tars, one tar, or the
    URL of such a folder or tar.

    Raises:
        DataError: it holds no shards, or its manifest is unreadable or does not fit them.
    """
    kinds: tuple[tuple[Kind, str], ...] = (
        ("clips", f"shards/{MANIFEST_NAME}"),
        ("latents", LATENTS_MANIFEST_NAME),
    )
    for kind, manifest in kinds:
        location = f"{dataset.rstrip('/')}/{manifest}"
        content = _read_whole(location)
        if content is not None:
            return _of_manifest(location, kind, content), hashlib.sha256(content).hexdigest()
    shards = [Shard(location, "tar", identity) for location, identity in _list_tars(dataset)]
    if not shards:
        raise DataError(
            f"no shards: {dataset} holds neither shards/{MANIFEST_NAME}, {LATENTS_MANIFEST_NAME} nor a tar; "
            "build the data set first, or give its folder"
        )
    identities = json.dumps([shard.identity for shard in shards])
    return shards, hashlib.sha256(identities.encode()).hexdigest()


def dataset_names(datasets: Sequence[str | Path]) -> list[str]:
    """Folders as absolute paths, so that a worker elsewhere finds them; URLs as they are."""
    return [str(d) if is_url(str(d)) else str(Path(d).resolve()) for d in datasets]


def _of_manifest(location: str, kind: Kind, content: bytes) -> list[Shard]:
    try:
        manifest = ShardManifest.from_json(content)
    except (SchemaError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{location} is not a readable shard manifest: {error}") from error
    folder = location.rpartition("/")[0]
    sizes = _sizes(folder)
    shards: list[Shard] = []
    for entry in manifest.shards:
        found_bytes = sizes.get(entry.name)
        if found_bytes != entry.size_bytes:
            found = "is missing" if found_bytes is None else f"has {found_bytes} bytes"
            raise DataError(
                f"shard {folder}/{entry.name} {found}, its manifest says {entry.size_bytes} bytes; "
                "copy it again or build the data set again"
            )
        shards.append(Shard(f"{folder}/{entry.name}", kind, entry.sha256, entry))
    return shards


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
    """Location and identity of each tar, by name."""
    if not is_url(dataset):
        path = Path(dataset)
        tars = [path] if path.suffix == ".tar" and path.is_file() else sorted(path.glob("*.tar"))
        facts = [(tar, tar.stat()) for tar in tars]
        return [(str(tar), f"{tar.name}-{s.st_size}-{s.st_mtime_ns}") for tar, s in facts]
    files, path = file_system(dataset)
    scheme = dataset.partition("://")[0]
    try:
        found = files.find(path, maxdepth=1, detail=True)
    except OSError as error:
        raise DataError(f"cannot list {dataset}: {error}") from error
    return [
        (
            f"{scheme}://{name}",
            f"{Path(name).name}-{info['size']}-{info.get('ETag') or info.get('LastModified', '')}",
        )
        for name, info in sorted(found.items())
        if name.endswith(".tar")
    ]
