"""This project's loader, as `loading.py` measures it: one pass over a data set, and the first batch after a resume."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.loading import BATCH_SIZE, SIZE_PX, Sample
from training.config import DataConfig, StageConfig
from training.streaming import decode
from training.streaming.buckets import plan_stage
from training.streaming.decode import fit_to_cover
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader, LoadedBatch
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader
from training.streaming.storage import RangeReader

NUM_CLIP_FRAMES = 8
_PATCHES = (1, 2)


def loader(dataset: Path, task: str, batch_size: int) -> tuple[SampleOrder, BatchLoader, int]:
    """All that a run makes before its first step, but for the encoders; and how many samples there are."""
    is_latents = task == "latents"
    data = DataConfig(
        height_px=SIZE_PX,
        width_px=SIZE_PX,
        sampling_stride=1 if is_latents else 3,
        cache_bytes=0,
    )
    stage = StageConfig(
        task="t2v",
        num_steps=10**6,
        batch_size=batch_size,
        num_frames=20 if is_latents else NUM_CLIP_FRAMES,
        checkpoint_every_steps=1000,
    )
    index = SampleIndex.open([dataset], _index_folder(dataset))
    plan = plan_stage(index, stage, data, _PATCHES)
    order = SampleOrder(index, plan, (0, "t2v"), stage, data)
    reader = SampleReader(index, data, _index_folder(dataset))
    return order, BatchLoader(order, reader, data), plan.num_samples


def _index_folder(dataset: Path) -> Path:
    return dataset.with_name(f"{dataset.name}-index")


def one_epoch(dataset: Path, task: str) -> Callable[[], Iterable[Sample]]:
    """A function that reads every sample once, in the same random order each time."""
    batch_size = _whole_batches(dataset, task)
    _, batches, num_samples = loader(dataset, task, batch_size)

    def epoch() -> Iterator[Sample]:
        return map(_as_sample, batches.batches(0, num_samples // batch_size))

    return epoch


def _as_sample(batch: LoadedBatch) -> Sample:
    clips = [sample.clip for sample in batch.samples]
    facts = [
        {"captions": [{"text": c.caption}], "fps": c.fps, "num_frames": c.num_frames} for c in clips
    ]
    found: Sample = {"key": [clip.clip_id for clip in clips], "facts": facts}
    if batch.frames_NFHWC is not None:
        return {**found, "frames": batch.frames_NFHWC}
    assert batch.texts is not None
    tokens = list(batch.texts.tokens_TD.split(batch.texts.lengths))
    pooled = list(batch.texts.pooled_ND)
    return {**found, "latents": batch.latents_NFCHW, "tokens": tokens, "pooled": pooled}


def frames_drawn(dataset: Path) -> dict[str, list[int]]:
    """The frames of each clip that an epoch shows."""
    # What is drawn depends on the place in the batch, so batches are those of `one_epoch`.
    batch_size = _whole_batches(dataset, "clips")
    order, _, num_samples = loader(dataset, "clips", batch_size)
    places = product(range(num_samples // batch_size), range(batch_size))
    samples = [order.sample(step, place) for step, place in places]
    return {sample.clip.clip_id: list(sample.frame_indices) for sample in samples}


def _whole_batches(dataset: Path, task: str) -> int:
    """The largest batches with which an epoch ends, so that no sample of the next one is among them."""
    num_samples = loader(dataset, task, 1)[2]
    most = BATCH_SIZE if task == "latents" else NUM_CLIP_FRAMES
    return max(size for size in range(1, most + 1) if num_samples % size == 0)


def resume(dataset: Path, start: int) -> dict[str, Any]:
    """From nothing but the path and the step to the batch; the index has been made by an earlier run."""
    SampleIndex.open([dataset], _index_folder(dataset))
    before_s = time.perf_counter()
    _, batches, num_samples = loader(dataset, "latents", BATCH_SIZE)
    step = start // BATCH_SIZE
    next(iter(batches.batches(step, step + 1)))
    seconds = time.perf_counter() - before_s
    state = json.dumps({"step": step})
    return {"seconds": seconds, "state_bytes": len(state), "note": f"{num_samples} samples indexed"}


def decoders(dataset: Path) -> list[tuple[int, int, float, float]]:
    """Wanted frames, stride, and CPU-milliseconds a clip with decord and with PyAV."""
    clips = _videos(dataset)
    rows: list[tuple[int, int, float, float]] = []
    for count, stride in ((1, 1), (4, 3), (8, 3), (20, 1), (20, 3)):
        span = (count - 1) * stride + 1
        chosen = [(video, frames) for video, frames in clips if frames >= span]
        spent: list[float] = []
        for read in (decode._decode_with_decord, decode._decode_with_pyav):
            rng = np.random.default_rng(0)
            before_s = time.process_time()
            for video, frames in chosen:
                start = int(rng.integers(0, frames - span + 1))
                size_px = decode._frame_size(video)
                fit = fit_to_cover(size_px, (SIZE_PX, SIZE_PX))
                read(video, range(start, start + span, stride), fit)
            spent.append((time.process_time() - before_s) / len(chosen) * 1000)
        rows.append((count, stride, *spent))
    return rows


def _videos(dataset: Path) -> list[tuple[bytes, int]]:
    index = SampleIndex.open([dataset], _index_folder(dataset))
    reader = RangeReader()
    clips = [index.clip(row) for row in range(len(index))]
    return [(reader.read(c.location, c.offset, c.size_bytes), c.num_frames) for c in clips]
