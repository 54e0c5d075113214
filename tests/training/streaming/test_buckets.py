"""Which samples are trained at which shape, and what is said about the others."""

from typing import Any

import pytest

from tests.training.builders import tiny_stage
from tests.training.streaming.builders import index_of
from training.config import DataConfig
from training.errors import DataError
from training.streaming.buckets import Bucket, StagePlan, plan_stage
from training.streaming.index import SampleIndex

MIXED = DataConfig(
    height_px=64, width_px=112, more_sizes_px=((112, 64), (128, 224)), sampling_stride=2
)


def plan_of(index: SampleIndex, data: DataConfig = MIXED, **changes: Any) -> StagePlan:
    return plan_stage(index, tiny_stage("t2v", **changes), data, (2, 2))


def shape(height_px: int, width_px: int, num_frames: int = 30) -> dict[str, Any]:
    return {"height_px": height_px, "width_px": width_px, "num_frames": num_frames}


def test_a_clip_is_trained_at_the_nearest_shape_that_does_not_enlarge_it() -> None:
    rows = (
        [shape(90, 160)] * 2
        + [shape(1080, 1920)] * 2
        + [shape(1280, 720)] * 2
        + [shape(50, 90)] * 2
    )
    plan = plan_of(index_of(rows))
    found = {str(planned.bucket): planned.rows[0].tolist() for planned in plan.buckets}
    assert found == {"4x64x112": [0, 1, 6, 7], "4x112x64": [4, 5], "4x128x224": [2, 3]}


def test_a_clip_is_trained_at_the_most_frames_that_it_holds() -> None:
    data = MIXED.model_copy(update={"more_sizes_px": ()})
    index = index_of([shape(90, 160, n) for n in (3, 4, 7, 8, 15, 16, 40)])
    plan = plan_of(index, data, batch_size=2, more_num_frames=(8, 16))
    found = {planned.bucket.num_frames: planned.rows[0].tolist() for planned in plan.buckets}
    assert found == {4: [1, 2], 8: [3, 4], 16: [5, 6]}
    assert plan.num_too_short == 1


def test_batches_hold_as_many_tokens_as_they_may() -> None:
    index = index_of([shape(90, 160)] * 40 + [shape(1080, 1920)] * 40)
    data = MIXED.model_copy(update={"more_sizes_px": ((128, 224),)})
    plan = plan_of(index, data, tokens_per_batch=1000, batch_multiple=4)
    # 2 temporal positions times 4 x 7 tokens of 16 px, and four times as many.
    assert [(p.tokens_per_sample, p.batch_size) for p in plan.buckets] == [(56, 16), (224, 4)]
    table = plan.table()
    assert "4x64x112" in table
    assert "896" in table
    assert "dropped in an epoch: none" in table


def test_a_bucket_that_no_clip_fills_is_an_error_that_names_it() -> None:
    with pytest.raises(
        DataError, match=r"bucket 4x112x64 has 0 samples, one batch takes 2; .*more_sizes_px"
    ):
        plan_of(index_of([shape(90, 160)] * 5 + [shape(1080, 1920)] * 5))


def test_what_is_left_out_is_counted() -> None:
    silent = {"caption": "", "has_caption": False}
    index = index_of([{}] * 4 + [{"num_frames": 3}] + [{"num_frames": 5}] + [silent] * 2)
    plan = plan_of(index, DataConfig(height_px=32, width_px=48, sampling_stride=2))
    assert (plan.num_samples, plan.num_too_short, plan.num_without_caption) == (5, 1, 2)
    assert plan.num_at_smaller_stride == 1
    assert "1 too short, 2 without caption" in plan.summary()


def test_no_usable_clip_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"6 too short.*40 frames or more"):
        plan_of(index_of([{}] * 6), num_frames=40)


def test_a_stage_may_train_on_a_named_subset() -> None:
    index = index_of([{"subsets": ["sft"]}] * 2 + [{}] * 4 + [{"subsets": ["hq", "sft"]}])
    data = DataConfig(height_px=32, width_px=48)
    plan = plan_of(index, data, subset="sft")
    assert plan.buckets[0].rows[0].tolist() == [0, 1, 6]
    with pytest.raises(DataError, match="no clip is in the subset 'best'; the shards know hq, sft"):
        plan_of(index, data, subset="best")


def test_weights_are_one_for_each_data_set() -> None:
    data = DataConfig(height_px=32, width_px=48, dataset_weights=(1.0, 2.0, 3.0))
    with pytest.raises(DataError, match="3 numbers for 2 data sets"):
        plan_of(index_of([{}] * 4, [{}] * 4), data)


def test_latents_of_another_size_are_refused() -> None:
    latents = {"media": "latents", "channels": 4, "latent_height": 8, "latent_width": 14}
    data = DataConfig(height_px=64, width_px=112)
    plan = plan_of(index_of([latents] * 4), data)
    assert plan.buckets[0].bucket == Bucket(4, 64, 112)
    other = DataConfig(height_px=128, width_px=224)
    with pytest.raises(
        DataError, match=r"latents of other sizes.*64x112 px; the run has 4x128x224"
    ):
        plan_of(index_of([latents] * 4), other)
