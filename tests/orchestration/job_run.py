"""A Dagster run that scores a batch in a Ray job; also as a process of its own, which a test may kill.

python -m tests.orchestration.job_run DASHBOARD HOME FRAMES_PER_S
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.assets import curation
from orchestration.resources import RayResource
from tests.orchestration.builders import BATCH, materialize, new_instance


def score(
    home: Path,
    instance: dg.DagsterInstance,
    dashboard: str,
    assets: Sequence[dg.AssetsDefinition],
    frames_per_s: float,
) -> dg.ExecuteInProcessResult:
    """A run of these assets; other `frames_per_s` are other scores."""
    overrides = {"decode": {"frames_per_s": frames_per_s}}
    return materialize(
        home,
        assets,
        instance,
        ray=RayResource(address=dashboard),
        partition_key=BATCH,
        run_config={"resources": {"engine": {"config": {"overrides": overrides}}}},
        raise_on_error=False,
    )


if __name__ == "__main__":
    dashboard, home, frames_per_s = sys.argv[1:]
    with new_instance(Path(home) / "dagster-of-its-own") as instance:
        result = score(
            Path(home), instance, dashboard, [curation.scored_clips], float(frames_per_s)
        )
    sys.exit(0 if result.success else 1)
