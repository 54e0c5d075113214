"""Which samples a step trains on: exact, elastic, and nothing dropped."""

import pickle
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.training.builders import tiny_stage
from tests.training.streaming.builders import index_of, large_index
from training.config import DataConfig, StageConfig
from training.streaming.buckets import fitting_stride, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.interleave import Interleave, whole_counts
from training.streaming.order import Sample, SampleOrder, choose_caption, rank_places

CONFIG = DataConfig(height_px=32, width_px=48, sampling_stride=2)
PATCHES = (2, 2)


def order_of(
    index: SampleIndex, stage: StageConfig, data: DataConfig = CONFIG, seed: int = 0
) -> SampleOrder:
    plan = plan_stage(index, stage, data, PATCHES)
    return SampleOrder(index, plan, (seed, stage.task), stage, data)


def global_batch(order: SampleOrder, step: int) -> list[Sample]:
    return [order.sample(step, place) for place in range(order.bucket(step)[1])]


def random_case(seed: int) -> tuple[SampleIndex, StageConfig, DataConfig]:
    """Data sets, lengths, shapes, weights and batch sizes at random, but such that no bucket starves."""
    rng = random.Random(seed)
    sizes = [(48, 80), (80, 48), (64, 64)][: rng.randint(1, 3)]
    datasets = [
        [
            {"num_frames": rng.choice([6, 30]), "height_px": h, "width_px": w}
            for h, w in sizes
            for _ in range(rng.randint(9, 40))
        ]
        for _ in range(rng.randint(1, 3))
    ]
    # Each bucket has samples for a batch of 8 in every data set.
    for rows, (h, w) in ((rows, size) for rows in datasets for size in sizes):
        rows += [{"num_frames": n, "height_px": h, "width_px": w} for n in [4] * 8 + [30] * 8]
    shapes = {(48, 80): (32, 48), (80, 48): (48, 32), (64, 64): (32, 32)}
    first, *others = (shapes[size] for size in sizes)
    weights = tuple(rng.uniform(0.2, 2.0) for _ in datasets) if rng.random() < 0.5 else ()
    data = DataConfig(
        height_px=first[0], width_px=first[1], more_sizes_px=tuple(others), dataset_weights=weights
    )
    changes: dict[str, Any] = {
        "batch_size": 4,
        "num_frames": 4,
        "image_share": rng.choice([0, 0.3]),
    }
    if rng.random() < 0.5:
        changes |= {"more_num_frames": (8,)}
    if rng.random() < 0.5:
        changes |= {"tokens_per_batch": rng.choice([16, 60, 90]), "batch_multiple": 4}
    return index_of(*datasets), tiny_stage("t2v", **changes), data


@pytest.mark.parametrize("seed", range(6))
def test_any_number_of_ranks_sees_the_same_global_batches(seed: int) -> None:
    """After any number of steps, from a fresh start, whatever the ranks were before."""
    index, stage, data = random_case(seed)
    rng = random.Random(seed)
    whole = order_of(index, stage, data)
    expected = [global_batch(whole, step) for step in range(40)]
    step = 0
    while step < 40:
        ranks = rng.choice([1, 2, 4])
        resumed = order_of(index, stage, data)
        for now in range(step, min(40, step + rng.randint(1, 15))):
            size = resumed.bucket(now)[1]
            parts = [
                [resumed.sample(now, place) for place in rank_places(size, rank, ranks)]
                for rank in range(ranks)
            ]
            assert len({len(part) for part in parts}) == 1
            assert [sample for part in parts for sample in part] == expected[now]
            step = now + 1


