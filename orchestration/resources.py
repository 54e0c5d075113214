"""Where everything lies, and the Ray that works on it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from data_engine.errors import TableError
from data_engine.schema import MANIFEST_NAME, ClipStatus
from data_engine.sources import VIDEO_SUFFIXES
from data_engine.tables import DatasetPaths, load_clips
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

    def most_moving_clip(self) -> tuple[str, bytes]:
        """Caption and first frame (JPEG) of the kept clip with the most motion in any data set.

        Raises:
            TableError: no clip was kept in any.
        """
        from data_engine.report import first_frame

        kept = [
            (clip.score("motion") or 0.0, clip, paths)
            for paths in self.finished_datasets()
            for clip in load_clips(paths)
            if clip.status is ClipStatus.KEPT
        ]
        if not kept:
            raise TableError(
                "no clip was kept in any data set; curate a batch, or loosen the filters"
            )
        _, clip, paths = max(kept, key=lambda found: found[0])
        return clip.captions[0].text, first_frame(paths, clip)

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
