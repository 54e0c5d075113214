"""Shots whose two sides show the same are one shot again; shots that show something else are not."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from data_engine.clips import CutSource
from data_engine.config import DecodeConfig, ProbeConfig, ScoreConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.parts import Part, PartFolder, decode_part, join_parts
from data_engine.probe import probe
from data_engine.schema import SourceVideo, clip_id
from data_engine.scoring import FrameScorers
from data_engine.shots import stitch
from data_engine.sources.listing import local_source
from data_engine.tables import DatasetPaths
from data_engine.transitions import Transition
from tests.videos import HEIGHT_PX, WIDTH_PX, Image, Shot, frames_of, write_video

pytestmark = pytest.mark.slow

SCORERS = FrameScorers(ScoreConfig())
STITCHED = ShotConfig(stitch_similarity=0.6)


def pan(photo: NDArray[np.uint8], left_px: int, zoom: float) -> Shot:
    """A camera that moves slowly over a photograph."""

    def draw(frame: int) -> Image:
        scale = zoom * 1.5 * WIDTH_PX / photo.shape[1]
        matrix = np.array([[scale, 0, -left_px - 0.5 * frame], [0, scale, -20.0]])
        return cv2.warpAffine(
            photo, matrix, (WIDTH_PX, HEIGHT_PX), borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.uint8, copy=False)

    return draw


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, photos: dict[str, NDArray[np.uint8]]
) -> SourceVideo:
    """A jump cut over the cat at 2 s, then coffee at 4 s and a palace at 6 s; 8 s in all."""
    film = [
        (pan(photos["cat"], 40, 1.0), 48),
        (pan(photos["cat"], 120, 1.3), 48),
        (pan(photos["coffee"], 40, 1.0), 48),
        (pan(photos["palace"], 40, 1.0), 48),
    ]
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write_video(path, frames_of(film), options={"g": "24"})
    return probe(local_source(path), ProbeConfig())


def cut(source: SourceVideo, shots: ShotConfig) -> CutSource:
    return cut_source(source, shots, DecodeConfig(), similarity=SCORERS.similarity)


def starts_s(done: CutSource) -> list[float]:
    return [round(clip.start_s, 3) for clip in done.clips]


def test_a_jump_cut_is_stitched_and_cuts_to_something_else_are_not(source: SourceVideo) -> None:
    assert starts_s(cut(source, ShotConfig())) == [0, 2, 4, 6]
    done = cut(source, STITCHED)
    assert starts_s(done) == [0, 4, 6]
    joined = done.clips[0]
    assert joined.num_frames == 96
    assert [clip.shot_index for clip in done.clips] == [0, 1, 2]
    assert joined.clip_id == clip_id(source.source_id, joined.start_s, joined.end_s)


def test_what_is_stitched_is_measured_over_all_of_it(source: SourceVideo) -> None:
    done = cut(source, STITCHED)
    # The same 4 s, cut by the clock.
    fixed = cut(source, ShotConfig(detector="none", stride_s=4.0))
    assert done.clips[0].scores == fixed.clips[0].scores
    assert done.clips[0].clip_id == fixed.clips[0].clip_id
    joined = [frame for frame in done.frames if frame.clip_id == done.clips[0].clip_id]
    assert joined == [frame for frame in fixed.frames if frame.clip_id == done.clips[0].clip_id]


def test_nothing_is_stitched_beyond_the_longest_clip(source: SourceVideo) -> None:
    shots = ShotConfig(stitch_similarity=0.6, max_clip_s=3.0)
    assert starts_s(cut(source, shots)) == [0, 2, 4, 6]


def test_a_limit_that_all_pairs_reach_joins_as_many_as_fit(source: SourceVideo) -> None:
    def same(_one: NDArray[np.uint8], _other: NDArray[np.uint8]) -> float:
        return 1.0

    shots = ShotConfig(stitch_similarity=1.0, max_clip_s=6.0)
    done = cut_source(source, shots, DecodeConfig(), similarity=same)
    assert starts_s(done) == [0, 6]


def test_parts_are_stitched_like_the_whole(source: SourceVideo, tmp_path: Path) -> None:
    decode = DecodeConfig(part_s=2.0)
    folder = PartFolder(DatasetPaths(tmp_path), source, 2.0, "a goal")
    for number in range(folder.count):
        decode_part(source, Part(number, folder.count, 2.0), STITCHED, decode, folder)
    joined = join_parts(source, STITCHED, decode, folder, similarity=SCORERS.similarity)
    assert joined == cut(source, STITCHED)


def test_only_hard_cuts_are_stitched() -> None:
    times_s = [i / 10 for i in range(100)]
    fade, hard = Transition("fade", 20, 25), Transition("cut", 50, 50)
    asked: list[tuple[range, range]] = []

    def agree(before: range, after: range) -> bool:
        asked.append((before, after))
        return True

    assert stitch([fade, hard], times_s, 10.0, 7.5, agree) == [fade]
    assert asked == [(range(25, 50), range(50, 100))]
    assert stitch([fade, hard], times_s, 10.0, 7.4, agree) == [fade, hard]


@pytest.mark.parametrize("wrong", [{"detector": "none", "stride_s": 2.0}, {}])
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    similarity = 0.6 if wrong else 1.2
    with pytest.raises(ValidationError, match="stitch_similarity"):
        ShotConfig(stitch_similarity=similarity, **wrong)
