from itertools import pairwise
from pathlib import Path

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import CutSource, cut_source
from data_engine.probe import probe
from data_engine.shots import split_into_clips
from data_engine.sources.listing import local_source
from tests.videos import faded, frames_of, moving_texture, write_video


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
    clips = split_into_clips([range(100), range(110, 240)], times_s, 10.0, max_clip_s=1.7)
    assert sum(clip.num_frames for clip in clips) == 230
    assert all(a.end_s <= b.start_s for a, b in pairwise(clips))
    assert all(clip.duration_s <= 1.7 + 1 / 24 for clip in clips)
    assert {clip.start_s for clip in clips} >= {times_s[0], times_s[110]}
