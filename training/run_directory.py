"""What a run leaves on disk, and the rule that one directory holds one run.

RUN/config.json                  resolved config and the fingerprint of the shards
RUN/autoencoder.safetensors      PatchPCA or ConvAutoencoder fitted on them, where the config names one
RUN/index/                       which samples there are; may be deleted
RUN/frames/                      decoded frames at training size; may be deleted
RUN/failures.jsonl               workers that failed, and what they said (`failures.py`)
RUN/driver.lock, trainer.lock    held by the processes that write the run (`run_lock.py`)
RUN/<stage>/playback.json        speed and size of the sources of its clips, written before the first step
RUN/<stage>/metrics.jsonl        one line per optimizer step
RUN/<stage>/skipped_steps.jsonl  steps left out because they were not finite, with the clips of their batches
RUN/<stage>/tensorboard/         the same as TensorBoard events
RUN/<stage>/wandb, mlflow        the same for these trackers, where the config names them
RUN/<stage>/validation.jsonl     losses on held-out clips, where the stage has a `validation`
RUN/<stage>/previews/            step-NNNNNN-M.mp4 and .png of prompt M, where the stage has `previews`; -given of a
                                 held-out clip, where it also gives frames and has a `validation`
RUN/<stage>/loss.png
RUN/<stage>/checkpoints/         see `checkpoint.py`
RUN/<stage>/origin.json          of a stage taken over from another run: which, and its hash (`branch.py`)
RUN/<stage>/result.json          written last: the stage is finished
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.checkpoint import LATEST_NAME, write_json
from training.config import Task, TrainConfig
from training.errors import TrainError
from training.streaming.buckets import Playback

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """Weights of a stage, and what making clips with them takes to know."""

    stage: str
    task: Task
    checkpoint: str
    """Relative to the run directory."""
    playback_fps: float
    """Frames per second of the sampled clips: those of the source over the sampling stride."""
    original_height_px: int
    """Median over the sources: what sampling asks for as a micro-condition."""
    original_width_px: int


@dataclass(frozen=True, kw_only=True)
class StageResult(StageModel):
    """A finished stage, with its final checkpoint."""

    num_steps: int
    first_loss: float
    """Mean over the first tenth of the steps."""
    last_loss: float
    """Mean over the last tenth of the steps."""
    seconds: float
    """Spent on optimizer steps, over all sessions; loading and start-up are not counted."""
    num_clips: int
    num_clips_too_short: int
    num_clips_without_caption: int
    validation_loss: float | None = None
    """Of the averaged weights after the last step, where the stage has a `validation`."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: its stages in order."""

    run_dir: Path
    stages: tuple[StageResult, ...]


class StageDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.previews = path / "previews"
        self.validation = path / "validation.jsonl"
        self.skipped_steps = path / "skipped_steps.jsonl"
        self.tensorboard = path / "tensorboard"
        self.loss_curve = path / "loss.png"
        self.checkpoints = path / "checkpoints"
        self.origin = path / "origin.json"
        self._playback = path / "playback.json"
        self._result = path / "result.json"

    @property
    def has_checkpoint(self) -> bool:
        return (self.checkpoints / LATEST_NAME).exists()

    @property
    def all_checkpoints(self) -> list[Path]:
        """Those that are kept, the first one first."""
        return sorted(self.checkpoints.glob("step-*"))

    def start(self, playback: Playback) -> None:
        """Note what videos are made with while the stage trains."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._playback, asdict(playback))

    def playback(self) -> Playback | None:
        """None before the training starts, and for one that an earlier version started.

        Raises:
            TrainError: the file is damaged.
        """
        if not self._playback.exists():
            return None
        try:
            return Playback(**json.loads(self._playback.read_bytes()))
        except (ValueError, TypeError) as error:
            raise TrainError(
                f"{self._playback} is not readable ({error}); resume the run, which writes it again"
            ) from error

    def result(self) -> StageResult | None:
        """The result of a finished stage, None while it is not finished.

        Raises:
            TrainError: the file is damaged.
        """
        if not self._result.exists():
            return None
        try:
            return StageResult(**json.loads(self._result.read_bytes()))
        except (ValueError, TypeError) as error:
            raise TrainError(
                f"{self._result} is not readable ({error}); delete it and resume the run"
            ) from error

    def finish(self, result: StageResult) -> None:
        write_json(self._result, asdict(result))


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.autoencoder = path / "autoencoder.safetensors"
        self.frames = path / "frames"
        self.index = path / "index"
        self.failures = path / "failures.jsonl"
        self.driver_lock = path / "driver.lock"
        self.trainer_lock = path / "trainer.lock"

    def stage(self, name: str) -> StageDirectory:
        return StageDirectory(self.path / name)

    def claim(self, config: TrainConfig, fingerprint: str) -> None:
        """Make this the directory of a run, or check that it already is.

        Raises:
            TrainError: it holds a run with another config or other shards; the message lists what differs.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        wanted = {"train": config.identity(), "shards": fingerprint}
        if self.config.exists():
            found = self._read()
            known = TrainConfig.model_validate(found["train"]).identity()
            unlike = differences({"train": known, "shards": found["shards"]}, wanted)
            if unlike:
                raise TrainError(
                    f"{self.path} holds a run with other settings: {'; '.join(unlike)}; "
                    "choose another run directory, or restore these settings"
                )
        # Rewritten on resume too, for the fields that may change, such as the number of workers.
        content = {
            "format_version": FORMAT_VERSION,
            "train": config.model_dump(mode="json"),
            "shards": fingerprint,
        }
        write_json(self.config, content)

    def load_config(self) -> TrainConfig:
        """The resolved config of the run.

        Raises:
            TrainError: the directory holds no run, or one of another version.
        """
        if not self.config.exists():
            raise TrainError(f"{self.path} holds no run: {self.config} does not exist; train first")
        return TrainConfig.model_validate(self._read()["train"])

    def fingerprint(self) -> str:
        """Of the shards that the run was trained on.

        Raises:
            TrainError: the config is unreadable or of another version.
        """
        return self._read()["shards"]

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.config.read_bytes())
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise TrainError(
                    f"{self.config} has format_version {version!r}, this code reads {FORMAT_VERSION}; "
                    "use the version that wrote it, or choose another run directory"
                )
            TrainConfig.model_validate(content["train"])
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise TrainError(
                f"{self.config} was not written by this version ({'; '.join(problems)}); "
                "use the version that wrote it, or choose another run directory"
            ) from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TrainError(
                f"{self.config} is not readable ({error!r}); choose another run directory"
            ) from error
        return content


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """`path: found in the run, wanted now`, for each plain value that differs."""
    flat_found, flat_wanted = _flatten(found), _flatten(wanted)
    return [
        f"{key.removeprefix('train.')} is {flat_found.get(key, 'absent')} in the run and "
        f"{flat_wanted.get(key, 'absent')} now"
        for key in dict.fromkeys([*flat_found, *flat_wanted])
        if flat_found.get(key) != flat_wanted.get(key)
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
