"""Where everything lies, and the Ray that works on it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from data_engine.schema import MANIFEST_NAME
from data_engine.tables import DatasetPaths
from orchestration.batches import SourceBatch, find_batches
from orchestration.ray_jobs import JobRequest, run_job
from orchestration.ray_session import LOCAL, ClusterError, ray_session
from orchestration.work import OnWorkProgress, Result, do_work

SOURCES_VARIABLE = "STIV_SOURCES"


class Workspace(dg.ConfigurableResource[Any]):
    """The folder below which sources, data sets and runs lie, the same as `stiv demo --home`."""

    root: str = Field(
        default="",
        description="The folder; if empty, the environment variable STIV_HOME, or ./demo without it.",
    )
    sources: str = Field(
        default="",
        description=(
            "Where the batches lie, a folder or s3://BUCKET/FOLDER or gs://...; if empty, the environment variable "
            "STIV_SOURCES, or `sources` below the root without it."
        ),
    )

    @property
    def home(self) -> Path:
        # Looked up when a step runs, since the steps may run elsewhere than the code server.
        return Path(self.root or dg.EnvVar("STIV_HOME").get_value("demo") or "demo").resolve()

    @property
    def sources_place(self) -> str:
        """A path or URL."""
        default = str(self.home / "sources")
        return (self.sources or dg.EnvVar(SOURCES_VARIABLE).get_value(default) or default).rstrip(
            "/"
        )

    def source(self, batch: str) -> str:
        """What `--source` would be: a folder, or a manifest."""
        return f"{self.sources_place}/{batch}"

    def dataset(self, batch: str) -> DatasetPaths:
        return DatasetPaths(self.home / "datasets" / batch)

    def latents(self, name: str) -> Path:
        return self.home / "latents" / name

    def run(self, name: str) -> Path:
        return self.home / "runs" / name

    def batches(self) -> list[SourceBatch]:
        """What lies there now, by name."""
        return find_batches(self.sources_place)

    def datasets(self) -> list[DatasetPaths]:
        """Every data set, by name."""
        return [DatasetPaths(folder) for folder in sorted((self.home / "datasets").glob("*/"))]

    def finished_datasets(self) -> list[DatasetPaths]:
        """The data sets whose shards are written, by name."""
        return [paths for paths in self.datasets() if (paths.shards / MANIFEST_NAME).exists()]

    def relative(self, path: Path) -> str:
        """A path as metadata shows it: below the home folder, the same on every machine."""
        return path.resolve().relative_to(self.home).as_posix()


class RayResource(dg.ConfigurableResource[Any]):
    """Ray for the length of a run: an own one in its process, a running cluster, or jobs on one."""

    address: str = Field(
        default="",
        description=(
            "`local`; host:port of a running Ray head, to work from this process; http://host:8265, its dashboard, to "
            "submit jobs; if empty, the environment variable STIV_RAY_ADDRESS, then RAY_ADDRESS, or `local` without them."
        ),
    )
    object_store_mb: int = Field(default=512, description="Shared memory of an own Ray.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["RayResource"]:
        if self._takes_jobs:
            yield self
            return
        try:
            with ray_session(self._address, self.object_store_mb):
                yield self
        except ClusterError as error:
            raise dg.Failure(description=str(error)) from error

    def work(
        self,
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        request: JobRequest,
        on_progress: OnWorkProgress,
    ) -> Result:
        """Do a piece of work here, or in a Ray job."""
        if not self._takes_jobs:
            return do_work(request.work, request.arguments, on_progress)
        return run_job(context, self._address, workspace.home / "jobs", request, on_progress)

    @property
    def _address(self) -> str:
        # Looked up when a step runs, since the steps may run elsewhere than the code server.
        named = (dg.EnvVar(name).get_value() for name in ("STIV_RAY_ADDRESS", "RAY_ADDRESS"))
        return self.address or next(filter(None, named), LOCAL)

    @property
    def _takes_jobs(self) -> bool:
        return self._address.startswith(("http://", "https://"))
