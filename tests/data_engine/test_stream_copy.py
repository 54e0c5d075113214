import io
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.schema import ClipRecord, Crop
from data_engine.sources.listing import local_source
from data_engine.stream_copy import copy_clip
from tests.videos import frames_of, moving_texture, write_video

SHOTS = [(moving_texture(1), 36), (moving_texture(2), 48), (moving_texture(3), 40)]


def write_film(path: Path, key_frames: Sequence[int], options: dict[str, str]) -> Path:
    """The shots, with key frames at these frames only, and others as x264 likes them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1", **options})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 250
        for i, image in enumerate(frames_of(SHOTS)):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            if i in key_frames:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clips_of(path: Path) -> list[ClipRecord]:
    source = probe(local_source(path), ProbeConfig())
    return cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1).clips


def size(record: ClipRecord) -> tuple[int, int]:
    return record.height_px, record.width_px


def decoded(opened: str | io.BytesIO) -> list[tuple[float, NDArray[np.uint8]]]:
    with av.open(opened, "r") as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
            for frame in container.decode(video=0)
        ]


# x264 finds the cuts by itself and begins each shot with a key frame; `bframes` has frames out of order.
BY_THE_SHOT = {"preset": "veryfast", "x264-params": "scenecut=40:bframes=3:open-gop=0"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", (36, 84), BY_THE_SHOT)


@pytest.fixture(scope="module")
def records(film: Path) -> list[ClipRecord]:
    return clips_of(film)


def test_shots_that_begin_with_key_frames_are_copied_bit_for_bit(
    film: Path, records: list[ClipRecord]
) -> None:
    whole = decoded(str(film))
    assert [record.num_frames for record in records] == [36, 48, 40]
    first = 0
    for record in records:
        copied = copy_clip(record, str(film), size(record))
        assert copied is not None
        assert encode_clip(record, str(film), ShardConfig(short_side_px=2160)) == copied
        frames = decoded(io.BytesIO(copied))
        assert [time_s for time_s, _ in frames] == pytest.approx(
            [i / 24 for i in range(len(frames))]
        )
        expected = whole[first : first + record.num_frames]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(frames, expected, strict=True))
        first += record.num_frames


def test_copying_twice_gives_the_same_bytes(film: Path, records: list[ClipRecord]) -> None:
    record = records[1]
    assert copy_clip(record, str(film), size(record)) == copy_clip(record, str(film), size(record))


def test_what_cannot_be_copied_exactly_is_encoded(tmp_path: Path) -> None:
    only_the_first = {"preset": "veryfast", "x264-params": "scenecut=0:keyint=infinite"}
    path = write_film(tmp_path / "film.mp4", (), only_the_first)
    first, second, _ = clips_of(path)
    assert copy_clip(second, str(path), size(second)) is None
    data = encode_clip(second, str(path), ShardConfig(short_side_px=2160))
    assert len(decoded(io.BytesIO(data))) == second.num_frames
    # The first begins with a key frame, but is to be scaled, or has bars.
    assert copy_clip(first, str(path), (first.height_px // 2, first.width_px // 2)) is None
    crop = Crop(left_px=0, top_px=8, width_px=first.width_px, height_px=first.height_px - 16)
    assert copy_clip(replace(first, crop=crop), str(path), size(first)) is None


def test_a_span_that_ends_among_frames_out_of_order_is_not_cut_short(
    film: Path, records: list[ClipRecord]
) -> None:
    """Whatever the last frame needs: a copy decodes to the very frames of the span, or there is none."""
    whole = decoded(str(film))
    record = records[0]
    num_copied = 0
    for num_frames in range(20, 36):
        shorter = replace(record, end_s=num_frames / 24, num_frames=num_frames)
        copied = copy_clip(shorter, str(film), size(record))
        if copied is not None:
            num_copied += 1
            frames = decoded(io.BytesIO(copied))
            assert len(frames) == num_frames
            pairs = zip(frames, whole, strict=False)
            assert all(np.array_equal(a, b) for (_, a), (_, b) in pairs)
    assert 0 < num_copied < 16


def test_a_turned_source_is_encoded_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", frames_of(SHOTS[:1]), fps=24, rotation_deg=180)
    record = clips_of(path)[0]
    assert copy_clip(record, str(path), size(record)) is None
