"""The data versions of training assets: what was made, so that the same again leaves what follows up to date.

Whatever was overridden is in it: another number of steps gives other weights, and with them another version.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data_engine.tables import fingerprint


def latents_version(folders: Sequence[Path]) -> str:
    """Of the manifests of these folders, which hold the hash of every tar and what encoded it."""
    from training.checkpoint import file_sha256
    from training.streaming.shards import LATENTS_MANIFEST_NAME

    return fingerprint([file_sha256(folder / LATENTS_MANIFEST_NAME) for folder in folders])


def stage_version(run_dir: Path, stage: str) -> str:
    """Of the averaged weights of a finished stage, of the settings that made them, and of how they are sampled.

    Raises:
        TrainError: the run is unreadable, or the stage is not finished.
    """
    from training.branch import made_by
    from training.checkpoint import STATE_NAME
    from training.errors import TrainError
    from training.run_directory import RunDirectory

    run = RunDirectory(run_dir)
    config, result = run.load_config(), run.stage(stage).result()
    if result is None:
        raise TrainError(f"{run_dir} has no finished stage {stage}; materialise it first")
    state = run_dir / result.checkpoint / STATE_NAME
    if not state.exists():
        raise TrainError(
            f"stage {stage} of {run_dir} is finished, but {result.checkpoint} is missing; put it back, or train in another run"
        )
    files = json.loads(state.read_bytes())["files"]
    weights = {name: entry for name, entry in files.items() if name.startswith("average")}
    return fingerprint(made_by(config, stage), config.sampler, config.guidance, weights)
