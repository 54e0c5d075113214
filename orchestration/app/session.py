"""What the page of `stiv app` works with: runs, their checkpoints, and the videos that were made. Knows no Gradio."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.errors import GenerateError, TrainingError
from training.generate import GenerateRequest, GenerateResult, OpenRun
from training.generate_many import plan_many
from training.stage_choice import checkpoints_to_make_with

OnStep = Callable[[int, int], None]
SETTINGS_SUFFIX = ".settings.json"


@dataclass(frozen=True, slots=True)
class Model:
    """A run, and perhaps one stage and one checkpoint of it."""

    run: str
    stage: str | None = None
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        if self.stage is None:
            return f"{self.run}: the last stage that can do the task"
        return f"{self.run}: {self.stage}, {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A video that was made, and the line above it."""

    line: str
    video: Path
    sheet: Path
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a checkpoint cannot make what the others make."""

    line: str
    error: str


class Session:
    """Runs are opened once and keep their models. Videos go to `out`, under names of what makes them.

    Raises:
        TrainingError: a folder holds no run, or a damaged one.
    """

    def __init__(self, runs: Sequence[Path], out: Path) -> None:
        self.out = out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        paths = list(dict.fromkeys(path.resolve() for path in runs))
        names = [path.name for path in paths]
        self._opened = {
            path.name if names.count(path.name) == 1 else str(path): OpenRun(path) for path in paths
        }

    def models(self) -> dict[str, Model]:
        """Every checkpoint, by label, also of stages that still train. Read anew: a run may be training.

        Raises:
            TrainingError: what a stage wrote is damaged.
        """
        found = [
            Model(run, stage, checkpoint)
            for run, opened in self._opened.items()
            for stage, checkpoint in checkpoints_to_make_with(opened.config, opened.run)
        ]
        return {model.label: model for model in found}

    def automatic(self) -> dict[str, Model]:
        """The runs, where the task decides on the stage."""
        return {model.label: model for model in map(Model, self._opened)}

    def model(self, label: str) -> Model:
        """The one of this label.

        Raises:
            TrainingError: it is gone: a run that trains keeps its last checkpoints only.
        """
        known = {**self.automatic(), **self.models()}
        if label not in known:
            raise GenerateError(
                f"{label}: this checkpoint is gone, as a run that trains keeps only its last ones; reload the page"
            )
        return known[label]

    def make(self, model: Model, request: GenerateRequest, on_step: OnStep) -> tuple[Shown, str]:
        """The video, made now or found, and a note where its shape is not the one asked for.

        Raises:
            TrainingError: it cannot be made.
        """
        opened = self._opened[model.run]
        request = replace(request, stage=model.stage, checkpoint=model.checkpoint)
        notes: list[str] = []
        (job,) = plan_many(opened, [request], self.out, "mp4", notes.append)
        result = job.result
        if not job.is_made:
            result = opened.make(opened.plan(request, job.out), on_step)
        return _shown(result), " ".join(notes)

    def compare(
        self, labels: Sequence[str], request: GenerateRequest, on_step: OnStep
    ) -> Iterator[Shown | Refused]:
        """The same request by each of these checkpoints, in their order; the steps are counted through."""
        for place, label in enumerate(labels):

            def show(done: int, total: int, place: int = place) -> None:
                on_step(place * total + done, len(labels) * total)

            try:
                shown, _ = self.make(self.model(label), request, show)
            except TrainingError as error:
                yield Refused(label, str(error))
            else:
                yield replace(shown, line=label)

    def history(self) -> list[Shown]:
        """Every video of the folder, the newest first."""
        files = self.out.glob(f"*{SETTINGS_SUFFIX}")
        newest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
        return [shown for path in newest if (shown := _read(path)) is not None]

    def find(self, video: str) -> Shown | None:
        """The one of this name, if it is still there."""
        return _read(self.out / Path(video).with_suffix(SETTINGS_SUFFIX).name)


def _shown(result: GenerateResult) -> Shown:
    return Shown(_line(result.facts), result.video, result.contact_sheet, result.facts)


def _read(settings: Path) -> Shown | None:
    """None where the file is no settings of ours, or its video is gone."""
    video = settings.with_name(settings.name.removesuffix(SETTINGS_SUFFIX) + ".mp4")
    sheet = video.with_suffix(".frames.png")
    try:
        facts = json.loads(settings.read_bytes())
        line = _line(facts)
    except (ValueError, TypeError, KeyError):
        return None
    # Where files lay when they were made says nothing: the folder may have been moved.
    facts = {k: v for k, v in facts.items() if k not in ("video", "contact_sheet", "given")}
    return Shown(line, video, sheet, facts) if video.exists() and sheet.exists() else None


def _line(facts: dict[str, Any]) -> str:
    text = f"{facts['task']}: {facts['prompt']}" if facts["prompt"] else facts["task"]
    return (
        f"{text} ({facts['model']}: {facts['stage']}, {facts['checkpoint']}, seed {facts['seed']})"
    )
