import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import pytest
import webdataset.tariterators as wds

from data_engine.buckets import bucket_of
from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import DecodeError
from data_engine.probe import probe
from data_engine.schema import ClipRecord, Crop
from data_engine.shard_writer import (
    EncodedClip,
    ShardReceipt,
    plan_shards,
    read_receipt,
    remove_other_shards,
    write_receipt,
    write_shard,
)
from data_engine.sources.listing import local_source
from tests.factories import caption, clip_record
from tests.videos import frames_of, moving_texture, write_video


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shots = [(moving_texture(1), 36), (moving_texture(2), 48)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames_of(shots), fps=24)


@pytest.fixture(scope="module")
def cut_film(film: Path) -> list[ClipRecord]:
    source = probe(local_source(film), ProbeConfig())
    return cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1).clips


def encoded(folder: Path, text: str = "A cat.", **changes: float) -> EncodedClip:
    record = clip_record(captions=(caption(text),), **changes)
    path = folder / "encoded" / f"{record.clip_id}.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"video" * 300)
    return EncodedClip(record, path, size_bytes=1500)


def test_an_encoded_clip_holds_the_frames_of_its_span_at_training_size(
    film: Path, cut_film: list[ClipRecord]
) -> None:
    record = cut_film[1]
    data = encode_clip(record, str(film), ShardConfig(short_side_px=90))
    with av.open(io.BytesIO(data), "r") as container:
        times_s = [frame.time for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (90, 160)
    assert len(times_s) == record.num_frames == 48
    assert times_s == pytest.approx([i / 24 for i in range(48)], abs=1e-4)


def test_encoding_twice_gives_the_same_bytes(film: Path, cut_film: list[ClipRecord]) -> None:
    config = ShardConfig(short_side_px=90)
    first, second = (encode_clip(cut_film[0], str(film), config) for _ in range(2))
    assert first == second


def test_a_span_that_lost_its_frames_is_an_error(
    tmp_path: Path, cut_film: list[ClipRecord]
) -> None:
    path = write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1), 60)]), fps=24)
    with pytest.raises(DecodeError, match=r"has 24 frames now, 48 when it was cut"):
        encode_clip(cut_film[1], str(path), ShardConfig())


def test_the_same_clips_give_the_same_shard_and_its_hash(tmp_path: Path) -> None:
    clips = [encoded(tmp_path), encoded(tmp_path, "Ein Häschen.", start_s=5.0)]
    first = write_shard(tmp_path / "a" / "shard-000000.tar", "wide", clips)
    second = write_shard(tmp_path / "b" / "shard-000000.tar", "wide", clips)
    assert first == second
    data = (tmp_path / "a" / "shard-000000.tar").read_bytes()
    assert hashlib.sha256(data).hexdigest() == first.sha256
    assert len(data) == first.size_bytes


def test_every_member_can_be_read_through_the_index_alone(tmp_path: Path) -> None:
    clips = [encoded(tmp_path), encoded(tmp_path, "Ein Häschen.", start_s=5.0)]
    path = tmp_path / "shard-000000.tar"
    entry = write_shard(path, "wide", clips)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        for sample in entry.samples:
            for extension, place in sample.members.items():
                member = tar.extractfile(f"{sample.clip_id}.{extension}")
                assert member is not None
                found = data[place.offset : place.offset + place.size_bytes]
                assert found == member.read()


def test_webdataset_reads_the_shard(tmp_path: Path) -> None:
    clips = [encoded(tmp_path), encoded(tmp_path, "Ein Häschen.", start_s=5.0)]
    path = tmp_path / "shard-000000.tar"
    write_shard(path, "wide", clips)
    with path.open("rb") as file:
        samples = list(
            wds.group_by_keys(wds.tar_file_expander([{"url": str(path), "stream": file}]))
        )
    assert [sample["__key__"] for sample in samples] == [c.record.clip_id for c in clips]
    assert [sample["txt"].decode() for sample in samples] == ["A cat.", "Ein Häschen."]
    assert [ClipRecord.from_json(sample["json"]) for sample in samples] == [c.record for c in clips]
    assert samples[0]["mp4"] == clips[0].path.read_bytes()