@pytest.mark.parametrize("seed", range(6))
def test_every_sample_comes_once_before_any_comes_again(seed: int) -> None:
    """Of each data set in each bucket; nothing is dropped at the end of an epoch."""
    index, stage, data = random_case(seed)
    plan = plan_stage(index, stage, data, PATCHES)
    order = order_of(index, stage, data)
    streams = {
        (planned.bucket, dataset): {index.clip(int(row)).clip_id for row in rows}
        for planned in plan.buckets
        for dataset, rows in enumerate(planned.rows)
    }
    seen: dict[Any, list[str]] = {stream: [] for stream in streams}
    for step in range(150):
        bucket, _ = order.bucket(step)
        for sample in global_batch(order, step):
            seen[bucket, int(sample.clip.clip_id.split("-")[0])].append(sample.clip.clip_id)
    assert sum(len(found) >= len(streams[stream]) for stream, found in seen.items()) > 0
    for stream, found in seen.items():
        size = len(streams[stream])
        for start in range(0, len(found) - size + 1, size):
            assert set(found[start : start + size]) == streams[stream]


@pytest.mark.parametrize("seed", range(6))
def test_samples_are_drawn_as_often_as_the_plan_says(seed: int) -> None:
    index, stage, data = random_case(seed)
    plan = plan_stage(index, stage, data, PATCHES)
    order = order_of(index, stage, data)
    drawn = Counter[Any]()
    for step in range(800):
        bucket, batch_size = order.bucket(step)
        drawn[bucket] += batch_size
    total = sum(drawn.values())
    assert sum(planned.share for planned in plan.buckets) == pytest.approx(1)
    for planned in plan.buckets:
        # Steps are whole, so a rare bucket comes a little more or less often.
        assert drawn[planned.bucket] / total == pytest.approx(planned.share, rel=0.15, abs=0.02)


def test_data_sets_are_mixed_by_their_weights() -> None:
    index = index_of([{}] * 40, [{}] * 200)
    data = CONFIG.model_copy(update={"dataset_weights": (3.0, 1.0)})
    order = order_of(index, tiny_stage("t2v", batch_size=8), data)
    found = [s.clip.clip_id[0] for step in range(300) for s in global_batch(order, step)]
    assert found.count("0") / len(found) == pytest.approx(0.75, abs=0.01)


def test_images_are_trained_along_with_videos() -> None:
    index = index_of([{}] * 40, [{"media": "image", "num_frames": 1}] * 40)
    order = order_of(index, tiny_stage("t2v", batch_size=8, image_share=0.25))
    batches = [(order.bucket(step)[0], global_batch(order, step)) for step in range(400)]
    images = [batch for bucket, batch in batches if bucket.num_frames == 1]
    assert len(images) / len(batches) == pytest.approx(0.25, abs=0.02)
    assert {s.clip.media for batch in images for s in batch} == {"video", "image"}
    videos = [s for bucket, batch in batches if bucket.num_frames > 1 for s in batch]
    assert {s.clip.media for s in videos} == {"video"}


def test_the_order_depends_on_seed_and_stage_and_nothing_else() -> None:
    index = index_of([{}] * 30)
    expected = [global_batch(order_of(index, tiny_stage("t2v")), step) for step in range(20)]
    backwards = order_of(index, tiny_stage("t2v"))
    assert [global_batch(backwards, step) for step in reversed(range(20))] == expected[::-1]
    copied: SampleOrder = pickle.loads(pickle.dumps(backwards))
    assert [global_batch(copied, step) for step in range(20)] == expected
    for other in (order_of(index, tiny_stage("t2v"), seed=1), order_of(index, tiny_stage("stiv"))):
        assert [global_batch(other, step) for step in range(20)] != expected


def test_a_window_lies_inside_its_clip() -> None:
    index = index_of([{"num_frames": n} for n in (30, 20, 9, 5, 4)])
    order = order_of(index, tiny_stage("t2v"))
    for sample in (s for step in range(40) for s in global_batch(order, step)):
        assert set(np.diff(sample.frame_indices)) == {sample.stride}
        assert len(sample.frame_indices) == 4
        assert 0 <= sample.frame_indices[0] <= sample.frame_indices[-1] < sample.clip.num_frames


