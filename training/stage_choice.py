"""Which weights of a run make a video: of a finished stage, or of one that still trains."""

from dataclasses import replace

from training.config import TrainConfig
from training.errors import GenerateError
from training.generate_request import GIVEN, NUM_VIEWS, GenerateTask, makes_views
from training.run_directory import RunDirectory, StageModel, StageResult

LATEST = "latest"
"""Names the newest checkpoint of a stage."""


def chosen_model(
    config: TrainConfig,
    run: RunDirectory,
    task: GenerateTask,
    stage: str | None,
    checkpoint: str | None,
) -> StageModel:
    """The named checkpoint, or the last one, of the named stage, or of the last finished one that can do the task.

    A stage that still trains is taken where both are named; `latest` is its newest checkpoint.

    Raises:
        GenerateError: there is none; the message says what the run has.
        TrainError: what the stage wrote is damaged.
    """
    if stage is None or checkpoint is None or _result(config, run, stage) is not None:
        model = finished_stage(config, run, task, stage)
    else:
        model = _in_training(config, run, stage)
        if not _can(config, model, task):
            raise GenerateError(f"task {task} needs a stage that {_trained(task)}; {stage} was not")
    if checkpoint in (None, LATEST):
        return model
    known = [path.name for path in run.stage(model.stage).all_checkpoints]
    if checkpoint not in known:
        raise GenerateError(
            f"stage {model.stage} has no checkpoint {checkpoint}; it has {', '.join(known) or 'none'}"
        )
    return _at(run, model, checkpoint)


def finished_stage(
    config: TrainConfig, run: RunDirectory, task: GenerateTask, name: str | None = None
) -> StageResult:
    """The named stage, or the last finished one that was trained for the task.

    Raises:
        GenerateError: there is none; the message says what the run has.
    """
    if name is not None:
        _result(config, run, name)
    finished = [result for n in config.stages if (result := run.stage(n).result()) is not None]
    fitting = [r for r in finished if name in (None, r.stage) and _can(config, r, task)]
    if fitting:
        return fitting[-1]
    done = ", ".join(result.stage for result in finished) or "none"
    begun = [n for n in config.stages if name in (None, n) and _is_in_training(run, n)]
    hint = (
        f"; --stage {begun[-1]} --checkpoint {LATEST} takes what it has learned so far"
        if begun
        else ""
    )
    if task != "t2i" and not any(result.task != "t2i" for result in finished):
        raise GenerateError(
            f"{run.path} has no finished video stage (finished: {done}); resume the run first{hint}"
        )
    which = "stage" if name is None else f"stage {name}"
    raise GenerateError(
        f"task {task} needs a finished {which} that {_trained(task)}; finished in {run.path}: {done}{hint}"
    )


def checkpoints_to_make_with(config: TrainConfig, run: RunDirectory) -> list[tuple[str, str]]:
    """Stage and checkpoint of all that there are, the stages in their order.

    Raises:
        TrainError: what a stage wrote is damaged.
    """
    return [
        (name, checkpoint.name)
        for name in config.stages
        if run.stage(name).result() is not None or _is_in_training(run, name)
        for checkpoint in run.stage(name).all_checkpoints
    ]


def _in_training(config: TrainConfig, run: RunDirectory, stage: str) -> StageModel:
    directory = run.stage(stage)
    checkpoints, playback = directory.all_checkpoints, directory.playback()
    if not checkpoints or not directory.has_checkpoint:
        raise GenerateError(
            f"stage {stage} of {run.path} has no checkpoint yet; the first one follows after "
            f"{config.stages[stage].checkpoint_every_steps} steps"
        )
    if playback is None:
        raise GenerateError(
            f"stage {stage} of {run.path} was started by an earlier version and is not finished; resume the run, and "
            "its checkpoints can be taken"
        )
    model = StageModel(
        stage=stage,
        task=config.stages[stage].task,
        checkpoint="",
        playback_fps=playback.fps / config.data_of(stage).sampling_stride,
        original_height_px=playback.height_px,
        original_width_px=playback.width_px,
    )
    return _at(run, model, checkpoints[-1].name)


def _at(run: RunDirectory, model: StageModel, checkpoint: str) -> StageModel:
    folder = run.stage(model.stage).checkpoints
    return replace(model, checkpoint=str((folder / checkpoint).relative_to(run.path)))


def _result(config: TrainConfig, run: RunDirectory, stage: str) -> StageResult | None:
    if stage not in config.stages:
        raise GenerateError(
            f"{run.path} has no stage {stage}; its stages are {', '.join(config.stages)}"
        )
    return run.stage(stage).result()


def _is_in_training(run: RunDirectory, stage: str) -> bool:
    directory = run.stage(stage)
    return (
        directory.result() is None and directory.has_checkpoint and directory.playback() is not None
    )


def _trained(task: GenerateTask) -> str:
    if task == "t2i":
        return "was trained on images"
    if task == "multi_view":
        return f"was trained on {NUM_VIEWS} views, as the recipes multi_view_* train one"
    return f"was trained with given={GIVEN[task]!r}"


def _can(config: TrainConfig, model: StageModel, task: GenerateTask) -> bool:
    stage = config.stages[model.stage]
    if task == "multi_view" or makes_views(stage):
        return task == "multi_view" and makes_views(stage)
    if "t2i" in (model.task, task):
        return model.task == task
    if model.task == "t2v":
        return task == "t2v"
    # With its image dropped, a stage that animates is a text-to-video model (STIV section 2.3.1).
    return GIVEN[task] in stage.given or (task == "t2v" and "first" in stage.given)
