"""Where the numbers of a stage go besides its own files: TensorBoard, and Weights & Biases or MLflow if asked for."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.tensorboard.writer import SummaryWriter

from training.errors import TrainError

TrackerName = Literal["wandb", "mlflow"]


class Sink(Protocol):
    """Takes numbers by name. `step` counts from 1 and never falls. All methods are called by one thread."""

    name: str

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What its methods raise when it cannot be reached or written: to try again later is of use then."""
        ...

    def open(self) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """Events in a folder; those beyond the step that a stage goes on from are hidden."""

    name = "TensorBoard"
    errors = (OSError,)

    def __init__(self, folder: Path, first_step: int) -> None:
        self._folder = folder
        self._first_step = first_step

    def open(self) -> None:
        self._events = SummaryWriter(str(self._folder), purge_step=self._first_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class WandbSink:
    """One Weights & Biases run for each stage; offline in the folder unless the environment has a key or a mode.

    Raises:
        TrainError: the package is not installed.
    """

    name = "Weights & Biases"

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any]) -> None:
        self._wandb = _imported("wandb")
        self._folder, self._run_name, self._settings = folder, run_name, dict(settings)
        self.errors = (self._wandb.Error, OSError)

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        has_account = "WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "stiv"),
            name=self._run_name,
            # The same on resume, so that a stage stays one run.
            id=hashlib.sha256(str(self._folder.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(self._folder),
            mode=None if has_account else "offline",
            config=self._settings,
            settings=self._wandb.Settings(silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowSink:
    """One MLflow run for each stage: at MLFLOW_TRACKING_URI, else as files in the folder.

    Raises:
        TrainError: the package is not installed.
    """

    name = "MLflow"

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any]) -> None:
        self._mlflow = _imported("mlflow")
        self._folder, self._run_name, self._settings = folder, run_name, dict(settings)
        self.errors = (self._mlflow.exceptions.MlflowException, OSError)

    def open(self) -> None:
        # Its store of plain files still works, but asks to be asked for.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        folder = self._folder.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI", folder.as_uri())
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name("stiv")
        number = (
            self._client.create_experiment("stiv")
            if experiment is None
            else experiment.experiment_id
        )
        known = self._client.search_runs([number], f"tags.folder = '{folder}'")
        if known:
            self._run_id = known[0].info.run_id
            self._client.set_terminated(self._run_id, "RUNNING")
        else:
            run = self._client.create_run(
                number, run_name=self._run_name, tags={"folder": str(folder)}
            )
            self._run_id = run.info.run_id
            for name, value in self._settings.items():
                self._client.log_param(self._run_id, name, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        metrics = [metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


TRACKERS: dict[TrackerName, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "wandb": WandbSink,
    "mlflow": MlflowSink,
}


def flat_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among nested values, named by their path; what is None is left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": n for key, n in flat_numbers(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


def _imported(name: TrackerName) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise TrainError(
            f"trackers names {name!r}, which is not installed; install the extra 'tracking', or leave it out"
        ) from error
