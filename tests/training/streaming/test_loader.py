"""Batches as they are read: the same with any number of processes, and in spite of what goes wrong."""

import io
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.builders import moving_square, tiny_stage, write_dataset
from tests.training.streaming.builders import index_of
from training.config import DataConfig
from training.errors import DataError
from training.streaming.buckets import Bucket, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader, LoadedBatch, read_ahead_mb
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader

CONFIG = DataConfig(height_px=32, width_px=48, sampling_stride=2)


def loader_of(
    datasets: list[Path], folder: Path, rank: int = 0, world_size: int = 1, **changes: Any
) -> BatchLoader:
    data = CONFIG.model_copy(update={"max_skipped_share": 0.0, **changes})
    index = SampleIndex.open(datasets, folder / "index")
    stage = tiny_stage("t2v")
    order = SampleOrder(index, plan_stage(index, stage, data, (2, 2)), (0, "t2v"), stage, data)
    reader = SampleReader(index, data, folder / "frames")
    return BatchLoader(order, reader, data, rank=rank, world_size=world_size)


def numbers(batches: Iterator[LoadedBatch]) -> list[tuple[int, list[str], bytes]]:
    found: list[tuple[int, list[str], bytes]] = []
    for batch in batches:
        assert batch.frames_NFHWC is not None
        ids = [sample.clip.clip_id for sample in batch.samples]
        found.append((batch.step, ids, batch.frames_NFHWC.numpy().tobytes()))
    return found


def test_the_slices_of_all_ranks_are_the_global_batch(dataset: Path, tmp_path: Path) -> None:
    whole = numbers(loader_of([dataset], tmp_path).batches(3, 7))
    parts = [numbers(loader_of([dataset], tmp_path, rank, 2).batches(3, 7)) for rank in (0, 1)]
    for (step, ids, frames), *slices in zip(whole, *parts, strict=True):
        assert [part[0] for part in slices] == [step, step]
        assert [clip_id for part in slices for clip_id in part[1]] == ids
        assert b"".join(part[2] for part in slices) == frames


@pytest.mark.slow
def test_processes_change_nothing_and_may_be_killed(dataset: Path, tmp_path: Path) -> None:
    expected = numbers(loader_of([dataset], tmp_path).batches(0, 12))
    loader = loader_of([dataset], tmp_path, loader_workers=2)
    found: list[tuple[int, list[str], bytes]] = []
    for batch in loader.batches(0, 12):
        found += numbers(iter([batch]))
        if batch.step == 4:
            children = torch.multiprocessing.active_children()
            assert len(children) == 2
            assert children[0].pid is not None
            os.kill(children[0].pid, signal.SIGKILL)
    assert found == expected
    assert loader.num_restarts == 1


@pytest.mark.slow
def test_batches_that_lie_ready_die_with_their_processes(dataset: Path, tmp_path: Path) -> None:
    """In a thread, as Ray Train runs the training: there no signal says that a process ended."""
    expected = numbers(loader_of([dataset], tmp_path).batches(0, 12))
    loader = loader_of([dataset], tmp_path, loader_workers=2)

    def read() -> list[tuple[int, list[str], bytes]]:
        found: list[tuple[int, list[str], bytes]] = []
        for batch in loader.batches(0, 12):
            found += numbers(iter([batch]))
            if batch.step == 4:
                time.sleep(1)  # for the processes to read ahead
                for child in torch.multiprocessing.active_children():
                    child.kill()
                    child.join()
        return found

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(read).result()
    assert found == expected
    assert loader.num_restarts == 1


@pytest.mark.slow
def test_a_batch_that_does_not_come_in_time_is_given_up(dataset: Path, tmp_path: Path) -> None:
    loader = loader_of([dataset], tmp_path, loader_workers=1, timeout_s=0.01, max_loader_restarts=1)
    with pytest.raises(
        DataError, match=r"failed 2 times.*did not answer in 0.01 s.*data.timeout_s"
    ):
        list(loader.batches(0, 4))


def damage(dataset: Path, clip_number: int) -> None:
    """Zero the video of one clip; sizes and places stay."""
    index = SampleIndex.open([dataset])
    clip = index.clip(clip_number)
    data = bytearray(Path(clip.location).read_bytes())
    data[clip.offset : clip.offset + clip.size_bytes] = bytes(clip.size_bytes)
    Path(clip.location).write_bytes(data)


