"""A run that begins with finished stages of another one: only what comes after them is trained.

A checkpoint within a stage is no start: its optimizer and data position go on with the settings of its own run only.
Taken over are the averaged weights, which later stages start from and videos are sampled from, with the result of the
stage. Optimizer state, metrics and earlier checkpoints stay where they are; `origin.json` says where.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.checkpoint import STATE_NAME, file_sha256, write_json
from training.config import TrainConfig
from training.errors import TrainError
from training.run_directory import RunDirectory, StageResult, differences

_NOT_OF_A_STAGE = ("name", "stages", "order_of_stages", "sampler", "guidance")
"""Fields of a config that decide nothing about the weights of a stage."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage that was taken over was trained."""

    run: str
    stage: str
    checkpoint: str
    """Relative to that run."""
    state_sha256: str
    """Of its `state.json`, which holds the hashes of its weights."""
    shards: str
    """Fingerprint of what that run was trained on."""


def take_over(
    config: TrainConfig, wanted: Sequence[str], run: RunDirectory, source: RunDirectory
) -> dict[str, Origin]:
    """Finish those of the `wanted` stages in `run` that are finished in `source` and were made in the same way.

    In the same way: the same network, encoders, data settings, seed and settings of the stage and of all that it starts
    from. The shards may be others.

    Raises:
        TrainError: `source` holds no run, or no stage of it can be taken over; the message says why.
    """
    theirs = source.load_config()
    found: dict[str, Origin] = {}
    reasons: list[str] = []
    for name in wanted:
        if run.stage(name).result() is not None:
            continue
        why_not = _why_not(config, theirs, name, source)
        if why_not is None:
            found[name] = _copy(name, run, source)
        else:
            reasons.append(f"{name}: {why_not}")
    if reasons and not found and not any(run.stage(name).result() for name in wanted):
        raise TrainError(
            f"no stage of {source.path} can be taken over: {'; '.join(reasons[:3])}; give the stages to keep the "
            "settings they were trained with, or leave --from-run out"
        )
    return found


def _why_not(
    config: TrainConfig, theirs: TrainConfig, name: str, source: RunDirectory
) -> str | None:
    """None if the stage can be taken over."""
    if name not in theirs.stages:
        return "it has no such stage"
    if source.stage(name).result() is None:
        return "it is not finished there"
    unlike = differences(made_by(theirs, name), made_by(config, name))
    return unlike[0] if unlike else None


def made_by(config: TrainConfig, name: str) -> dict[str, Any]:
    """What decides the weights of a stage, with the stages that they come from."""
    identity = config.identity()
    shared = {key: value for key, value in identity.items() if key not in _NOT_OF_A_STAGE}
    stages = {
        stage: {**identity["stages"][stage], "starts_from": list(config.starts_of(stage))}
        for stage in config.needed_for(name)
    }
    return {**shared, "stages": stages}


def _copy(name: str, run: RunDirectory, source: RunDirectory) -> Origin:
    result = source.stage(name).result()
    assert result is not None, "the caller has asked"
    checkpoint = source.path / result.checkpoint
    if not (checkpoint / STATE_NAME).exists():
        raise TrainError(f"stage {name} of {source.path} is finished, but {checkpoint} is missing")
    origin = Origin(
        run=str(source.path.resolve()),
        stage=name,
        checkpoint=result.checkpoint,
        state_sha256=file_sha256(checkpoint / STATE_NAME),
        shards=source.fingerprint(),
    )
    _copy_autoencoder(run.autoencoder, source.autoencoder)
    _copy_average(checkpoint, run.path / result.checkpoint)
    directory = run.stage(name)
    write_json(directory.origin, asdict(origin))
    # Last: with it the stage is finished.
    directory.finish(StageResult(**asdict(result)))
    return origin


def _copy_autoencoder(mine: Path, theirs: Path) -> None:
    """The one that their latents are of."""
    if not theirs.exists():
        return
    if not mine.exists():
        _copy_file(theirs, mine)
    elif file_sha256(mine) != file_sha256(theirs):
        raise TrainError(
            f"{mine} is another autoencoder than {theirs}, whose latents the stages to take over were trained on; "
            "choose another run directory"
        )


def _copy_average(checkpoint: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for path in [*checkpoint.glob("average*.safetensors"), checkpoint / STATE_NAME]:
        _copy_file(path, to / path.name)


def _copy_file(path: Path, to: Path) -> None:
    """In one step, so that a killed copy leaves nothing that looks whole."""
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = to.with_name(f".{to.name}.tmp")
    shutil.copyfile(path, temporary)
    temporary.replace(to)
