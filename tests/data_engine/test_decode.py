from pathlib import Path

import numpy as np
import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.container import decode_jpeg
from data_engine.decode import CutSource, cut_source, decode_span
from data_engine.errors import DecodeError
from data_engine.probe import probe
from data_engine.scores.motion import camera_motion
from data_engine.sources.listing import local_source
from tests.videos import WIDTH_PX, frames_of, moving_texture, write_video


def cut(path: Path, decode: DecodeConfig | None = None) -> CutSource:
    source = probe(local_source(path), ProbeConfig())
    return cut_source(source, ShotConfig(), decode or DecodeConfig(), num_threads=1)


def motion_of(path: Path) -> float:
    (clip,) = cut(path).clips
    value = clip.score("motion")
    assert value is not None
    return value


def test_motion_is_in_frame_diagonals_a_second(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", frames_of([(moving_texture(1, speed_px=3.0), 48)]), fps=24
    )
    diagonal_px = np.hypot(180, WIDTH_PX)
    assert motion_of(path) == pytest.approx(3.0 * 24 / diagonal_px, rel=0.15)


def test_motion_does_not_depend_on_size_or_frame_rate(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1, 2.0), 48)]), fps=24)
    large = moving_texture(1, 4.0 / 2, size=(360, 640))
    twice_as_fast = write_video(tmp_path / "b.mp4", frames_of([(large, 96)]), fps=48)
    assert motion_of(twice_as_fast) == pytest.approx(motion_of(small), rel=0.15)


def test_a_still_picture_has_no_motion(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1, speed_px=0), 48)]))
    assert motion_of(path) < 0.002


def test_the_camera_is_named_after_its_own_direction(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1, speed_px=4.0), 48)]))
    (clip,) = cut(path).clips
    right, down, outwards = (
        clip.scores[f"camera_{direction}"].value for direction in ("right", "down", "outwards")
    )
    assert camera_motion(right, down, outwards) == "panning right"
    assert camera_motion(0.0, 0.0, 0.0) == "static"
    assert camera_motion(0.01, -0.2, 0.0) == "tilting down"
    assert camera_motion(0.01, 0.0, 0.3) == "zooming"


def test_every_clip_has_frames_from_inside_it(tmp_path: Path) -> None:
    shots = [(moving_texture(seed), 48) for seed in (1, 2)]
    done = cut(
        write_video(tmp_path / "a.mp4", frames_of(shots)), DecodeConfig(frame_long_side_px=160)
    )
    for clip in done.clips:
        frames = [frame for frame in done.frames if frame.clip_id == clip.clip_id]
        assert len(frames) == 3
        assert all(clip.start_s <= frame.time_s < clip.end_s for frame in frames)
        assert all(decode_jpeg(frame.jpeg).shape == (90, 160, 3) for frame in frames)


def test_a_rotated_video_is_seen_upright(tmp_path: Path) -> None:
    plain = frames_of([(moving_texture(1), 30)])
    path = write_video(tmp_path / "a.mp4", plain, rotation_deg=90)
    done = cut(path)
    (clip,) = done.clips
    assert (clip.height_px, clip.width_px) == (320, 180)
    seen = decode_jpeg(done.frames[0].jpeg).astype(int)
    stored = moving_texture(1)(0)
    turned = min((np.abs(np.rot90(stored, k).astype(int) - seen).mean(), k) for k in (1, 3))
    # Display matrix (0 1 -1 0) turns the picture clockwise, as players show it.
    assert turned[1] == 3
    assert turned[0] < 12


def test_a_span_decodes_to_exactly_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1), 96)]), fps=24)
    times_s = [time_s for _, time_s in decode_span(str(path), 1.0, 2.5)]
    assert len(times_s) == 36
    assert times_s[0] == pytest.approx(1.0)
    assert times_s[-1] == pytest.approx(2.5 - 1 / 24)


def test_a_source_that_stops_decoding_is_an_error_not_a_short_clip(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of([(moving_texture(1), 96)]))
    source = probe(local_source(path), ProbeConfig())
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4000
    data[start : start + 60_000] = bytes(60_000)
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1)