def test_a_clip_that_cannot_be_read_is_replaced_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_dataset(tmp_path / "data", [20] * 8)
    damage(dataset, 3)
    bad = SampleIndex.open([dataset]).clip(3).clip_id
    loader = loader_of([dataset], tmp_path, max_skipped_share=0.01)
    ids = [clip_id for _, found, _ in numbers(loader.batches(0, 8)) for clip_id in found]
    assert bad not in ids
    assert len(ids) == 16
    assert loader.num_skipped >= 2
    assert f"skipped {bad}" in caplog.text
    ranks = [loader_of([dataset], tmp_path, rank, 2, max_skipped_share=0.01) for rank in (0, 1)]
    parts = [[i for _, found, _ in numbers(r.batches(0, 8)) for i in found] for r in ranks]
    assert [i for pair in zip(*parts, strict=True) for i in pair] == ids


def test_too_many_of_them_stop_the_run(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [20] * 8)
    damage(dataset, 3)
    with pytest.raises(DataError, match=r"1 of \d+ samples could not be read.*max_skipped_share=0"):
        list(loader_of([dataset], tmp_path).batches(0, 8))
    for number in range(8):
        if number != 3:
            damage(dataset, number)
    with pytest.raises(DataError, match="8 samples one after the other"):
        list(loader_of([dataset], tmp_path / "b", max_skipped_share=1.0).batches(0, 1))


def test_frames_are_those_of_the_clip_from_cache_or_not(dataset: Path, tmp_path: Path) -> None:
    index = SampleIndex.open([dataset])
    bucket = Bucket(3, 32, 48)
    cached = SampleReader(index, CONFIG, tmp_path / "a")
    direct = SampleReader(index, CONFIG.model_copy(update={"cache_bytes": 0}), tmp_path / "b")
    clip = index.clip(1)
    fresh = cached.frames(clip, [0, 7, 19], bucket)

    assert fresh.shape == (3, 32, 48, 3)
    assert np.array_equal(fresh, cached.frames(clip, [0, 7, 19], bucket))
    assert np.array_equal(fresh, direct.frames(clip, [0, 7, 19], bucket))
    assert len(list((tmp_path / "a").rglob("*.npy"))) == 1
    assert not list((tmp_path / "b").rglob("*.npy"))
    original = moving_square(20, 1)[[0, 7, 19]]
    assert abs(fresh.mean() - original[:, :, 4:-4].mean()) < 3


def test_crops_and_flips_are_those_of_the_sample(dataset: Path, tmp_path: Path) -> None:
    plain = numbers(loader_of([dataset], tmp_path, cache_bytes=0).batches(0, 6))
    flipped = numbers(loader_of([dataset], tmp_path, flip_prob=1.0).batches(0, 6))
    shape = (2, 4, 32, 48, 3)
    for (_, ids, one), (_, same_ids, other) in zip(plain, flipped, strict=True):
        assert ids == same_ids
        mirrored = np.frombuffer(other, np.uint8).reshape(shape)[:, :, :, ::-1]
        assert np.array_equal(np.frombuffer(one, np.uint8).reshape(shape), mirrored)
    cropped = list(loader_of([dataset], tmp_path, random_crop=True).batches(0, 6))
    crops = {sample.crop for batch in cropped for sample in batch.samples}
    assert len(crops) > 6


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 90, 3), (10, 200, 30), np.uint8)).save(buffer, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("0.png")
        info.size = len(buffer.getvalue())
        tar.addfile(info, io.BytesIO(buffer.getvalue()))
    index = SampleIndex.open([tmp_path])
    frames = SampleReader(index, CONFIG, tmp_path).frames(index.clip(0), [0], Bucket(1, 32, 48))
    assert frames.shape == (1, 32, 48, 3)
    assert (frames == (10, 200, 30)).all()


def test_a_record_that_promises_too_many_frames_is_named(tmp_path: Path) -> None:
    index = SampleIndex.open([write_dataset(tmp_path / "data", [10], num_frames=12)])
    reader = SampleReader(index, CONFIG, tmp_path / "frames")
    with pytest.raises(DataError, match=r"has 10 frames.*its record says 12"):
        reader.frames(index.clip(0), [0, 11], Bucket(2, 32, 48))


def test_memory_is_bounded_by_what_is_read_ahead() -> None:
    data = CONFIG.model_copy(update={"loader_workers": 3, "prefetch_batches": 2})
    plan = plan_stage(index_of([{}] * 8), tiny_stage("t2v", batch_size=8), data, (2, 2))
    batch_mb = 8 * 4 * 32 * 48 * 3 / 2**20
    assert read_ahead_mb(plan, data, world_size=1) == pytest.approx(7 * batch_mb)
    assert read_ahead_mb(plan, data, world_size=4) == pytest.approx(7 * batch_mb / 4)
