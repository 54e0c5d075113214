"""New folders of videos become partitions and runs."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration import automation
from orchestration.assets.curation import WHEN_OUT_OF_DATE, scored_clips, source_videos
from orchestration.definitions import defs
from orchestration.partitions import source_batches
from orchestration.resources import Workspace
from tests.buckets import s3_bucket


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


def put_video(home: Path, batch: str, name: str = "film.mp4", content: bytes = b"") -> None:
    path = home / "sources" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Sensor:
    """The sensor over its ticks: what Dagster does with a result is done here too."""

    def __init__(self, workspace: Workspace, instance: dg.DagsterInstance) -> None:
        self._workspace, self._instance = workspace, instance
        self._cursor: str | None = None

    def look(self) -> list[str]:
        """The batches whose runs are asked for."""
        context = dg.build_sensor_context(
            self._instance, cursor=self._cursor, resources={"workspace": self._workspace}
        )
        found = automation.new_source_batches(context)
        if isinstance(found, dg.SkipReason):
            self._cursor = context.cursor
            return []
        assert isinstance(found, dg.SensorResult)
        self._cursor = found.cursor
        for request in found.dynamic_partitions_requests or ():
            self._instance.add_dynamic_partitions(
                str(source_batches.name), list(request.partition_keys)
            )
        return [str(run.partition_key) for run in found.run_requests or ()]


@pytest.fixture
def sensor(tmp_path: Path, instance: dg.DagsterInstance) -> Sensor:
    return Sensor(Workspace(root=str(tmp_path)), instance)


def test_new_batches_get_partitions_and_runs_once(
    tmp_path: Path, instance: dg.DagsterInstance, sensor: Sensor
) -> None:
    put_video(tmp_path, "holiday")
    put_video(tmp_path, "city", "sub/walk.MOV")
    (tmp_path / "sources" / "listed.csv").write_text("uri\nholiday/film.mp4\n")
    # Perhaps they are still being copied.
    assert sensor.look() == []
    assert sensor.look() == ["city", "holiday", "listed.csv"]
    assert set(instance.get_dynamic_partitions(str(source_batches.name))) == {
        "city",
        "holiday",
        "listed.csv",
    }
    assert sensor.look() == []


def test_a_batch_that_changes_waits_and_more_videos_of_a_known_one_are_noticed(
    tmp_path: Path, sensor: Sensor
) -> None:
    put_video(tmp_path, "holiday", content=b"half")
    assert sensor.look() == []
    put_video(tmp_path, "holiday", content=b"half and more")
    assert sensor.look() == []
    assert sensor.look() == ["holiday"]
    put_video(tmp_path, "holiday", "second.mp4")
    assert sensor.look() == []
    assert sensor.look() == ["holiday"]


def test_a_partition_that_was_added_by_hand_is_left_alone(
    tmp_path: Path, instance: dg.DagsterInstance, sensor: Sensor
) -> None:
    put_video(tmp_path, "holiday")
    instance.add_dynamic_partitions(str(source_batches.name), ["holiday"])
    assert [sensor.look() for _ in range(3)] == [[], [], []]


def test_what_holds_no_videos_is_no_batch(tmp_path: Path, sensor: Sensor) -> None:
    # Before there are sources there is nothing to do.
    assert sensor.look() == []
    put_video(tmp_path, "notes", "readme.txt")
    put_video(tmp_path, "tables", "list.csv")
    put_video(tmp_path, ".", "lone.mp4")
    assert [sensor.look() for _ in range(2)] == [[], []]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_batches_may_lie_in_a_bucket(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_bucket("stiv-sources") as files:
        sensor = Sensor(Workspace(sources="s3://stiv-sources/in"), instance)
        assert sensor.look() == []
        files.pipe("stiv-sources/in/holiday/film.mp4", b"x")
        files.pipe("stiv-sources/in/list.jsonl", b"{}")
        assert [sensor.look() for _ in range(2)] == [[], ["holiday", "list.jsonl"]]
        files.pipe("stiv-sources/in/holiday/second.mp4", b"x")
        assert [sensor.look() for _ in range(2)] == [[], ["holiday"]]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(dg.Failure, match="unreachable"):
        sensor.look()


def requested_by(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    cursor: Any,
) -> tuple[set[tuple[str, str]], Any]:
    """The assets and batches that one tick of the automation asks for."""
    found = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
    asked = {
        (result.key.to_user_string(), partition)
        for result in found.results
        for partition in result.true_subset.expensively_compute_partition_keys()
    }
    return asked, found.cursor


def materialized(instance: dg.DagsterInstance, asset: str, batch: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=batch))


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_switched_on_a_new_batch_flows_from_step_to_step_and_no_step_runs_twice() -> None:
    definitions = dg.Definitions(
        assets=[source_videos, scored_clips], resources=defs.resources or {}
    )
    with dg.DagsterInstance.ephemeral() as instance:
        asked, cursor = requested_by(definitions, instance, None)
        assert asked == set()
        instance.add_dynamic_partitions(str(source_batches.name), ["zoo"])
        asked, cursor = requested_by(definitions, instance, cursor)
        assert ("source_videos", "zoo") in asked
        materialized(instance, "source_videos", "zoo")
        materialized(instance, "scored_clips", "zoo")
        asked, cursor = requested_by(definitions, instance, cursor)
        asked, cursor = requested_by(definitions, instance, cursor)
        assert asked == set()
        materialized(instance, "source_videos", "zoo")
        asked, cursor = requested_by(definitions, instance, cursor)
        assert asked == {("scored_clips", "zoo")}
        asked, cursor = requested_by(definitions, instance, cursor)
        assert asked == set()


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_switched_on_new_code_of_a_step_runs_it_again_where_it_had_run() -> None:
    def with_code(version: str) -> dg.Definitions:
        @dg.asset(
            partitions_def=source_batches,
            code_version=version,
            automation_condition=WHEN_OUT_OF_DATE,
        )
        def step() -> None: ...

        return dg.Definitions(assets=[step])

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(source_batches.name), ["zoo"])
        materialized(instance, "step", "zoo")
        asked, cursor = requested_by(with_code("1"), instance, None)
        assert asked == set()
        asked, cursor = requested_by(with_code("2"), instance, cursor)
        assert asked == {("step", "zoo")}
        asked, cursor = requested_by(with_code("2"), instance, cursor)
        assert asked == set()
