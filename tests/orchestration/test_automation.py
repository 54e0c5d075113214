"""New folders of videos become partitions and runs."""

import json
import os
import shutil
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration import automation, checks
from orchestration.assets.curation import (
    WHEN_OUT_OF_DATE,
    scored_clips,
    shards,
    source_videos,
)
from orchestration.batch_checks import blocking_checks, failed_batches
from orchestration.configuration import training_key
from orchestration.definitions import defs
from orchestration.overrides import merge_overrides
from orchestration.partitions import source_batches
from orchestration.resources import Workspace
from tests.buckets import s3_bucket
from tests.orchestration.builders import BATCH, FEW_STEPS, materialize, new_instance
from tests.orchestration.conftest import CURATION, Curated
from tests.orchestration.test_training_assets import DEMO, RECIPE, launch, shown_of
from training.config import TrainConfig
from training.recipes import demo_tiny


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


class Batches:
    """Runs of `shards` and of checks under their real names, each with the verdict that a test asks for."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._passes = True

        @dg.asset(name=shards.key.to_user_string(), partitions_def=source_batches)
        def made() -> None: ...

        self._made = made
        self._checks = [self._check(k.name) for k in blocking_checks() if k.asset_key == shards.key]
        self._definitions = dg.Definitions(
            assets=[made, DEMO.latents], asset_checks=self._checks, resources=defs.resources or {}
        )
        self._cursor: Any = None

    def _check(self, name: str) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=self._made, name=name, blocking=True)
        def check() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=self._passes)

        return check

    def make(self, batch: str) -> None:
        dg.materialize([self._made], instance=self._instance, partition_key=batch)

    def make_and_judge(self, batch: str, *, passes: bool) -> None:
        self._passes = passes
        both = [self._made, *self._checks]
        dg.materialize(both, instance=self._instance, partition_key=batch, raise_on_error=False)

    def judge_all(self, *, passes: bool) -> None:
        """Checks that are executed by themselves know no batch."""
        self._passes = passes
        dg.materialize(
            [self._made, *self._checks],
            instance=self._instance,
            selection=dg.AssetSelection.checks(*self._checks),
            raise_on_error=False,
        )

    def asks_for_latents(self) -> bool:
        found = dg.evaluate_automation_conditions(
            self._definitions, self._instance, cursor=self._cursor
        )
        self._cursor = found.cursor
        return found.total_requested > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_latents_wait_for_the_checks_and_for_no_batch_that_failed() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        batches = Batches(instance)
        instance.add_dynamic_partitions(str(source_batches.name), ["zoo", "bad", "never made"])
        assert not batches.asks_for_latents()
        batches.make("zoo")
        assert not batches.asks_for_latents()
        batches.judge_all(passes=True)
        assert batches.asks_for_latents()
        assert not batches.asks_for_latents()
        batches.make("zoo")
        assert not batches.asks_for_latents()
        batches.make_and_judge("bad", passes=False)
        assert batches.asks_for_latents()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_last_verdict_on_a_batch_counts_and_one_over_all_overrules_those_before() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        batches = Batches(instance)
        instance.add_dynamic_partitions(str(source_batches.name), ["zoo", "bad"])
        known = ["zoo", "bad", "never judged"]
        assert failed_batches(instance, known) == {}
        batches.make_and_judge("bad", passes=False)
        batches.make_and_judge("zoo", passes=True)
        (found,) = failed_batches(instance, known).items()
        assert found[0] == "bad"
        assert found[1] in {key.name for key in blocking_checks()}
        assert failed_batches(instance, ["zoo"]) == {}
        batches.judge_all(passes=True)
        assert failed_batches(instance, known) == {}
        batches.judge_all(passes=False)
        with pytest.raises(dg.Failure, match="failed over all batches"):
            failed_batches(instance, known)
        batches.make_and_judge("zoo", passes=True)
        batches.make_and_judge("bad", passes=False)
        assert failed_batches(instance, ["zoo", "bad"]).keys() == {"bad"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_batch_that_failed_a_check_is_left_out_of_the_latents(
    curated: Curated, tmp_path: Path
) -> None:
    home, twice = tmp_path / "home", checks.no_clip_is_in_two_shards
    for batch in (BATCH, "bad"):
        shutil.copytree(curated.home / "datasets" / BATCH, home / "datasets" / batch)
    latents = dg.AssetSelection.assets([RECIPE, "latent_shards"])
    with new_instance(tmp_path / "dagster") as instance:
        instance.add_dynamic_partitions(str(source_batches.name), ["bad"])
        judged = materialize(
            home,
            CURATION,
            instance,
            selection=dg.AssetSelection.assets(shards).without_checks()
            | dg.AssetSelection.checks(twice),
            partition_key="bad",
            raise_on_error=False,
        )
        assert not judged.success
        shown = shown_of(launch(home, instance, latents, overrides=FEW_STEPS), "latent_shards")
        assert shown["batches_left_out"] == {"bad": twice.check_key.name}
        assert (shown["clips_encoded"], shown["clips_failed"]) == (2, 0)

        shutil.rmtree(home / "datasets" / BATCH)
        with pytest.raises(dg.Failure) as raised:
            launch(home, instance, latents, overrides=FEW_STEPS)
        assert f"{{'bad': '{twice.check_key.name}'}}" in (raised.value.description or "")


def write_run(home: Path, name: str, config: TrainConfig, finished: str) -> Path:
    """A run as `stiv train` leaves it, as far as a schedule looks; gives the folder of the finished stage."""
    stage = home / "runs" / name / finished
    stage.mkdir(parents=True)
    text = json.dumps({"train": config.model_dump(mode="json")})
    (stage.parent / "config.json").write_text(text)
    (stage / "result.json").write_text("{}")
    return stage


def test_each_night_what_was_finished_is_judged_once_in_whatever_run(tmp_path: Path) -> None:
    (schedule,) = (s for s in automation.evaluate_nightly if RECIPE in s.name)

    def tick() -> tuple[list[dg.RunRequest], str]:
        context = dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 11, 1, 3, tzinfo=UTC),
            resources={"workspace": Workspace(root=str(tmp_path))},
        )
        found = schedule.evaluate_tick(context)
        return list(found.run_requests or ()), found.skip_message or ""

    asked, reason = tick()
    assert not asked
    assert "none of the 0 runs" in reason

    trained = merge_overrides(demo_tiny(), FEW_STEPS)
    stage = write_run(tmp_path, "longer", trained, "stiv")
    write_run(tmp_path, "other", demo_tiny().model_copy(update={"name": "other"}), "t2i")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    ((request,), _) = tick()
    assert request.asset_selection == [dg.AssetKey([RECIPE, "stiv_evaluation"])]
    config = request.run_config["resources"][training_key(RECIPE)]["config"]
    assert config["run"] == "longer"
    assert merge_overrides(demo_tiny(), config["overrides"]) == trained
    job = defs.resolve_job_def(f"evaluate_{RECIPE}")
    assert dg.validate_run_config(job, request.run_config)

    for task in ("t2v", "ti2v"):
        assert tick()[0]
        (stage / "evaluation" / task).mkdir(parents=True)
        (stage / "evaluation" / task / "result.json").write_text("{}")
    assert "none of the 1 runs" in tick()[1]
    os.utime(stage / "result.json", (2**32, 2**32))
    assert tick()[0]
