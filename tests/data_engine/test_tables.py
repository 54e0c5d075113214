from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_engine.config import DataEngineConfig, ShotConfig
from data_engine.errors import TableError
from data_engine.recipes import RECIPES
from data_engine.schema import Rejection
from data_engine.tables import (
    DatasetPaths,
    fingerprint,
    is_made_from,
    load_clips,
    read_clips,
    read_config,
    write_atomically,
    write_clips,
    write_text,
)
from tests.factories import caption, clip_record, scores


def test_records_survive_a_table(tmp_path: Path) -> None:
    records = [
        clip_record(scores=scores(motion=0.5), captions=(caption(),)),
        clip_record(start_s=5.0, end_s=7.0, rejected_by=Rejection.TOO_DARK),
        clip_record(start_s=8.0, end_s=9.0, error="gone"),
    ]
    write_clips(tmp_path / "clips.parquet", reversed(records), "goal")
    assert read_clips(tmp_path / "clips.parquet") == records


def test_a_table_knows_what_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    assert not is_made_from(path, "goal")
    write_clips(path, [clip_record()], "goal")
    assert is_made_from(path, "goal")
    assert not is_made_from(path, "another goal")


def test_fingerprints_follow_every_field() -> None:
    config = DataEngineConfig()
    changed = DataEngineConfig(shots=ShotConfig(max_clip_s=1.5))
    assert fingerprint(config, 1) == fingerprint(DataEngineConfig(), 1)
    assert len({fingerprint(config, 1), fingerprint(changed, 1), fingerprint(config, 2)}) == 3


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def fail_halfway() -> None:
        with write_atomically(path) as file:
            file.write(b"half of the new")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "old"


def test_a_missing_table_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(
        TableError, match=r"does not exist; run the step that writes it \(`stiv curate`\)"
    ):
        load_clips(DatasetPaths(tmp_path))


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    write_clips(path, [clip_record()], "goal")
    table = pq.read_table(path).replace_schema_metadata({"stiv.schema_version": "99"})
    pq.write_table(table, path)
    with pytest.raises(TableError, match=r"schema version 99, this code reads 3"):
        read_clips(path)


def test_the_last_step_that_touched_a_clip_has_the_last_word(tmp_path: Path) -> None:
    paths = DatasetPaths(tmp_path)
    kept, dark = clip_record(), clip_record(start_s=5.0, rejected_by=Rejection.TOO_DARK)
    write_clips(paths.filtered_clips, [kept, dark], "goal")
    write_clips(paths.captioned_clips, [clip_record(captions=(caption(),))], "goal")
    write_clips(paths.sharded_clips, [clip_record(captions=(caption(),), error="gone")], "goal")
    clips = load_clips(paths)
    assert [clip.status for clip in clips] == ["failed", "rejected"]


def test_a_stale_later_table_does_not_bring_a_rejected_clip_back(tmp_path: Path) -> None:
    paths = DatasetPaths(tmp_path)
    write_clips(paths.captioned_clips, [clip_record(captions=(caption(),))], "old goal")
    write_clips(paths.filtered_clips, [clip_record(rejected_by=Rejection.TOO_DARK)], "goal")
    assert [clip.status for clip in load_clips(paths)] == ["rejected"]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_stored_configuration_is_read_back(tmp_path: Path, recipe: str) -> None:
    paths = DatasetPaths(tmp_path)
    config = RECIPES[recipe]()
    write_text(paths.config, config.model_dump_json())
    assert read_config(paths, DataEngineConfig) == config


def test_recipe_names_are_public() -> None:
    assert sorted(RECIPES) == ["demo", "stiv_256"]
