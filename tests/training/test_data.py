"""Shards to samples: which clips, in which order, which frames."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_engine.schema import Caption
from tests.training.builders import moving_square, tiny_stage, write_dataset
from training.config import DataConfig
from training.data import (
    FrameStore,
    SampleOrder,
    fitting_stride,
    plan_clips,
    rank_positions,
)
from training.decode import fit_to_cover
from training.errors import DataError
from training.shards import ClipShards

CONFIG = DataConfig(height_px=32, width_px=48, sampling_stride=2)


def order_of(dataset: Path, seed: int = 0, stage: str = "t2v") -> SampleOrder:
    plan = plan_clips(ClipShards.open([dataset]), 4, 2)
    return SampleOrder(plan, (seed, stage), tiny_stage("t2v"), CONFIG)


def test_an_epoch_is_a_permutation_of_the_usable_clips(dataset: Path) -> None:
    order = order_of(dataset)
    epochs = [[order.sample(epoch * 5 + i).clip.clip_id for i in range(5)] for epoch in range(3)]

    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_the_order_depends_on_seed_and_stage_and_nothing_else(dataset: Path) -> None:
    order, again = order_of(dataset), order_of(dataset)
    backwards = [again.sample(position) for position in reversed(range(20))]

    assert [order.sample(position) for position in range(20)] == backwards[::-1]
    other_seed, other_stage = order_of(dataset, seed=1), order_of(dataset, stage="stiv")
    assert [other_seed.sample(p) for p in range(20)] != backwards[::-1]
    assert [other_stage.sample(p) for p in range(20)] != backwards[::-1]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_slices_of_all_workers_are_the_global_batch(world_size: int) -> None:
    slices = [rank_positions(3, 8, rank, world_size) for rank in range(world_size)]
    assert [position for part in slices for position in part] == list(range(24, 32))


def test_clips_that_are_too_short_or_have_no_caption_are_counted(
    dataset: Path, tmp_path: Path
) -> None:
    silent = write_dataset(tmp_path / "silent", [30], captions=())
    shards = ClipShards.open([dataset, silent])
    plan = plan_clips(shards, 4, 2)

    # The txt member still holds a caption where the record has none.
    assert (len(plan.clips), plan.num_too_short, plan.num_without_caption) == (6, 1, 0)
    assert plan.num_at_smaller_stride == 1
    assert "1 too short" in plan.summary()


def test_no_usable_clip_is_an_error_that_says_why(dataset: Path) -> None:
    with pytest.raises(DataError, match=r"6 too short.*40 frames or more"):
        plan_clips(ClipShards.open([dataset]), 40, 2)


@pytest.mark.parametrize(
    ("clip_frames", "num_frames", "expected"), [(22, 8, 3), (21, 8, 2), (8, 8, 1), (100, 1, 1)]
)
def test_a_short_clip_takes_the_largest_stride_that_fits(
    clip_frames: int, num_frames: int, expected: int
) -> None:
    assert fitting_stride(clip_frames, num_frames, 3) == expected


def test_a_window_lies_inside_its_clip(dataset: Path) -> None:
    order = order_of(dataset)
    for position in range(60):
        sample = order.sample(position)
        steps = np.diff(sample.frame_indices)
        assert len(sample.frame_indices) == 4
        assert set(steps) == {sample.stride}
        assert 0 <= sample.frame_indices[0] <= sample.frame_indices[-1] < sample.clip.num_frames


def test_frames_are_those_of_the_clip_from_cache_or_not(dataset: Path, tmp_path: Path) -> None:
    shards = ClipShards.open([dataset])
    cached = FrameStore(tmp_path / "a", shards, CONFIG)
    direct = FrameStore(tmp_path / "b", shards, CONFIG.model_copy(update={"cache_bytes": 0}))
    clip = shards.clips[1]
    fresh = cached.frames(clip, [0, 7, 19])

    assert fresh.shape == (3, 32, 48, 3)
    assert np.array_equal(fresh, cached.frames(clip, [0, 7, 19]))
    assert np.array_equal(fresh, direct.frames(clip, [0, 7, 19]))
    assert len(list((tmp_path / "a").iterdir())) == 1
    assert not list((tmp_path / "b").iterdir())
    original = moving_square(20, 1)[[0, 7, 19]]
    assert abs(fresh.mean() - original[:, :, 4:-4].mean()) < 3


def test_the_crop_covers_the_target_at_the_centre() -> None:
    wide = fit_to_cover(720, 1280, 64, 64)
    assert (wide.resized_height_px, wide.resized_width_px) == (64, 114)
    assert (wide.top_px, wide.left_px) == (0, 25)
    tall = fit_to_cover(1280, 720, 64, 112)
    assert (tall.resized_height_px, tall.resized_width_px) == (199, 112)
    assert (tall.top_px, tall.left_px) == (67, 0)


def test_a_record_that_promises_too_many_frames_is_named(tmp_path: Path) -> None:
    shards = ClipShards.open([write_dataset(tmp_path / "data", [10], num_frames=12)])
    store = FrameStore(tmp_path / "frames", shards, CONFIG)
    with pytest.raises(DataError, match=r"has 10 frames.*its record says 12"):
        store.frames(shards.clips[0], [0, 11])


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="build the data set first"):
        ClipShards.open([tmp_path])


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "data", [10]) / "shards" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(DataError, match="schema_version 99"):
        ClipShards.open([tmp_path / "data"])


def test_a_cut_off_shard_is_refused(tmp_path: Path) -> None:
    shard = write_dataset(tmp_path / "data", [10]) / "shards" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(DataError, match="its manifest says"):
        ClipShards.open([tmp_path / "data"])


def test_a_stage_may_train_on_a_named_subset(dataset: Path) -> None:
    shards = ClipShards.open([dataset])
    chosen = tuple(replace(clip, subsets=("sft",)) for clip in shards.clips[:2])
    mixed = replace(shards, clips=(*chosen, *shards.clips[2:]))
    assert {clip.clip_id for clip in plan_clips(mixed, 1, 1, "sft").clips} <= {
        clip.clip_id for clip in chosen
    }
    with pytest.raises(DataError, match="no clip is in the subset 'hq'; the shards know sft"):
        plan_clips(mixed, 1, 1, "hq")


def test_captions_are_mixed_as_often_as_asked(tmp_path: Path) -> None:
    both = (
        Caption(text="written", source="template", model="test"),
        Caption(text="came along", source="original", model="somebody"),
    )
    shards = ClipShards.open([write_dataset(tmp_path / "both", [8] * 3, captions=both)])
    plan = plan_clips(shards, 4, 2)

    def share(prob: float) -> float:
        mixed = CONFIG.model_copy(update={"original_caption_prob": prob})
        order = SampleOrder(plan, (0, "t2v"), tiny_stage("t2v"), mixed)
        captions = [order.sample(position).caption for position in range(2000)]
        assert set(captions) <= {"written", "came along"}
        return captions.count("came along") / len(captions)

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert abs(share(0.1) - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_a_stage_gives_the_frames_it_names_and_mixes_its_modes(dataset: Path) -> None:
    plan = plan_clips(ClipShards.open([dataset]), 4, 2)
    stage = tiny_stage("stiv", given=("first", "first_and_last"))
    order = SampleOrder(plan, (0, "stiv"), stage, CONFIG)
    given = [order.sample(position).given for position in range(400)]
    assert set(given) == {(True, False, False, False), (True, False, False, True)}
    assert abs(given.count((True, False, False, False)) / 400 - 0.5) < 0.1
    assert not any(any(order_of(dataset).sample(p).given) for p in range(5))
