"""WebDataset shards: the same clips give the same bytes, and a shard appears only when it is whole."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
    record: ClipRecord
    mp4: bytes


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """Lies beside a tar as `shard-000000.index.json`: the tar is whole, and this is what it was made from."""

    made_from: str
    entry: ShardEntry
    failed: dict[str, str]
    """Clips that should have been in it, and why they are not."""


def plan_shards(records: Iterable[ClipRecord], config: ShardConfig) -> list[list[ClipRecord]]:
    """Which clips go together, in a shuffled order that depends on nothing but their ids.

    Clip ids are hashes, so sorting by them mixes the sources: neighbours in a shard are not neighbours in a film.
    """
    shards: list[list[ClipRecord]] = []
    duration_s = 0.0
    for record in sorted(records, key=lambda record: record.clip_id):
        full = shards and (
            len(shards[-1]) >= config.max_clips
            or duration_s + record.duration_s > config.max_duration_s
        )
        if not shards or full:
            shards.append([])
            duration_s = 0.0
        shards[-1].append(record)
        duration_s += record.duration_s
    return shards


def shard_name(position: int) -> str:
    return f"shard-{position:06d}.tar"


def write_shard(path: Path, clips: Sequence[EncodedClip]) -> ShardEntry:
    """Write one tar and say where each member lies. Members of a sample are neighbours, in a fixed order."""
    samples: list[ShardSample] = []
    with write_atomically(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for clip in clips:
            members: dict[str, ShardMember] = {}
            for extension, data in _members(clip):
                header = tarfile.TarInfo(f"{clip.record.clip_id}.{extension}")
                header.size = len(data)
                # mtime 0 and no owner: a tar is otherwise different each time it is written.
                header.mtime, header.mode = 0, 0o644
                tar.addfile(header, io.BytesIO(data))
                padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                members[extension] = ShardMember(offset=tar.offset - padded, size_bytes=len(data))
            samples.append(ShardSample(clip_id=clip.record.clip_id, members=members))
    data = path.read_bytes()
    return ShardEntry(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        samples=tuple(samples),
    )


def write_receipt(tar: Path, receipt: ShardReceipt) -> None:
    write_text(_receipt_path(tar), json.dumps(asdict(receipt), sort_keys=True) + "\n")


def read_receipt(tar: Path) -> ShardReceipt | None:
    """The receipt of a tar, or None if the tar is not there or not whole."""
    path = _receipt_path(tar)
    if not path.exists() or not tar.exists():
        return None
    data = json.loads(path.read_text())
    return ShardReceipt(data["made_from"], shard_entry_from_dict(data["entry"]), data["failed"])


def remove_other_shards(folder: Path, names: Iterable[str]) -> None:
    """Delete tars that an earlier plan left behind, so that a glob over the folder finds no clip twice."""
    wanted = {folder / name for name in names}
    for tar in folder.glob("shard-*.tar"):
        if tar not in wanted:
            _receipt_path(tar).unlink(missing_ok=True)
            tar.unlink()


def _receipt_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def _members(clip: EncodedClip) -> Iterator[tuple[str, bytes]]:
    caption = clip.record.captions[0].text if clip.record.captions else ""
    yield RECORD_MEMBER, clip.record.to_json().encode()
    yield VIDEO_MEMBER, clip.mp4
    yield CAPTION_MEMBER, caption.encode()
