from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.duplicates import Original, find_copies
from data_engine.duplicates import find_duplicates as find_in_all
from data_engine.schema import ClipRecord
from tests.factories import clip_record, scores


def unit(*numbers: float) -> NDArray[np.float32]:
    vector = np.array(numbers, dtype=np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def find_duplicates(*arguments: Any, **options: Any) -> dict[str, tuple[str, float]]:
    """These clips are all of one source."""
    return find_in_all(*arguments, within_source=True, **options)


def ids(*records: ClipRecord) -> list[str]:
    return [record.clip_id for record in records]


def test_of_two_copies_the_one_with_more_pixels_is_kept() -> None:
    small = clip_record(start_s=0.0, height_px=180, width_px=320)
    large = clip_record(start_s=1.0)
    other = clip_record(start_s=2.0)
    embeddings = dict(
        zip(ids(small, large, other), [unit(1, 0), unit(1, 0.01), unit(0, 1)], strict=True)
    )
    found = find_duplicates([small, large, other], embeddings, 0.98)
    assert set(found) == {small.clip_id}
    kept, cosine = found[small.clip_id]
    assert kept == large.clip_id
    assert cosine == pytest.approx(1.0, abs=1e-3)


def test_of_equal_size_the_sharper_is_kept_then_the_longer() -> None:
    blurred = clip_record(start_s=0.0, scores=scores(sharpness=10.0))
    sharp = clip_record(start_s=1.0, scores=scores(sharpness=90.0), end_s=2.0)
    longer = clip_record(start_s=2.0, scores=scores(sharpness=90.0), end_s=9.0)
    embeddings = dict.fromkeys(ids(blurred, sharp, longer), unit(1, 0))
    found = find_duplicates([blurred, sharp, longer], embeddings, 0.98)
    assert {name: kept for name, (kept, _) in found.items()} == dict.fromkeys(
        ids(blurred, sharp), longer.clip_id
    )


def test_a_chain_of_likenesses_is_no_group() -> None:
    # a is like b and b like c, but a is not like c: c has no kept copy, so it stays.
    best, middle, last = (clip_record(start_s=float(i), height_px=400 - i) for i in range(3))
    angles = np.deg2rad([0, 9, 18])
    embeddings = {
        record.clip_id: unit(float(np.cos(angle)), float(np.sin(angle)))
        for record, angle in zip((best, middle, last), angles, strict=True)
    }
    found = find_duplicates([best, middle, last], embeddings, np.cos(np.deg2rad(10)))
    assert {name: kept for name, (kept, _) in found.items()} == {middle.clip_id: best.clip_id}


def test_parts_of_one_source_are_no_copies_unless_asked_for() -> None:
    first, second = clip_record(start_s=0.0), clip_record(start_s=4.0, end_s=8.0)
    elsewhere = clip_record(source_id="another source", height_px=180)
    embeddings = dict.fromkeys(ids(first, second, elsewhere), unit(1, 0))
    clips = [first, second, elsewhere]
    assert set(find_in_all(clips, embeddings, 0.98)) == {elsewhere.clip_id}
    assert len(find_duplicates(clips, embeddings, 0.98)) == 2


def test_a_clip_without_embedding_stays() -> None:
    first, second = clip_record(start_s=0.0), clip_record(start_s=1.0)
    assert find_duplicates([first, second], {first.clip_id: unit(1, 0)}, 0.5) == {}


def test_the_index_for_many_clips_finds_what_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(0)
    records = [clip_record(start_s=float(i)) for i in range(2000)]
    rows = random.standard_normal((2000, 32)).astype(np.float32)
    rows[1000:] = rows[:1000] + 0.01 * random.standard_normal((1000, 32))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embeddings = {record.clip_id: row for record, row in zip(records, rows, strict=True)}
    exact = find_duplicates(records, embeddings, 0.99)
    by_index = find_duplicates(records, embeddings, 0.99, exact_clips=100)
    assert len(exact) == 1000
    assert set(by_index) <= set(exact)
    assert len(by_index) >= 990
    # The order of the rows does not matter.
    assert find_duplicates(records[::-1], embeddings, 0.99) == exact


def test_copies_of_many_originals_are_found_by_the_index_as_well() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((2000, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    originals = [
        Original("first", clip_record(source_id=f"source {i}"), row) for i, row in enumerate(rows)
    ]
    records = [clip_record(start_s=float(i)) for i in range(200)]
    near = rows[:200] + 0.01 * random.standard_normal((200, 32)).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    embeddings = dict(zip(ids(*records), near, strict=True))
    exact = find_copies(records, embeddings, originals, 0.99)
    assert {name for name, _ in exact.values()} == {o.name for o in originals[:200]}
    by_index = find_copies(records, embeddings, originals, 0.99, exact_clips=100)
    assert set(by_index.items()) <= set(exact.items())
    assert len(by_index) >= 190


def test_of_equal_originals_the_first_is_named() -> None:
    twins = [Original(name, clip_record(source_id=name), unit(1, 0)) for name in ("b", "a")]
    copy = clip_record()
    found = find_copies([copy, clip_record(start_s=9.0)], {copy.clip_id: unit(1, 0)}, twins, 0.98)
    assert found == {copy.clip_id: (twins[0].name, pytest.approx(1.0))}
    assert find_copies([copy], {copy.clip_id: unit(1, 0)}, [], 0.98) == {}
