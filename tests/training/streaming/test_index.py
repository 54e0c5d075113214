"""From shards on disk to rows of the index."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_engine.schema import Caption
from tests.training.builders import encode_mp4, moving_square, write_dataset
from training.errors import DataError
from training.streaming import index as index_module
from training.streaming.index import SampleIndex


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def picture(height_px: int, width_px: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height_px, width_px, 3), 99, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_our_own_shards_are_indexed_by_their_manifest(dataset: Path) -> None:
    index = SampleIndex.open([dataset])
    clips = [index.clip(row) for row in range(len(index))]
    assert [clip.num_frames for clip in clips] == [30, 20, 24, 9, 5, 3]
    assert {clip.media for clip in clips} == {"video"}
    assert clips[1].caption == "a square of colour number 1 moves to the right"
    assert (clips[0].original_height_px, clips[0].original_width_px, clips[0].fps) == (48, 80, 24.0)
    manifest = json.loads((dataset / "shards" / "manifest.json").read_text())
    place = manifest["shards"][1]["samples"][0]["members"]["mp4"]
    assert (clips[4].offset, clips[4].size_bytes) == (place["offset"], place["size_bytes"])
    assert clips[4].location.endswith("shard-000001.tar")


def test_the_caption_of_the_text_file_serves_where_the_record_has_none(tmp_path: Path) -> None:
    index = SampleIndex.open([write_dataset(tmp_path / "silent", [8], captions=())])
    assert index.clip(0).caption == "a square of colour number 0 moves to the right"
    both = (
        Caption(text="written", source="template", model="test"),
        Caption(text="came along", source="original", model="somebody"),
    )
    clip = SampleIndex.open([write_dataset(tmp_path / "both", [8], captions=both)]).clip(0)
    assert (clip.captions, clip.caption_sources) == (
        ("written", "came along"),
        ("template", "original"),
    )


def test_an_index_is_made_once_and_mapped_afterwards(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SampleIndex.open([dataset], tmp_path)
    monkeypatch.setattr(index_module, "describe_shard", None)
    with monkeypatch.context() as patch:
        # Nor is the manifest parsed again, which for a million samples takes half a minute.
        patch.setattr(index_module, "find_shards", None)
        again = SampleIndex.open([dataset], tmp_path)
    assert [again.clip(r) for r in range(6)] == [first.clip(r) for r in range(6)]
    # Without the whole, its pieces serve: a build that was killed goes on.
    for path in tmp_path.glob("*.arrow"):
        path.unlink()
    rebuilt = SampleIndex.open([dataset], tmp_path)
    assert rebuilt.fingerprint == first.fingerprint
    assert [rebuilt.clip(r) for r in range(6)] == [first.clip(r) for r in range(6)]


def test_a_mapped_index_notices_what_happened_to_its_shards(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [8, 8], clips_per_shard=1)
    first = SampleIndex.open([dataset], tmp_path / "index")
    manifest = dataset / "shards" / "manifest.json"
    last = dataset / "shards" / "shard-000001.tar"
    whole = last.read_bytes()
    last.write_bytes(whole[:-512])
    with pytest.raises(DataError, match=rf"shard-000001.tar has {len(whole) - 512} bytes"):
        SampleIndex.open([dataset], tmp_path / "index")
    last.unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar is missing"):
        SampleIndex.open([dataset], tmp_path / "index")
    # Of the same size, and put in its place as the writer does it.
    facts = json.loads(manifest.read_text())
    facts["shards"] = facts["shards"][:1]
    shorter = json.dumps(facts)
    (dataset / "new.json").write_text(shorter + " " * (manifest.stat().st_size - len(shorter)))
    (dataset / "new.json").replace(manifest)
    again = SampleIndex.open([dataset], tmp_path / "index")
    assert (len(first), len(again)) == (2, 1)
    assert again.fingerprint != first.fingerprint


def test_the_fingerprint_is_that_of_the_bytes_and_their_order(
    dataset: Path, tmp_path: Path
) -> None:
    other = write_dataset(tmp_path / "other", [8])
    moved = tmp_path / "moved"
    moved.symlink_to(dataset)

    def fingerprint(*datasets: Path) -> str:
        return SampleIndex.open(datasets).fingerprint

    assert fingerprint(dataset) == fingerprint(moved)
    assert (
        len({fingerprint(dataset), fingerprint(dataset, other), fingerprint(other, dataset)}) == 3
    )


def test_tars_of_other_tools_are_read(tmp_path: Path) -> None:
    video = encode_mp4(moving_square(7, 0))
    write_tar(
        tmp_path / "00000.tar",
        {
            "000.mp4": video,
            "000.txt": b"a square moves",
            "001.webm.mp4": b"unknown",
            "001.json": b"{}",
        },
    )
    sizes = json.dumps({"caption": "grey", "original_width": 640, "original_height": 360}).encode()
    write_tar(
        tmp_path / "00001.tar",
        {
            "000.jpg": picture(36, 64),
            "000.json": sizes,
            "sub/000.png": picture(20, 30),
            "sub/000.txt": b"plain",
        },
    )
    index = SampleIndex.open([tmp_path])
    clips = [index.clip(row) for row in range(len(index))]
    assert [(c.clip_id, c.media, c.num_frames, c.caption) for c in clips] == [
        ("000", "video", 7, "a square moves"),
        ("000", "image", 1, "grey"),
        ("sub/000", "image", 1, "plain"),
    ]
    assert [(c.original_height_px, c.original_width_px) for c in clips] == [
        (48, 80),
        (360, 640),
        (20, 30),
    ]
    assert clips[0].fps == 24.0
    assert SampleIndex.open([tmp_path / "00001.tar"]).clip(0).media == "image"


def test_a_picture_that_is_none_names_its_shard(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"000.jpg": b"no picture"})
    with pytest.raises(DataError, match=r"sample 000 of .*a.tar.*image is damaged"):
        SampleIndex.open([tar])


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="build the data set first"):
        SampleIndex.open([tmp_path])
    with pytest.raises(DataError, match="chains file systems"):
        SampleIndex.open(["s3://bucket::file:///etc"])


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "data", [10]) / "shards" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(DataError, match="schema_version 99"):
        SampleIndex.open([tmp_path / "data"])


def test_a_cut_off_shard_is_refused(tmp_path: Path) -> None:
    shard = write_dataset(tmp_path / "data", [10]) / "shards" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(DataError, match="its manifest says"):
        SampleIndex.open([tmp_path / "data"])


def test_shards_in_a_bucket_are_those_on_disk(dataset: Path) -> None:
    """Through fsspec's memory file system, which has no other mode than a bucket has; S3 itself is in `test_s3`."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(dataset / "shards"), "/bucket/set/shards", recursive=True)
    local, remote = SampleIndex.open([dataset]), SampleIndex.open(["memory://bucket/set"])
    assert remote.fingerprint == local.fingerprint
    assert remote.clip(5).location == "memory://bucket/set/shards/shard-000001.tar"
    assert remote.clip(5).offset == local.clip(5).offset
    tars = SampleIndex.open(["memory://bucket/set/shards/"])
    assert len(tars) == 6
