"""New folders of videos become partitions and runs."""

from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest

from orchestration import automation
from orchestration.partitions import source_batches
from orchestration.resources import Workspace


@pytest.fixture(scope="module")
def shared_instance(tmp_path_factory: pytest.TempPathFactory) -> Generator[dg.DagsterInstance]:
    """Making its databases costs more than any test of this file."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


@pytest.fixture
def instance(shared_instance: dg.DagsterInstance) -> Generator[dg.DagsterInstance]:
    """An instance that knows no batch yet."""
    batches = str(source_batches.name)
    assert not shared_instance.get_dynamic_partitions(batches)
    yield shared_instance
    for batch in shared_instance.get_dynamic_partitions(batches):
        shared_instance.delete_dynamic_partition(batches, batch)


def put_video(home: Path, batch: str, name: str = "film.mp4") -> None:
    path = home / "sources" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def look(home: Path, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance, resources={"workspace": Workspace(root=str(home))})
    found = automation.new_source_batches(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def test_a_new_batch_gets_a_partition_and_a_run(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automation, "SETTLED_S", -1.0)
    put_video(tmp_path, "holiday")
    put_video(tmp_path, "city", "sub/walk.MOV")
    found = look(tmp_path, instance)
    assert isinstance(found, dg.SensorResult)
    assert [run.partition_key for run in found.run_requests or ()] == ["city", "holiday"]
    (request,) = list(found.dynamic_partitions_requests or ())
    assert request.partition_keys == ["city", "holiday"]


def test_a_known_batch_is_left_alone(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automation, "SETTLED_S", -1.0)
    put_video(tmp_path, "holiday")
    instance.add_dynamic_partitions(str(source_batches.name), ["holiday"])
    assert isinstance(look(tmp_path, instance), dg.SkipReason)


def test_a_batch_that_is_still_being_copied_waits(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    put_video(tmp_path, "holiday")
    assert isinstance(look(tmp_path, instance), dg.SkipReason)


def test_a_folder_without_videos_is_no_batch(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automation, "SETTLED_S", -1.0)
    put_video(tmp_path, "notes", "readme.txt")
    assert isinstance(look(tmp_path, instance), dg.SkipReason)


def test_before_there_are_sources_there_is_nothing_to_do(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    assert isinstance(look(tmp_path, instance), dg.SkipReason)
