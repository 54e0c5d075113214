"""The data sets of `loading.py`: latents as `stiv encode` lays them out, and a million samples out of a few shards."""

import hashlib
import io
import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from data_engine.schema import ShardEntry, ShardManifest, ShardMember, ShardSample
from modeling.conditioning import TextFeatures
from training.latents import LATENTS_MEMBER, TEXT_MEMBER, LatentRecord, pack_latents, pack_text
from training.streaming.shards import LATENTS_MANIFEST_NAME

SHAPE_FCHW = (20, 4, 32, 32)
"""160 KiB in float16."""
_TEXT_WIDTH = 384
_MIN_TOKENS, _MAX_TOKENS = 20, 30
"""Of 768 bytes each."""


def write_latents(folder: Path, num_samples: int, samples_per_shard: int) -> None:
    """Latent shards with their manifest; the numbers are random, since nobody compresses them."""
    folder.mkdir(parents=True)
    entries = [
        _write_shard(folder / f"latents-{start // samples_per_shard:06d}.tar", numbers)
        for start in range(0, num_samples, samples_per_shard)
        for numbers in [range(start, min(start + samples_per_shard, num_samples))]
    ]
    _write_manifest(folder, entries)


def repeat_latents(source: Path, folder: Path, times: int) -> None:
    """The same shards `times` over under other names, by links, with a manifest that names the samples apart.

    The records inside still say the first names; nobody reads those when training.
    """
    folder.mkdir()
    manifest = ShardManifest.from_json((source / LATENTS_MANIFEST_NAME).read_text())
    entries: list[ShardEntry] = []
    for number in range(times):
        for shard in manifest.shards:
            name = f"latents-{len(entries):06d}.tar"
            (folder / name).symlink_to(source / shard.name)
            samples = tuple(
                replace(s, clip_id=f"{number:04d}{s.clip_id[4:]}") for s in shard.samples
            )
            sha256 = hashlib.sha256(f"{shard.sha256}-{number}".encode()).hexdigest()
            entries.append(replace(shard, name=name, samples=samples, sha256=sha256))
    _write_manifest(folder, entries)


def _write_manifest(folder: Path, entries: list[ShardEntry]) -> None:
    manifest = ShardManifest(shards=tuple(entries), config={})
    (folder / LATENTS_MANIFEST_NAME).write_text(json.dumps(asdict(manifest), sort_keys=True))


def _write_shard(path: Path, numbers: range) -> ShardEntry:
    samples: list[ShardSample] = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            key, files = _sample(number)
            members: dict[str, ShardMember] = {}
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                # A header is one block here: names are short, and no extended headers are written.
                offset = tar.offset + tarfile.BLOCKSIZE
                tar.addfile(info, io.BytesIO(data))
                members[extension] = ShardMember(offset=offset, size_bytes=len(data))
            samples.append(ShardSample(clip_id=key, members=members))
    return ShardEntry(
        name=path.name,
        bucket="20x32x32",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        samples=tuple(samples),
    )


def _sample(number: int) -> tuple[str, dict[str, bytes]]:
    rng = np.random.default_rng(number)
    key = hashlib.sha256(str(number).encode()).hexdigest()[:20]
    latents, payload_offset = pack_latents(
        torch.from_numpy(rng.standard_normal(SHAPE_FCHW, np.float32))
    )
    num_tokens = int(rng.integers(_MIN_TOKENS, _MAX_TOKENS + 1))
    tokens = torch.from_numpy(rng.standard_normal((1, num_tokens, _TEXT_WIDTH), np.float32))
    text = TextFeatures(
        tokens_BLD=tokens,
        mask_BL=torch.ones(1, num_tokens, dtype=torch.bool),
        pooled_BD=torch.from_numpy(rng.standard_normal((1, _TEXT_WIDTH), np.float32)),
    )
    caption = f"a square of colour number {number} moves to the right in front of a wall"
    packed_text, captions = pack_text([(caption, "template", text)])
    record = LatentRecord(
        clip_id=key,
        captions=captions,
        text_width=_TEXT_WIDTH,
        pooled_text_width=_TEXT_WIDTH,
        num_frames=SHAPE_FCHW[0],
        fps=24.0,
        original_height_px=720,
        original_width_px=1280,
        subsets=(),
        shape_FCHW=SHAPE_FCHW,
        payload_offset=payload_offset,
    )
    return key, {
        "json": record.to_json().encode(),
        LATENTS_MEMBER: latents,
        TEXT_MEMBER: packed_text,
    }
