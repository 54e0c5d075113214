"""Ray jobs on a real cluster of one node: watched, found again, cancelled, refused, lost and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from data_engine.schema import ClipStatus
from data_engine.tables import DatasetPaths, read_clips
from orchestration.assets import curation
from orchestration.ray_jobs import PLACE, connect
from orchestration.resources import RayResource
from tests.orchestration.builders import BATCH, FEW_STEPS, new_instance, wait_for, write_film
from tests.orchestration.clusters import free_port, ray_cluster
from tests.orchestration.job_run import score
from tests.orchestration.test_training_assets import RECIPE, launch
from tests.training.builders import write_dataset
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

if TYPE_CHECKING:
    # Ray reads how to authenticate when it is imported, and `connect` says how.
    from ray.job_submission import JobDetails

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def cluster() -> Generator[str]:
    with ray_cluster() as address:
        yield address


@pytest.fixture(scope="module")
def home(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch whose sources are probed."""
    home = tmp_path_factory.mktemp("home")
    write_film(home)
    assert run_here(cluster, home, curation.source_videos).success
    return home


def start_run(cluster: str, home: Path, frames_per_s: float) -> subprocess.Popen[bytes]:
    """A run in a process of its own, once the job that scores is under way."""
    command = [sys.executable, "-m", "tests.orchestration.job_run", cluster, str(home)]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run = subprocess.Popen(
            [*command, str(frames_per_s)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: "RUNNING" in scoring_jobs(cluster, home), 120)
    return run


def scoring_jobs(cluster: str, home: Path) -> list[str]:
    """The states of the jobs that scored clips below `home`."""
    mine = {folder.name for folder in (home / "jobs").glob("stiv-score_clips-*")}
    jobs = connect(cluster).list_jobs()
    return sorted(str(job.status.value) for job in jobs if job.submission_id in mine)


def run_here(
    cluster: str, home: Path, asset: dg.AssetsDefinition, frames_per_s: float = 2.0
) -> dg.ExecuteInProcessResult:
    with new_instance(home / "dagster") as instance:
        return score(home, instance, cluster, [asset], frames_per_s)


def jobs_on(cluster: str, place: Path) -> "list[JobDetails]":
    """The jobs that wrote a folder, the first first."""
    jobs = [j for j in connect(cluster).list_jobs() if (j.metadata or {}).get(PLACE) == str(place)]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def printed(home: Path) -> str:
    """What the page of a run shows as its stdout."""
    return "".join(path.read_text() for path in (home / "dagster").rglob("*.out"))


def said(result: dg.ExecuteInProcessResult, asset: str) -> str:
    events = result.filter_events(lambda event: event.step_key == asset)
    return "\n".join(str(event.message) + str(event.event_specific_data) for event in events)


def test_a_run_whose_process_died_is_found_again_and_not_started_twice(
    cluster: str, home: Path
) -> None:
    run = start_run(cluster, home, 2.0)
    run.kill()
    run.wait()
    assert run_here(cluster, home, curation.scored_clips).success
    assert scoring_jobs(cluster, home) == ["SUCCEEDED"]
    dataset = DatasetPaths(home / "datasets" / BATCH)
    assert [clip.status for clip in read_clips(dataset.scored_clips)] == [ClipStatus.KEPT] * 3


def test_a_terminated_run_ends_its_job(cluster: str, home: Path) -> None:
    # Other settings, so that there is something to do again.
    run = start_run(cluster, home, 1.0)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=120) != 0
    assert scoring_jobs(cluster, home) == ["STOPPED", "SUCCEEDED"]


def test_a_mistake_costs_one_line_and_another_job_on_the_folder_is_waited_for(
    cluster: str, tmp_path: Path
) -> None:
    (tmp_path / "sources" / BATCH).mkdir(parents=True)
    place = {PLACE: str(tmp_path / "datasets" / BATCH)}
    other = connect(cluster).submit_job(entrypoint="sleep 5", metadata=place)
    result = run_here(cluster, tmp_path, curation.source_videos)
    assert str(connect(cluster).get_job_status(other).value) == "SUCCEEDED"
    assert not result.success
    assert f"sources/{BATCH}" in said(result, "source_videos")
    assert "Traceback" not in said(result, "source_videos").split("sources/")[0]
    assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in result.all_events}
    # The log of the job came along.
    assert f"sources/{BATCH}" in printed(tmp_path).partition("error: ")[2]