def test_a_sample_that_cannot_be_read_has_the_same_replacement_everywhere() -> None:
    index = index_of([{}] * 30)
    one, other = order_of(index, tiny_stage("t2v")), order_of(index, tiny_stage("t2v"))
    again = [one.sample(3, 1, attempt) for attempt in range(5)]
    assert again == [other.sample(3, 1, attempt) for attempt in range(5)]
    assert len({sample.clip.row for sample in again}) > 1


def test_captions_are_mixed_as_often_as_asked() -> None:
    told = {"captions": ["written", "came along"], "caption_sources": ["vlm", "original"]}
    index = index_of([told] * 3)

    def share(prob: float) -> float:
        mixed = CONFIG.model_copy(update={"caption_weights": {"original": prob, "main": 1 - prob}})
        order = order_of(index, tiny_stage("t2v"), mixed)
        captions = [s.caption for step in range(1000) for s in global_batch(order, step)]
        assert set(captions) <= {"written", "came along"}
        return captions.count("came along") / len(captions)

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert abs(share(0.1) - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, [1, 0, 0, 0]),
        ({"main": 1, "original": 1}, [0.5, 0, 0, 0.5]),
        ({"vlm": 2, "template": 2}, [0.5, 0.25, 0.25, 0]),
        ({"elsewhere": 1}, [1, 0, 0, 0]),
    ],
)
def test_captions_of_one_source_share_its_weight(
    weights: dict[str, float], expected: list[float]
) -> None:
    sources = ("template", "vlm", "vlm", "original")
    draws = np.arange(1000) / 1000
    chosen = [choose_caption(sources, weights, draw) for draw in draws]
    assert np.bincount(chosen, minlength=4) / 1000 == pytest.approx(expected, abs=2e-3)


def test_a_stage_gives_the_frames_it_names_and_mixes_its_modes() -> None:
    index = index_of([{}] * 5)
    order = order_of(index, tiny_stage("stiv", given=("first", "first_and_last")))
    given = [s.given for step in range(200) for s in global_batch(order, step)]
    assert set(given) == {(True, False, False, False), (True, False, False, True)}
    assert abs(given.count((True, False, False, False)) / 400 - 0.5) < 0.1
    plain = order_of(index, tiny_stage("t2v"))
    assert not any(any(s.given) for step in range(5) for s in global_batch(plain, step))


@pytest.mark.slow
def test_a_million_samples_cost_no_more_than_the_batch_that_is_asked_for() -> None:
    """Resuming deep in the data reads nothing that came before; `benchmarks/loading.py` times it."""
    order = order_of(large_index(1_000_000), tiny_stage("t2v", batch_size=16))
    late = [s.clip.row for step in (56_250, 56_251) for s in global_batch(order, step)]
    assert len(set(late)) == 32


@pytest.mark.parametrize(
    ("clip_frames", "num_frames", "expected"), [(22, 8, 3), (21, 8, 2), (8, 8, 1), (100, 1, 1)]
)
def test_a_short_clip_takes_the_largest_stride_that_fits(
    clip_frames: int, num_frames: int, expected: int
) -> None:
    assert fitting_stride(clip_frames, num_frames, 3) == expected


def test_streams_are_mixed_exactly() -> None:
    counts = [5, 1, 3]
    mixed = Interleave(counts, ("key",))
    found = [mixed.at(position) for position in range(27)]
    for stream, count in enumerate(counts):
        assert [nth for s, nth in found if s == stream] == list(range(3 * count))
    orders = [tuple(s for s, _ in found[start : start + 9]) for start in (0, 9, 18)]
    assert len(set(orders)) > 1


def test_whole_counts_keep_what_is_rare() -> None:
    assert whole_counts([0.7, 0.3], 10) == [7, 3]
    assert whole_counts([1.0, 0.001, 0.0], 10) == [10, 1, 0]
