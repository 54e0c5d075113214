"""The steps that need neither Ray nor a video."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_engine.append_only import SCORES
from data_engine.caption_config import CaptionConfig
from data_engine.config import DataEngineConfig, DuplicateConfig, FilterConfig, ScoreConfig
from data_engine.errors import BusyError, TableError
from data_engine.filters import BEFORE_CAPTIONS, judge
from data_engine.schema import Category, ClipRecord, ClipStatus, Rejection, SourceVideo
from data_engine.scoring import scorer_versions
from data_engine.steps.captioning import caption_clips, decide_with_captions
from data_engine.steps.deciding import deduplicate_clips, filter_clips
from data_engine.steps.scoring import as_listed_now, scores_goal
from data_engine.steps.work import missing_batches
from data_engine.tables import (
    DatasetPaths,
    made_from,
    read_clips,
    write_clips,
    write_table,
    write_text,
)
from tests.factories import caption, clip_record, scores

GOOD = scores(
    motion=0.1, luminance=0.5, sharpness=100.0, brisque=20.0, text_area=0.0, conse_similarity=0.3
)
CONFIG = DataEngineConfig()


def good(start_s: float, **changes: object) -> ClipRecord:
    return clip_record(**{"start_s": start_s, "end_s": start_s + 4, "scores": GOOD, **changes})


def scored(tmp_path: Path, *clips: ClipRecord) -> DatasetPaths:
    paths = DatasetPaths(tmp_path)
    write_clips(paths.scored_clips, clips, "scored")
    return paths


def test_a_decision_is_taken_again_only_if_scores_or_limits_changed(tmp_path: Path) -> None:
    paths = scored(tmp_path, good(0.0), good(5.0, scores=GOOD | scores(motion=0.0)))
    filter_clips(CONFIG, paths)
    assert [c.rejected_by for c in read_clips(paths.filtered_clips)] == [None, Rejection.TOO_STATIC]
    written_ns = paths.filtered_clips.stat().st_mtime_ns
    filter_clips(CONFIG, paths)
    assert paths.filtered_clips.stat().st_mtime_ns == written_ns
    filter_clips(CONFIG.model_copy(update={"filters": FilterConfig(min_motion=None)}), paths)
    assert [c.rejected_by for c in read_clips(paths.filtered_clips)] == [None, None]


def write_embeddings(paths: DatasetPaths, directions: dict[str, tuple[float, float]]) -> None:
    rows = [
        {
            "clip_id": clip_id,
            "scorer": scorer,
            "version": scorer_versions(CONFIG.scores)[scorer],
            "scores": {},
            "texts": [],
            "embedding": np.array(direction, dtype=np.float32) if scorer == "embedding" else None,
        }
        for clip_id, direction in directions.items()
        for scorer in ("quality", "embedding")
    ]
    write_table(paths.scores / "part.parquet", rows, SCORES, scores_goal(CONFIG))


def test_copies_are_rejected_and_name_the_clip_that_is_kept(tmp_path: Path) -> None:
    small = good(0.0, source_id="another source", height_px=180, width_px=320)
    paths = scored(tmp_path, good(0.0), small, good(5.0))
    filter_clips(CONFIG, paths)
    clips = read_clips(paths.filtered_clips)
    directions = {c.clip_id: (0.0, 1.0) if c.start_s else (1.0, 0.0) for c in clips}
    write_embeddings(paths, directions)
    deduplicate_clips(CONFIG, paths)
    found = {clip.clip_id: clip for clip in read_clips(paths.deduplicated_clips)}
    assert found[small.clip_id].rejected_by is Rejection.DUPLICATE
    original = found[found[small.clip_id].duplicate_of or ""]
    assert (original.start_s, original.status) == (0.0, ClipStatus.KEPT)
    assert sum(clip.status is ClipStatus.KEPT for clip in found.values()) == 2

    before = made_from(paths.deduplicated_clips)
    keep_all = CONFIG.model_copy(update={"duplicates": DuplicateConfig(max_similarity=None)})
    deduplicate_clips(keep_all, paths)
    assert made_from(paths.deduplicated_clips) != before
    assert all(c.status is ClipStatus.KEPT for c in read_clips(paths.deduplicated_clips))


def batch_of(root: Path, name: str, *clips: ClipRecord) -> DatasetPaths:
    """A data set whose clips that end at half a minute look alike, and no others."""
    paths = scored(root / name, *clips)
    write_text(paths.config, CONFIG.model_dump_json())
    filter_clips(CONFIG, paths)
    write_embeddings(paths, {c.clip_id: (1.0, 0.0) if c.end_s == 30 else (0.0, 1.0) for c in clips})
    return paths


def copies(config: DataEngineConfig, paths: DatasetPaths) -> list[str | None]:
    deduplicate_clips(config, paths)
    return [clip.duplicate_of for clip in read_clips(paths.deduplicated_clips)]


def beside(*names: str) -> DataEngineConfig:
    return CONFIG.model_copy(update={"duplicates": DuplicateConfig(also=names)})


def test_copies_of_clips_of_earlier_data_sets_are_rejected_and_name_them(tmp_path: Path) -> None:
    original = good(26.0, end_s=30.0, source_id="a", height_px=200)
    better = good(26.0, end_s=30.0, source_id="b", height_px=2000)
    again = good(26.0, end_s=30.0, source_id="b2")
    first = batch_of(tmp_path, "first", original)
    second = batch_of(tmp_path, "second", better, again, good(50.0, source_id="b"))
    config = beside("first", "second", "third")
    # The first of the list looks at none, and needs none of the others.
    assert copies(config, first) == [None]
    # Even a better one is a copy, since the other data set is done.
    name = f"first/{original.clip_id}"
    assert copies(config, second) == [name, None, name]
    with pytest.raises(TableError, match=r"names 'first', but .* does not exist; curate that"):
        copies(config, batch_of(tmp_path / "elsewhere", "third", original))
    third = batch_of(tmp_path, "third", again)
    assert copies(config, third) == [name]


def test_what_is_kept_follows_the_list_and_not_the_order_of_the_runs(tmp_path: Path) -> None:
    a, b = (good(26.0, end_s=30.0, source_id=source_id) for source_id in ("a", "b"))
    first, second = batch_of(tmp_path, "first", a), batch_of(tmp_path, "second", b)
    deduplicate_clips(CONFIG, second)
    for reverse in (False, True):
        config = beside(*sorted(("first", "second"), reverse=reverse))
        earlier, later = (second, first) if reverse else (first, second)
        assert copies(config, earlier) == [None]
        assert copies(config, later) != [None]
        # Again, in the other order: nothing is left to do.
        before = made_from(later.deduplicated_clips), made_from(earlier.deduplicated_clips)
        deduplicate_clips(config, later)
        deduplicate_clips(config, earlier)
        assert (
            made_from(later.deduplicated_clips),
            made_from(earlier.deduplicated_clips),
        ) == before
    # Another decision of an earlier data set is seen when the later one runs again.
    strict = beside("first", "second")
    deduplicate_clips(strict, first)
    assert copies(strict, second) == [f"first/{a.clip_id}"]
    filter_clips(CONFIG.model_copy(update={"filters": FilterConfig(min_motion=0.5)}), first)
    deduplicate_clips(strict, first)
    assert copies(strict, second) == [None]


def test_of_one_source_in_two_data_sets_the_same_time_is_a_copy(tmp_path: Path) -> None:
    first = batch_of(tmp_path, "first", good(26.0, end_s=30.0))
    deduplicate_clips(CONFIG, first)
    shifted = good(27.0, end_s=30.0)
    second = batch_of(tmp_path, "second", shifted)
    assert copies(beside("first"), second) != [None]
    # Alike in another place: a part of the same long shot.
    third = scored(tmp_path / "third", good(40.0, end_s=44.0))
    filter_clips(CONFIG, third)
    (clip,) = read_clips(third.filtered_clips)
    write_embeddings(third, {clip.clip_id: (1.0, 0.0)})
    assert copies(beside("first"), third) == [None]


def test_embeddings_of_another_model_are_not_compared(tmp_path: Path) -> None:
    first = batch_of(tmp_path, "first", good(26.0, end_s=30.0))
    deduplicate_clips(CONFIG, first)
    other = CONFIG.model_copy(update={"scores": ScoreConfig(embedding="open_clip")})
    write_text(first.config, other.model_dump_json())
    with pytest.raises(TableError, match=r"has embeddings by hub:open_clip.*this data set by emb"):
        deduplicate_clips(beside("first"), batch_of(tmp_path, "second", good(0.0)))
    with pytest.raises(ValueError, match=r"duplicates.also needs a number in"):
        DataEngineConfig(duplicates=DuplicateConfig(max_similarity=None, also=("first",)))


def test_a_kept_clip_lists_the_subsets_that_it_passes() -> None:
    subsets = {
        "lively": FilterConfig(min_motion="p50"),
        "sft": FilterConfig(min_motion=0.5, max_brisque=10.0),
    }
    config = CONFIG.model_copy(update={"subsets": subsets})
    slow = good(0.0, captions=(caption(),))
    fast = good(5.0, captions=(caption(),), scores=GOOD | scores(motion=0.6, brisque=5.0))
    mismatch = good(10.0, captions=(caption(),), scores=GOOD | scores(conse_similarity=-0.5))
    strict = config.model_copy(update={"filters": FilterConfig(min_conse_similarity=0.0)})
    decided = decide_with_captions([slow, fast, mismatch], strict)
    assert [clip.subsets for clip in decided] == [(), ("lively", "sft"), ()]
    assert decided[2].rejected_by is Rejection.CAPTION_MISMATCH


def test_a_subset_has_the_limits_of_the_filters_where_it_names_none() -> None:
    unscored = {n: s for n, s in GOOD.items() if n not in ("brisque", "text_area")}
    config = DataEngineConfig(
        scores=ScoreConfig(frame_scorers=()),
        filters=FilterConfig(max_brisque=None, max_text_area=None, min_motion=None),
        subsets={"sft": FilterConfig(min_sharpness="p50")},
    )
    still = good(0.0, scores=unscored | scores(motion=0.0))
    blurred = good(5.0, scores=unscored | scores(sharpness=1.0))
    decided = decide_with_captions([still, blurred], config)
    assert [clip.subsets for clip in decided] == [("sft",), ()]


def test_a_subset_may_be_of_some_categories() -> None:
    config = CONFIG.model_copy(update={"subsets": {"food": FilterConfig(categories=("food",))}})
    food = good(0.0, category=Category(name="food", backend="test"))
    decided = decide_with_captions([food, good(5.0)], config)
    assert [clip.subsets for clip in decided] == [("food",), ()]


def test_a_caption_step_with_other_limits_does_not_undo_the_filters() -> None:
    still = good(0.0, scores=GOOD | scores(motion=0.0), captions=(caption(),))
    assert decide_with_captions([still], CONFIG)[0].status is ClipStatus.KEPT


def test_without_a_captioner_clips_are_kept_as_they_are(tmp_path: Path) -> None:
    paths = DatasetPaths(tmp_path)
    unread = {name: score for name, score in GOOD.items() if name != "conse_similarity"}
    clips = [good(start_s, scores=unread) for start_s in (0.0, 5.0)]
    write_clips(paths.deduplicated_clips, clips, "deduplicated")
    silent = CONFIG.model_copy(update={"captions": CaptionConfig(captioners=())})
    caption_clips(silent, paths, lambda _: None)
    clips = read_clips(paths.captioned_clips)
    assert [(c.status, c.captions, c.main_text) for c in clips] == [(ClipStatus.KEPT, (), "")] * 2
    needs_similarity = FilterConfig(min_conse_similarity=0.1)
    caption_clips(silent.model_copy(update={"filters": needs_similarity}), paths, lambda _: None)
    clips = read_clips(paths.captioned_clips)
    assert [c.rejected_by for c in clips] == [Rejection.NOT_SCORED] * 2


def test_two_processes_do_not_work_on_one_data_set(tmp_path: Path) -> None:
    paths = scored(tmp_path, good(0.0))
    code = (
        "import fcntl, sys; lock = open(sys.argv[1], 'wb'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="another process is working on"):
            filter_clips(CONFIG, paths)
        holder.kill()
    # A killed process leaves no lock behind.
    filter_clips(CONFIG, paths)
    assert len(read_clips(paths.filtered_clips)) == 1


def test_a_run_that_goes_on_shows_models_the_batches_of_the_one_that_was_killed() -> None:
    clips = [good(5.0 * i) for i in range(20)]
    whole = missing_batches(clips, ["a", "b"], lambda _: ())
    assert [len(batch) for _, batch in whole] == [8, 8, 4]
    done = {clip.clip_id for clip in clips[:8]}
    rest = missing_batches(clips, ["a", "b"], lambda c: ("a", "b") if c.clip_id in done else ())
    assert rest == whole[1:]
    half = missing_batches(clips[:8], ["a", "b"], lambda c: ("a",) if c.start_s < 10 else ())
    assert [(names, len(batch)) for names, batch in half] == [(("b",), 2), (("a", "b"), 6)]


@pytest.mark.parametrize(
    ("transfer", "is_hdr"), [("smpte2084", 1.0), ("arib-std-b67", 1.0), ("bt709", 0.0), (None, 0.0)]
)
def test_a_clip_knows_whether_its_source_has_a_high_dynamic_range(
    transfer: str | None, is_hdr: float
) -> None:
    source = SourceVideo(
        source_id="a",
        uri="film.mp4",
        location="/film.mp4",
        size_bytes=1,
        codec="hevc",
        height_px=360,
        width_px=640,
        rotation_deg=0,
        fps=24.0,
        duration_s=9.0,
        colour_transfer=transfer,
    )
    record = as_listed_now(good(0.0), source)
    assert record.score("hdr") == is_hdr
    decided = judge(record, FilterConfig(max_hdr=0), BEFORE_CAPTIONS)
    assert decided.rejected_by is (Rejection.WRONG_DYNAMIC_RANGE if is_hdr else None)