def test_an_address_where_nothing_answers_is_tried_again_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(tmp_path)
    monkeypatch.delenv("STIV_RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    result = run_here("", tmp_path, curation.source_videos)
    assert "no cluster answers there" in said(result, "source_videos")
    assert [e.event_type_value for e in result.all_events].count("STEP_UP_FOR_RETRY") == 2


def test_asked_at_once_the_same_is_one_job_and_others_on_the_folder_wait(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.job_submission import JobSubmissionClient

    write_film(tmp_path)
    submit_job = JobSubmissionClient.submit_job

    def submit_slowly(*arguments: Any, **settings: Any) -> str:
        # Time for the others to look, too.
        time.sleep(1)
        return submit_job(*arguments, **settings)

    monkeypatch.setattr(JobSubmissionClient, "submit_job", submit_slowly)

    def run(frames_per_s: float) -> bool:
        with dg.DagsterInstance.ephemeral() as instance:
            return score(
                tmp_path, instance, cluster, [curation.source_videos], frames_per_s
            ).success

    with ThreadPoolExecutor() as threads:
        assert all(threads.map(run, (2.0, 2.0, 1.0)))
    first, second = jobs_on(cluster, tmp_path / "datasets" / BATCH)
    assert (first.end_time or 0) <= (second.start_time or 0)


@dataclass
class Killer:
    """Waits until a stage has come so far, kills a process, and keeps what had been saved by then."""

    run: RunDirectory
    stage: str
    saved: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    at_s: list[float] = field(default_factory=list[float])
    _killed: set[int] = field(default_factory=set[int])

    def kill(self, lock: Path, step: int) -> None:
        """The holder of a lock, once it has taken this step."""
        stage = self.run.stage(self.stage)

        def is_due() -> bool:
            return (
                lock.exists()
                and (text := lock.read_text()).endswith("}\n")
                and json.loads(text)["pid"] not in self._killed
                and any(m["step"] >= step for m in read_metrics(stage.metrics))
            )

        while not is_due():
            time.sleep(0.02)
        process = json.loads(lock.read_text())["pid"]
        os.kill(process, signal.SIGKILL)
        self._killed.add(process)
        self.at_s.append(time.time())
        latest = json.loads((stage.checkpoints / "latest.json").read_text())["directory"]
        kept = int(latest.removeprefix("step-"))
        lines = read_metrics(stage.metrics)
        self.saved |= {m["step"]: m for m in lines if m["step"] <= kept}

    def work(self) -> None:
        self.kill(self.run.trainer_lock, 10)
        self.kill(self.run.driver_lock, 40)


@pytest.mark.timeout(900)
def test_a_stage_whose_processes_are_killed_is_tried_again_and_goes_on_from_its_checkpoint(
    cluster: str, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "datasets" / "squares", [30, 20, 24, 30])
    t2i = {**FEW_STEPS["stages"]["t2i"], "num_steps": 80, "checkpoint_every_steps": 5}
    run = RunDirectory(tmp_path / "runs" / "killed")
    killer = Killer(run, "t2i")
    thread = Thread(target=killer.work, daemon=True)
    thread.start()
    with new_instance(tmp_path / "dagster") as instance:
        result = launch(
            tmp_path,
            instance,
            dg.AssetSelection.assets([RECIPE, "latent_shards"], [RECIPE, "t2i"]).without_checks(),
            ray=RayResource(address=cluster),
            # Ray Train would start the worker again.
            overrides={**FEW_STEPS, "max_worker_failures": 0, "stages": {"t2i": t2i}},
            run="killed",
        )
        observed = instance.fetch_observations(dg.AssetKey([RECIPE, "t2i"]), limit=1000).records
    thread.join()
    events = [event.event_type_value for event in result.all_events]
    assert events.count("STEP_UP_FOR_RETRY") == 2
    states = [str(job.status.value) for job in jobs_on(cluster, run.path)]
    assert states == ["FAILED", "FAILED", "SUCCEEDED"]

    lines = {line["step"]: line for line in read_metrics(run.stage("t2i").metrics)}
    assert list(lines) == list(range(1, 81))
    # With the times that they took: nothing that had been saved was done a second time.
    # At step 40 that of step 35 may still be under way: a save begins when the one before it is done.
    assert max(killer.saved) >= 30
    assert {step: lines[step] for step in killer.saved} == killer.saved
    assert min(record.timestamp for record in observed) < killer.at_s[0]
    # From a process of Ray behind the driver.
    assert "TrainController" in printed(tmp_path)


def test_a_job_that_its_cluster_forgot_is_started_again_on_the_next(tmp_path: Path) -> None:
    port = free_port()
    write_film(tmp_path)
    with ray_cluster(port) as address:
        assert run_here(address, tmp_path, curation.source_videos).success
        run = start_run(address, tmp_path, 2.0)
    with ray_cluster(port) as address:
        assert run.wait(timeout=240) == 0
        assert [str(job.status.value) for job in connect(address).list_jobs()] == ["SUCCEEDED"]
    folders = sorted(path.name[-2:] for path in (tmp_path / "jobs").glob("stiv-score_clips-*"))
    assert folders == ["-0", "-1"]