def test_the_plan_depends_on_the_clips_only_and_holds_each_once(tmp_path: Path) -> None:
    clips = [encoded(tmp_path, start_s=float(i), end_s=float(i) + 4) for i in range(25)]
    config = ShardConfig(max_clips=8, max_bytes=2**16)
    plan = plan_shards(clips, config)
    assert plan == plan_shards(reversed(clips), config)
    placed = [clip.record.clip_id for shard in plan for clip in shard.clips]
    assert sorted(placed) == sorted(clip.record.clip_id for clip in clips)
    assert [len(shard.clips) for shard in plan] == [8, 8, 8, 1]


def test_a_shard_is_full_by_its_bytes(tmp_path: Path) -> None:
    clips = [
        replace(encoded(tmp_path, start_s=float(i), end_s=float(i) + 4), size_bytes=30_000)
        for i in range(5)
    ]
    plan = plan_shards(clips, ShardConfig(max_bytes=2**16))
    assert [len(shard.clips) for shard in plan] == [2, 2, 1]


def test_clips_of_unlike_shape_or_length_have_shards_of_their_own(tmp_path: Path) -> None:
    wide = encoded(tmp_path, height_px=360, width_px=640, end_s=4.0)
    tall = encoded(tmp_path, height_px=640, width_px=360, end_s=4.0, start_s=1.0)
    short = encoded(tmp_path, height_px=360, width_px=640, end_s=1.0)
    long = encoded(tmp_path, height_px=360, width_px=640, end_s=90.0)
    small = encoded(tmp_path, height_px=90, width_px=160, end_s=4.5)
    plan = plan_shards([wide, tall, short, long, small], ShardConfig(short_side_px=256))
    assert {shard.bucket: shard.clips for shard in plan} == {
        "16x9-2to5s-256p": (wide,),
        "9x16-2to5s-256p": (tall,),
        "16x9-0to2s-256p": (short,),
        "16x9-over10s-256p": (long,),
        "16x9-2to5s-90p": (small,),
    }
    assert all(shard.name == f"shard-{shard.bucket}-000000.tar" for shard in plan)


def test_the_crop_decides_the_bucket_of_a_letterboxed_clip() -> None:
    crop = Crop(left_px=0, top_px=60, width_px=640, height_px=240)
    record = clip_record(height_px=360, width_px=640, crop=crop)
    assert bucket_of(record, ShardConfig(short_side_px=120)).startswith("16x9")
    square = Crop(left_px=140, top_px=0, width_px=360, height_px=360)
    record = clip_record(height_px=360, width_px=640, crop=square)
    assert bucket_of(record, ShardConfig(short_side_px=120)) == "1x1-2to5s-120p"


def test_a_tar_without_receipt_is_not_taken_for_done(tmp_path: Path) -> None:
    tar = tmp_path / "shard-000000.tar"
    entry = write_shard(tar, "wide", [encoded(tmp_path)])
    assert read_receipt(tar) is None
    receipt = ShardReceipt("abc", entry)
    write_receipt(tar, receipt)
    assert read_receipt(tar) == receipt
    tar.write_bytes(b"half")
    assert read_receipt(tar) is None


def test_shards_of_an_earlier_plan_are_removed(tmp_path: Path) -> None:
    for i in range(3):
        tar = tmp_path / f"shard-{i:06d}.tar"
        write_receipt(tar, ShardReceipt("abc", write_shard(tar, "wide", [encoded(tmp_path)])))
    remove_other_shards(tmp_path, ["shard-000000.tar"])
    assert sorted(p.name for p in tmp_path.glob("shard-*")) == [
        "shard-000000.index.json",
        "shard-000000.tar",
    ]
