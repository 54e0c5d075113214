"""WebDataset shards: the same clips give the same bytes, and a shard appears only when it is whole."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

from data_engine.buckets import bucket_of
from data_engine.config import ShardConfig
from data_engine.schema import (
    CAPTION_MEMBER,
    RECORD_MEMBER,
    VIDEO_MEMBER,
    ClipRecord,
    ShardEntry,
    ShardMember,
    ShardSample,
    shard_entry_from_dict,
)
from data_engine.tables import write_atomically, write_text


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip and the MP4 file that holds it."""

    record: ClipRecord
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """Lies beside a tar as `shard-….index.json`: the tar is whole, and this is what it was made from."""

    made_from: str
    entry: ShardEntry


@dataclass(frozen=True, slots=True)
class PlannedShard:
    name: str
    bucket: str
    clips: tuple[EncodedClip, ...]


def plan_shards(clips: Iterable[EncodedClip], config: ShardConfig) -> list[PlannedShard]:
    """Which clips go together, in a shuffled order that depends on nothing but their ids.

    Clip ids are hashes, so sorting by them mixes the sources: neighbours in a shard are not neighbours in a film.
    """
    buckets: dict[str, list[list[EncodedClip]]] = {}
    num_bytes = 0
    for bucket, clip in sorted(
        ((bucket_of(clip.record, config), clip) for clip in clips),
        key=lambda found: (found[0], found[1].record.clip_id),
    ):
        shards = buckets.setdefault(bucket, [[]])
        if not shards[0]:
            num_bytes = 0
        is_full = len(shards[-1]) >= config.max_clips
        if shards[-1] and (is_full or num_bytes + clip.size_bytes > config.max_bytes):
            shards.append([])
            num_bytes = 0
        shards[-1].append(clip)
        num_bytes += clip.size_bytes
    return [
        PlannedShard(f"shard-{bucket}-{position:06d}.tar", bucket, tuple(members))
        for bucket, shards in buckets.items()
        for position, members in enumerate(shards)
    ]


def write_shard(path: Path, bucket: str, clips: Sequence[EncodedClip]) -> ShardEntry:
    """Write one tar and say where each member lies. Members of a sample are neighbours, in a fixed order."""
    samples: list[ShardSample] = []
    with write_atomically(path) as file:
        hashed = _HashingWriter(file)
        with tarfile.open(fileobj=cast("IO[bytes]", hashed), mode="w|") as tar:
            for clip in clips:
                members: dict[str, ShardMember] = {}
                for extension, data in _members(clip):
                    header = tarfile.TarInfo(f"{clip.record.clip_id}.{extension}")
                    header.size = len(data)
                    # mtime 0 and no owner: a tar is otherwise different each time it is written.
                    header.mtime, header.mode = 0, 0o644
                    tar.addfile(header, io.BytesIO(data))
                    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    members[extension] = ShardMember(
                        offset=tar.offset - padded, size_bytes=len(data)
                    )
                samples.append(ShardSample(clip_id=clip.record.clip_id, members=members))
    return ShardEntry(
        name=path.name,
        bucket=bucket,
        sha256=hashed.digest.hexdigest(),
        size_bytes=hashed.num_bytes,
        samples=tuple(samples),
    )


class _HashingWriter:
    """A file that knows the hash of what was written to it, so that a large tar is not read back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)


def write_receipt(tar: Path, receipt: ShardReceipt) -> None:
    write_text(_receipt_path(tar), json.dumps(asdict(receipt), sort_keys=True) + "\n")


def read_receipt(tar: Path) -> ShardReceipt | None:
    """The receipt of a tar, or None if the tar is not there or not whole."""
    path = _receipt_path(tar)
    if not path.exists() or not tar.exists():
        return None
    data = json.loads(path.read_text())
    entry = shard_entry_from_dict(data["entry"])
    return (
        ShardReceipt(data["made_from"], entry) if tar.stat().st_size == entry.size_bytes else None
    )


def remove_receipt(tar: Path) -> None:
    """Before a tar is written anew: the receipt of an older one must not vouch for it."""
    _receipt_path(tar).unlink(missing_ok=True)


def remove_other_shards(folder: Path, names: Iterable[str]) -> None:
    """Delete tars that an earlier plan left behind, so that a glob over the folder finds no clip twice."""
    wanted = {folder / name for name in names}
    for tar in folder.glob("shard-*.tar"):
        if tar not in wanted:
            remove_receipt(tar)
            tar.unlink()


def _receipt_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def _members(clip: EncodedClip) -> Iterator[tuple[str, bytes]]:
    caption = clip.record.main_text
    yield RECORD_MEMBER, clip.record.to_json().encode()
    yield VIDEO_MEMBER, clip.path.read_bytes()
    yield CAPTION_MEMBER, caption.encode()
