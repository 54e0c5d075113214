"""Clips to one shard of latents, as plain functions; `encode.py` runs them on Ray."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

import torch

from data_engine.schema import ShardEntry, ShardMember, ShardSample, shard_entry_from_dict
from training.encoders import FrozenEncoders
from training.errors import DataError
from training.latents import (
    LATENTS_MEMBER,
    TEXT_MEMBER,
    LatentRecord,
    pack_latents,
    pack_text,
)
from training.streaming.buckets import Bucket
from training.streaming.index import Clip
from training.streaming.reading import SampleReader

_FRAMES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentReceipt:
    """Lies beside a tar: the tar is whole, and these clips of it could not be encoded."""

    key: str
    entry: ShardEntry
    failed: dict[str, str]
    """Clip -> reason."""


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """Every sample of the clip shards is encoded, failed or has no caption."""

    out: Path
    num_encoded: int
    num_failed: int
    num_without_caption: int
    num_shards: int
    num_bytes: int
    num_shards_written: int
    """In this run; the others were there already."""
    seconds: float
    failures: tuple[str, ...]
    """The first few, each with its reason."""


def write_latents(
    folder: Path,
    key: str,
    clips: Iterable[tuple[Clip, Bucket]],
    reader: SampleReader,
    encoders: FrozenEncoders,
    device: torch.device,
) -> LatentReceipt:
    """Encode clips into `latents-KEY.tar`, each at the size of its bucket; the same clips give the same bytes.

    A clip that cannot be read is in the receipt, with the reason, instead of in the tar.
    """
    path = tar_path(folder, key)
    temporary = path.with_name(f".{path.name}.tmp")
    failed: dict[str, str] = {}
    samples: list[ShardSample] = []
    with temporary.open("wb") as file:
        hashed = _HashingFile(file)
        with tarfile.open(fileobj=cast("IO[bytes]", hashed), mode="w|") as tar:
            for clip, bucket in clips:
                try:
                    members = _encode(clip, bucket, reader, encoders, device)
                except DataError as error:
                    failed[clip.clip_id] = str(error)
                    continue
                places = dict(_add(tar, clip, members))
                samples.append(ShardSample(clip_id=clip.clip_id, members=places))
    temporary.replace(path)
    entry = ShardEntry(
        name=path.name,
        bucket="latents",
        sha256=hashed.digest.hexdigest(),
        size_bytes=hashed.num_bytes,
        samples=tuple(samples),
    )
    receipt = LatentReceipt(key=key, entry=entry, failed=failed)
    beside = receipt_path(folder, key)
    hidden = beside.with_name(f".{beside.name}.tmp")
    hidden.write_text(json.dumps(asdict(receipt), sort_keys=True) + "\n")
    hidden.replace(beside)
    return receipt


def read_receipt(folder: Path, key: str) -> LatentReceipt | None:
    """The receipt of a tar; None if the tar is not there or not whole."""
    path, tar = receipt_path(folder, key), tar_path(folder, key)
    if not (path.exists() and tar.exists()):
        return None
    found = json.loads(path.read_text())
    entry = shard_entry_from_dict(found["entry"])
    if tar.stat().st_size != entry.size_bytes:
        return None
    return LatentReceipt(key=found["key"], entry=entry, failed=found["failed"])


def tar_path(folder: Path, key: str) -> Path:
    return folder / f"latents-{key}.tar"


def receipt_path(folder: Path, key: str) -> Path:
    return folder / f"latents-{key}.json"


def _encode(
    clip: Clip,
    bucket: Bucket,
    reader: SampleReader,
    encoders: FrozenEncoders,
    device: torch.device,
) -> dict[str, bytes]:
    frames_FHWC = torch.from_numpy(reader.frames(clip, range(clip.num_frames), bucket))
    # Some frames at a time: a long clip at once would not fit into the memory of a GPU.
    parts = [
        encoders.autoencoder.encode(part[None].to(device))[0].transpose(0, 1).cpu()
        for part in frames_FHWC.split(_FRAMES_AT_ONCE)
    ]
    latents_FCHW = torch.cat(parts)
    captions = zip(clip.captions, clip.caption_sources, strict=True)
    packed_text, places = pack_text(
        [(text, source, encoders.text.encode([text])) for text, source in captions]
    )
    packed, payload_offset = pack_latents(latents_FCHW)
    num_frames, channels, height, width = latents_FCHW.shape
    record = LatentRecord(
        clip_id=clip.clip_id,
        captions=places,
        text_width=encoders.text.text_width,
        pooled_text_width=encoders.text.pooled_text_width,
        num_frames=clip.num_frames,
        fps=clip.fps,
        original_height_px=clip.original_height_px,
        original_width_px=clip.original_width_px,
        subsets=clip.subsets,
        shape_FCHW=(num_frames, channels, height, width),
        payload_offset=payload_offset,
    )
    return {
        "json": record.to_json().encode(),
        LATENTS_MEMBER: packed,
        TEXT_MEMBER: packed_text,
    }


def _add(
    tar: tarfile.TarFile, clip: Clip, members: dict[str, bytes]
) -> Iterator[tuple[str, ShardMember]]:
    for extension, data in members.items():
        header = tarfile.TarInfo(f"{clip.clip_id}.{extension}")
        header.size = len(data)
        # mtime 0 and no owner: a tar is otherwise different each time it is written.
        header.mtime, header.mode = 0, 0o644
        tar.addfile(header, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield extension, ShardMember(offset=tar.offset - padded, size_bytes=len(data))


class _HashingFile:
    """A file that knows the hash of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)
