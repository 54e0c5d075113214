from pathlib import Path

import numpy as np
import pytest

from tests.training.builders import HEIGHT_PX, WIDTH_PX, encode_mp4, moving_square
from training.streaming import decode
from training.streaming.decode import ClipDecodeError, decode_frames


def test_pyav_reads_the_same_frames_where_decord_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    video = encode_mp4(moving_square(12, 3))
    by_decord = decode_frames(video, [1, 5, 11], (HEIGHT_PX, WIDTH_PX))

    def refuse(*args: object) -> None:
        raise decode.decord.DECORDError("no such codec")

    monkeypatch.setattr(decode, "_decode_with_decord", refuse)
    by_pyav = decode_frames(video, [1, 5, 11], (HEIGHT_PX, WIDTH_PX))
    assert np.abs(by_decord.astype(int) - by_pyav.astype(int)).mean() < 2


@pytest.mark.parametrize("video", [b"", b"not a video" * 100])
def test_bytes_that_are_no_video_are_refused(video: bytes) -> None:
    with pytest.raises(ClipDecodeError, match="not a readable video"):
        decode_frames(video, [0], (HEIGHT_PX, WIDTH_PX))


def test_a_list_of_other_files_is_no_clip(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode_mp4(moving_square(4, 0)))
    concat = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    with pytest.raises(ClipDecodeError, match="not a readable video"):
        decode_frames(concat, [0], (HEIGHT_PX, WIDTH_PX))


def test_a_frame_beyond_the_end_is_refused() -> None:
    with pytest.raises(ClipDecodeError, match="has 4 frames, frame 4 was asked for"):
        decode_frames(encode_mp4(moving_square(4, 0)), [0, 4], (HEIGHT_PX, WIDTH_PX))


def test_a_broken_stream_is_refused() -> None:
    video = bytearray(encode_mp4(moving_square(12, 0)))
    start = video.index(b"mdat") + 4
    video[start : start + 4000] = bytes(4000)
    with pytest.raises(ClipDecodeError):
        decode_frames(bytes(video), range(12), (HEIGHT_PX, WIDTH_PX))
