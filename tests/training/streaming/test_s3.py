"""Training from shards in a bucket, which a local S3 server holds."""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from tests.buckets import s3_bucket
from training.config import DataConfig
from training.errors import DataError
from training.streaming.buckets import Bucket
from training.streaming.index import SampleIndex
from training.streaming.reading import SampleReader
from training.streaming.storage import RangeReader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CONFIG = DataConfig(height_px=32, width_px=48, cache_bytes=0)


@pytest.fixture(scope="module")
def bucket(dataset: Path) -> Generator[str]:
    with s3_bucket("stiv-shards") as files:
        files.put(str(dataset / "shards"), "stiv-shards/set/shards", recursive=True)
        yield "s3://stiv-shards/set"


def test_the_frames_are_those_of_the_shards_on_disk(
    bucket: str, dataset: Path, tmp_path: Path
) -> None:
    local, remote = SampleIndex.open([dataset]), SampleIndex.open([bucket])
    assert remote.fingerprint == local.fingerprint
    one = SampleReader(local, CONFIG, tmp_path)
    other = SampleReader(remote, CONFIG, tmp_path)
    for row in (0, 5):
        frames = [
            reader.frames(index.clip(row), [0, 2], Bucket(2, 32, 48))
            for reader, index in ((one, local), (other, remote))
        ]
        assert np.array_equal(frames[0], frames[1])


def test_tars_without_a_manifest_are_indexed_by_their_headers(bucket: str, dataset: Path) -> None:
    index = SampleIndex.open([f"{bucket}/shards/shard-000000.tar"])
    local = SampleIndex.open([dataset])
    assert [index.clip(r).offset for r in range(4)] == [local.clip(r).offset for r in range(4)]


def test_what_is_not_there_is_one_clear_error(bucket: str) -> None:
    with pytest.raises(DataError, match=r"no shards: s3://stiv-shards/nothing"):
        SampleIndex.open(["s3://stiv-shards/nothing"])
    with pytest.raises(DataError, match=r"cannot read s3://stiv-shards/set/gone.tar"):
        RangeReader().read(f"{bucket}/gone.tar", 0, 10)
