"""Small data sets in the shard format, and configs that train on them in a moment."""

import hashlib
import io
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data_engine.schema import (
    MANIFEST_NAME,
    Caption,
    ClipRecord,
    ShardEntry,
    ShardManifest,
    ShardMember,
    ShardSample,
    clip_id,
)
from modeling.config import GuidanceConfig, SamplerConfig, preset
from training.config import DataConfig, EncoderConfig, OptimizerConfig, StageConfig, TrainConfig

HEIGHT_PX, WIDTH_PX, FPS = 48, 80, 24


def moving_square(num_frames: int, seed: int) -> NDArray[np.uint8]:
    """Frames (F, H, W, RGB) of a coloured square that crosses a textured background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (HEIGHT_PX // 4, WIDTH_PX // 4, 3))
    background = np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.repeat(background[None], num_frames, axis=0)
    colour = rng.integers(0, 256, 3)
    for index in range(num_frames):
        left = (seed * 7 + index * 2) % (WIDTH_PX - 16)
        frames[index, 16:32, left : left + 16] = colour
    return frames


def encode_mp4(frames: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        # The same bytes in every run and on every x86 machine, as in `data_engine.cutting`.
        options = {"preset": "veryfast", "threads": "1", "x264-params": "asm=SSE4.2"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_dataset(
    folder: Path, lengths: list[int], *, clips_per_shard: int = 4, **changes: Any
) -> Path:
    """A data set directory with one clip of each length in frames; `changes` alter every record."""
    shards_dir = folder / "shards"
    shards_dir.mkdir(parents=True)
    entries: list[ShardEntry] = []
    for start in range(0, len(lengths), clips_per_shard):
        numbers = range(start, min(start + clips_per_shard, len(lengths)))
        samples = [_sample(number, lengths[number], folder.name, changes) for number in numbers]
        entries.append(_write_shard(shards_dir / f"shard-{len(entries):06d}.tar", samples))
    manifest = ShardManifest(shards=tuple(entries), config={})
    (shards_dir / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


def write_clips(folder: Path, clips: list[tuple[str, NDArray[np.uint8]]]) -> Path:
    """A data set directory of one shard with the given captions and frames (F, H, W, RGB)."""
    (folder / "shards").mkdir(parents=True)
    samples: list[tuple[str, dict[str, bytes]]] = []
    for number, (caption, frames) in enumerate(clips):
        num_frames, height_px, width_px = frames.shape[:3]
        facts = _facts(number, num_frames, folder.name, caption)
        record = ClipRecord(**{**facts, "height_px": height_px, "width_px": width_px})
        members = {
            "mp4": encode_mp4(frames),
            "json": record.to_json().encode(),
            "txt": caption.encode(),
        }
        samples.append((record.clip_id, members))
    manifest = ShardManifest(
        shards=(_write_shard(folder / "shards" / "shard-000000.tar", samples),), config={}
    )
    (folder / "shards" / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


def _sample(
    number: int, num_frames: int, source: str, changes: dict[str, Any]
) -> tuple[str, dict[str, bytes]]:
    caption = f"a square of colour number {number} moves to the right"
    facts = _facts(number, num_frames, source, caption)
    record = ClipRecord(**{**facts, **changes})
    members = {
        "mp4": encode_mp4(moving_square(num_frames, number)),
        "json": record.to_json().encode(),
        "txt": caption.encode(),
    }
    return record.clip_id, members


def _facts(number: int, num_frames: int, source: str, caption: str) -> dict[str, Any]:
    return {
        "clip_id": clip_id(f"{source}-{number}", 0.0, num_frames / FPS),
        "source_id": f"{source}-{number}",
        "source_uri": f"square-{number}.mp4",
        "start_s": 0.0,
        "end_s": num_frames / FPS,
        "fps": float(FPS),
        "num_frames": num_frames,
        "shot_index": 0,
        "height_px": HEIGHT_PX,
        "width_px": WIDTH_PX,
        "captions": (Caption(text=caption, source="template", model="test"),),
    }


def _write_shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> ShardEntry:
    with tarfile.open(path, "w") as tar:
        for identifier, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{identifier}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    places: dict[str, dict[str, ShardMember]] = {identifier: {} for identifier, _ in samples}
    with tarfile.open(path) as tar:
        for info in tar.getmembers():
            identifier, extension = info.name.split(".", 1)
            places[identifier][extension] = ShardMember(
                offset=info.offset_data, size_bytes=info.size
            )
    return ShardEntry(
        name=path.name,
        bucket="16x9-0to2s-64p",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        samples=tuple(ShardSample(clip_id=key, members=places[key]) for key in places),
    )


def tiny_stage(task: str, **changes: Any) -> StageConfig:
    """A stage of 4 steps on 2 clips each."""
    values: dict[str, Any] = {
        "task": task,
        "num_steps": 4,
        "batch_size": 2,
        "num_frames": 1 if task == "t2i" else 4,
        "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        "ema_decay": 0.5,
        "checkpoint_every_steps": 2,
    }
    return StageConfig.model_validate({**values, **changes})


def tiny_config(**changes: Any) -> TrainConfig:
    """The three stages on 32x48 px with a network of two narrow blocks."""
    model = preset(
        "tiny",
        latent_channels=4,
        text_width=384,
        pooled_text_width=384,
        hidden_size=32,
        depth=1,
        num_heads=2,
        num_unmasked_blocks=1,
        frequency_width=16,
    )
    values: dict[str, Any] = {
        "name": "test",
        "model": model,
        "encoders": EncoderConfig(autoencoder="patch_pca", text_encoder="minilm"),
        "data": DataConfig(height_px=32, width_px=48, sampling_stride=2),
        "stages": {task: tiny_stage(task) for task in ("t2i", "t2v", "stiv")},
        "sampler": SamplerConfig(num_sampling_steps=2),
        "guidance": GuidanceConfig(),
        "num_workers": 1,
    }
    return TrainConfig.model_validate({**values, **changes})
