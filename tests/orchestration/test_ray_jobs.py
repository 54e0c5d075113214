"""Curation as Ray jobs on a real cluster of one node: watched, found again, cancelled, refused."""

import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest

from data_engine.schema import ClipStatus
from data_engine.tables import DatasetPaths, read_clips
from orchestration.assets import curation
from orchestration.ray_jobs import PLACE, connect
from tests.orchestration.builders import BATCH, new_instance, wait_for, write_film
from tests.orchestration.clusters import free_port, ray_cluster
from tests.orchestration.job_run import score

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


def test_an_address_where_nothing_answers_is_named(tmp_path: Path) -> None:
    write_film(tmp_path)
    result = run_here(f"http://127.0.0.1:{free_port()}", tmp_path, curation.source_videos)
    assert "no cluster answers there" in said(result, "source_videos")
