import hashlib
import io
import tarfile
from pathlib import Path

import av
import pytest
import webdataset.tariterators as wds

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import DecodeError
from data_engine.probe import probe
from data_engine.schema import ClipRecord
from data_engine.shard_writer import (
    EncodedClip,
    ShardReceipt,
    plan_shards,
    read_receipt,
    remove_other_shards,
    write_receipt,
    write_shard,
)
from data_engine.sources import SourceFile
from tests.factories import caption, clip_record
from tests.videos import frames_of, moving_texture, write_video


def cut_film(folder: Path) -> list[ClipRecord]:
    shots = [(moving_texture(1), 36), (moving_texture(2), 48)]
    path = write_video(folder / "film.mp4", frames_of(shots), fps=24)
    source = probe(SourceFile(path=path), ProbeConfig())
    return cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1).clips


def encoded(text: str = "A cat.", start_s: float = 0.0) -> EncodedClip:
    return EncodedClip(clip_record(captions=(caption(text),), start_s=start_s), mp4=b"video" * 300)


def test_an_encoded_clip_holds_the_frames_of_its_span_at_training_size(tmp_path: Path) -> None:
    record = cut_film(tmp_path)[1]
    data = encode_clip(record, tmp_path / "film.mp4", ShardConfig(short_side_px=90))
    with av.open(io.BytesIO(data), "r") as container:
        times_s = [frame.time for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (90, 160)
    assert len(times_s) == record.num_frames == 48
    assert times_s == pytest.approx([i / 24 for i in range(48)], abs=1e-4)


def test_encoding_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    record = cut_film(tmp_path)[0]
    config = ShardConfig(short_side_px=90)
    assert encode_clip(record, tmp_path / "film.mp4", config) == encode_clip(
        record, tmp_path / "film.mp4", config
    )


def test_a_span_that_lost_its_frames_is_an_error(tmp_path: Path) -> None:
    record = cut_film(tmp_path)[1]
    write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1), 60)]), fps=24)
    with pytest.raises(DecodeError, match=r"has 24 frames now, 48 when it was cut"):
        encode_clip(record, tmp_path / "film.mp4", ShardConfig())


def test_the_same_clips_give_the_same_shard_and_its_hash(tmp_path: Path) -> None:
    clips = [encoded("A cat."), encoded("Ein Häschen.", start_s=5.0)]
    first = write_shard(tmp_path / "a" / "shard-000000.tar", clips)
    second = write_shard(tmp_path / "b" / "shard-000000.tar", clips)
    assert first == second
    data = (tmp_path / "a" / "shard-000000.tar").read_bytes()
    assert hashlib.sha256(data).hexdigest() == first.sha256
    assert len(data) == first.size_bytes


def test_every_member_can_be_read_through_the_index_alone(tmp_path: Path) -> None:
    clips = [encoded("A cat."), encoded("Ein Häschen.", start_s=5.0)]
    path = tmp_path / "shard-000000.tar"
    entry = write_shard(path, clips)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        for sample in entry.samples:
            for extension, place in sample.members.items():
                member = tar.extractfile(f"{sample.clip_id}.{extension}")
                assert member is not None
                found = data[place.offset : place.offset + place.size_bytes]
                assert found == member.read()


def test_webdataset_reads_the_shard(tmp_path: Path) -> None:
    clips = [encoded("A cat."), encoded("Ein Häschen.", start_s=5.0)]
    path = tmp_path / "shard-000000.tar"
    write_shard(path, clips)
    with path.open("rb") as file:
        samples = list(
            wds.group_by_keys(wds.tar_file_expander([{"url": str(path), "stream": file}]))
        )
    assert [sample["__key__"] for sample in samples] == [c.record.clip_id for c in clips]
    assert [sample["txt"].decode() for sample in samples] == ["A cat.", "Ein Häschen."]
    assert [ClipRecord.from_json(sample["json"]) for sample in samples] == [c.record for c in clips]
    assert samples[0]["mp4"] == clips[0].mp4


def test_the_plan_depends_on_the_clips_only_and_holds_each_once() -> None:
    clips = [clip_record(start_s=float(i), end_s=float(i) + 4) for i in range(25)]
    config = ShardConfig(max_clips=8, max_duration_s=28.0)
    plan = plan_shards(clips, config)
    assert plan == plan_shards(reversed(clips), config)
    assert sorted(c.clip_id for shard in plan for c in shard) == sorted(c.clip_id for c in clips)
    assert all(len(shard) <= 7 for shard in plan)


def test_a_tar_without_receipt_is_not_taken_for_done(tmp_path: Path) -> None:
    tar = tmp_path / "shard-000000.tar"
    entry = write_shard(tar, [encoded()])
    assert read_receipt(tar) is None
    receipt = ShardReceipt("abc", entry, {"other": "gone"})
    write_receipt(tar, receipt)
    assert read_receipt(tar) == receipt


def test_shards_of_an_earlier_plan_are_removed(tmp_path: Path) -> None:
    for i in range(3):
        tar = tmp_path / f"shard-{i:06d}.tar"
        write_receipt(tar, ShardReceipt("abc", write_shard(tar, [encoded()]), {}))
    remove_other_shards(tmp_path, ["shard-000000.tar"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "shard-000000.index.json",
        "shard-000000.tar",
    ]
