"""The code version of an asset: a hash of the modules that decide what it holds.

With changed code Dagster marks the asset as out of date. Read from the files, so that nothing heavy is imported.
"""

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]

_STEPS = (
    *("schema.py", "tables.py", "append_only.py", "dataset_paths.py", "errors.py"),
    *("ray_rows.py", "workers.py"),
    "steps/work.py",
)
"""Of the data engine: what every step that runs on Ray is made of."""
_PICTURES = ("container.py", "hdr.py")
_FRAMES = (*_PICTURES, "frame_workers.py", "network_frames.py", "hub_models.py")
"""How pictures come to the models, and the models to us."""
_CUT = (
    *(
        "decode.py",
        "observing.py",
        "shots.py",
        "transitions.py",
        "transnet.py",
        "dissolves.py",
    ),
    *("letterbox.py", "thumbnails.py", "clips.py", "parts.py", "steadiness.py"),
)
_NETWORK = ("modeling/*.py",)
_DATA = (
    *("streaming/*.py", "encoders.py", "latents.py", "latent_sets.py", "shards.py"),
    *("camera_grid.py", "randomness.py", "errors.py"),
)
"""Of the trainer: from shards to batches."""
_GENERATE = (
    *("clip_sampler.py", "generate.py", "generate_request.py", "generated_files.py"),
    *("given_inputs.py", "long_video.py", "previews.py", "trained_shapes.py", "video_file.py"),
    *("stage_choice.py", "upsampling.py"),
)


def _of(package: str, *patterns: str) -> tuple[str, ...]:
    return tuple(f"{package}/{pattern}" for pattern in patterns)


MODULES: dict[str, tuple[str, ...]] = {
    "probe": _of(
        "data_engine", *_STEPS, *_PICTURES, "probe.py", "sources/*.py", "steps/probing.py"
    ),
    "score": _of(
        "data_engine", *_STEPS, *_FRAMES, *_CUT, "scoring.py", "scores/*.py", "steps/scoring.py"
    ),
    "decide": _of(
        "data_engine",
        *("schema.py", "tables.py", "append_only.py", "dataset_paths.py", "filters.py"),
        "duplicates.py",
        "steps/deciding.py",
    ),
    "caption": _of(
        "data_engine",
        *(*_STEPS, *_FRAMES, "caption_*.py", "captioning/*.py", "describing.py"),
        *("hallucination/*.py", "steps/captioning.py"),
    ),
    "shard": _of(
        "data_engine",
        *(*_STEPS, *_PICTURES, "decode.py", "shard_writer.py", "cutting.py", "stream_copy.py"),
        *("buckets.py", "steps/sharding.py"),
    ),
    "report": _of(
        "data_engine",
        *("schema.py", "report.py", "statistics.py", "plots.py", "clip_pages.py", "throughput.py"),
        *("describing.py", "templates/*"),
    ),
    "latents": (
        *_NETWORK,
        *_of("training", *_DATA, "encode.py", "encoding.py"),
        "data_engine/schema.py",
    ),
    "train": (
        *_NETWORK,
        *_of(
            "training",
            *(*_DATA, "adafactor.py", "branch.py", "checkpoint.py", "checkpoint_writer.py"),
            *(
                "distribute.py",
                "ema.py",
                "initialise.py",
                "launch.py",
                "loop.py",
                "run_directory.py",
            ),
            *("run_lock.py", "spikes.py", "state.py", "step.py", "step_lines.py", "validation.py"),
            *("chain.py", "due.py", "optimizers.py", "stage_data.py"),
        ),
    ),
    "sample": (*_NETWORK, *_of("training", *_GENERATE, "encoders.py", "checkpoint.py")),
    "evaluate": (
        *_NETWORK,
        *_of("training", *_GENERATE, "encoders.py", "checkpoint.py", "evaluation/*.py"),
    ),
}
"""For each step, the files that decide what it makes, below the folder of the packages."""

DECIDES_NOTHING: tuple[str, ...] = (
    "*/__init__.py",
    # What they say is in the configuration, which the data versions hold.
    *_of("data_engine", "config.py", "filter_config.py", "recipes.py"),
    *_of(
        "training", "config.py", "data_config.py", "encoder_config.py", "placement.py", "recipes/*"
    ),
    # They tell of what was made, or call the steps.
    *_of("data_engine", "drift.py", "lineage.py", "pipeline.py", "samples.py"),
    *_of("data_engine", "clip_columns.py", "what_if.py"),
    *_of("training", "telemetry.py", "sending.py", "sinks.py", "work.py", "planning/*"),
    *_of("training", "failures.py", "local.py"),
    # No asset is made by them.
    *_of(
        "training",
        "ablations.py",
        "export.py",
        "generate_launch.py",
        "generate_many.py",
        "prompt_file.py",
    ),
)
"""Files of the packages that no version looks at, and why."""


@cache
def code_version(step: str) -> str:
    """A short hash that changes with the code of a step of the data engine or of the trainer."""
    return hash_files(_ROOT, MODULES[step])


def hash_files(root: Path, patterns: tuple[str, ...]) -> str:
    """Of the names and the content of all files below `root` that a pattern finds."""
    content = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:12]
