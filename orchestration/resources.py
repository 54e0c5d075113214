"""Where everything lies, and the Ray that works on it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from data_engine.schema import MANIFEST_NAME
from data_engine.sources import VIDEO_SUFFIXES
from data_engine.tables import DatasetPaths
from orchestration.ray_session import LOCAL, ClusterError, ray_session


class Workspace(dg.ConfigurableResource[Any]):
    """The folder below which sources, data sets and runs lie, the same as `stiv demo --home`."""

    root: str = Field(
        default="",
        description="The folder; if empty, the environment variable STIV_HOME, or ./demo without it.",
    )

    @property
    def home(self) -> Path:
        # Looked up when a step runs, since the steps may run elsewhere than the code server.
        return Path(self.root or dg.EnvVar("STIV_HOME").get_value("demo") or "demo").resolve()

    def source(self, batch: str) -> Path:
        return self.home / "sources" / batch

    def dataset(self, batch: str) -> DatasetPaths:
        return DatasetPaths(self.home / "datasets" / batch)

    def latents(self, name: str) -> Path:
        return self.home / "latents" / name

    def run(self, name: str) -> Path:
        return self.home / "runs" / name

    def batches(self) -> list[str]:
        """Folders below `sources` that hold a video at any depth, by name."""
        return sorted(
            folder.name
            for folder in (self.home / "sources").glob("*/")
            if any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*"))
        )

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
    """Ray for the length of a run: an own one in its process, or a running cluster."""

    address: str = Field(
        default="",
        description=(
            "`local`, or host:port of a running Ray head; if empty, the environment variable "
            "STIV_RAY_ADDRESS, or `local` without it."
        ),
    )
    object_store_mb: int = Field(default=512, description="Shared memory of an own Ray.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["RayResource"]:
        address = self.address or dg.EnvVar("STIV_RAY_ADDRESS").get_value(LOCAL) or LOCAL
        try:
            with ray_session(address, self.object_store_mb):
                yield self
        except ClusterError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
