"""A back-fill over five partitions on a Ray cluster: the daemon is killed amid a job, one partition fails and is tried again."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from orchestration.ray_jobs import connect
from tests.orchestration.builders import wait_for, write_film
from tests.orchestration.clusters import ray_cluster
from tests.orchestration.dagster_ui import Server, dagster_dev

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]

BATCHES = ["a", "b", "c", "d", "empty"]


def back_fill(server: Server, asset: str) -> None:
    parameters = f'assetSelection: [{{path: ["{asset}"]}}], partitionNames: {json.dumps(BATCHES)}'
    answer = server.query(
        f"mutation {{ launchPartitionBackfill(backfillParams: {{{parameters}}}) {{ __typename }} }}"
    )
    assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"


def run_spans(server: Server) -> list[tuple[float, float]]:
    """When each run started and ended."""
    found = server.query("{ runsOrError { ... on Runs { results { startTime endTime } } } }")
    return [(run["startTime"], run["endTime"]) for run in found["runsOrError"]["results"]]


def try_again(server: Server) -> None:
    """The failed run, from its failure."""
    found = server.query("{ runsOrError { ... on Runs { results { id status } } } }")["runsOrError"]
    (failed,) = [run["id"] for run in found["results"] if run["status"] == "FAILURE"]
    parameters = f'parentRunId: "{failed}", strategy: FROM_FAILURE'
    answer = server.query(
        f"mutation {{ launchRunReexecution(reexecutionParams: {{{parameters}}}) {{ __typename }} }}"
    )
    assert answer["launchRunReexecution"]["__typename"] == "LaunchRunSuccess"


def test_a_back_fill_outlives_its_daemon_and_a_failed_partition_is_tried_again(
    tmp_path: Path,
) -> None:
    film = write_film(tmp_path / "made")
    with ray_cluster() as address:

        def states() -> list[str]:
            return sorted(str(job.status.value) for job in connect(address).list_jobs())

        with dagster_dev(tmp_path, STIV_RAY_ADDRESS=address) as server:
            server.add_partitions(BATCHES)
            for batch in BATCHES:
                (tmp_path / "sources" / batch).mkdir()
                if batch != "empty":
                    (tmp_path / "sources" / batch / "film.mp4").write_bytes(film.read_bytes())
            back_fill(server, "source_videos")
            wait_for(lambda: "RUNNING" in states(), 300)
            server.kill_daemon()
        with dagster_dev(tmp_path, STIV_RAY_ADDRESS=address) as server:
            ended = server.wait_for_runs(600, count=5)
            assert sorted(ended) == ["FAILURE", *["SUCCESS"] * 4], server.log_tail()
            # Each partition was one job, and none was started twice.
            assert states() == ["FAILED", *["SUCCEEDED"] * 4]
            # The pool of dagster.yaml lets one run through at a time.
            spans = sorted(run_spans(server))
            assert all(end <= start for (_, end), (start, _) in pairwise(spans))

            (tmp_path / "sources" / "empty" / "film.mp4").write_bytes(film.read_bytes())
            try_again(server)
            ended = server.wait_for_runs(300, count=6)
            assert sorted(ended) == ["FAILURE", *["SUCCESS"] * 5], server.log_tail()
            assert states() == ["FAILED", *["SUCCEEDED"] * 5]
