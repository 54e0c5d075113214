"""`stiv export`: the averaged weights of a stage as a folder that `modeling` alone can open, with a model card."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from modeling.pretrained import (
    AUTOENCODER_NAME,
    CONFIG_NAME,
    FITTED,
    WEIGHTS_NAME,
    PretrainedConfig,
)
from training.checkpoint import file_sha256, load_average, write_json
from training.config import TrainConfig
from training.errors import TrainError
from training.run_directory import RunDirectory, StageResult

CARD_NAME = "README.md"


def export(
    run_dir: Path, out: Path, stage: str | None = None, data_cards: Sequence[Path] = ()
) -> Path:
    """Write the model of a finished stage, the last one unless it is named. Gives `out`.

    `data_cards` are Markdown files that say what the data are and whom to credit; the model card holds them.

    Raises:
        TrainError: the run has no such finished stage, or a data card does not exist.
        CheckpointError: its checkpoint is damaged.
    """
    run = RunDirectory(run_dir)
    config = run.load_config()
    result = _finished(run, config, stage)
    if missing := [str(card) for card in data_cards if not card.is_file()]:
        raise TrainError(
            f"the data card {missing[0]} does not exist; give DATA_CARD.md of a data set"
        )
    out.mkdir(parents=True, exist_ok=True)
    weights = load_average(run.path / result.checkpoint)
    temporary = out / f".{WEIGHTS_NAME}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)
    temporary.replace(out / WEIGHTS_NAME)
    if config.encoders.autoencoder in FITTED:
        shutil.copyfile(run.autoencoder, out / AUTOENCODER_NAME)
    data, described = config.data_of(result.stage), config.stages[result.stage]
    height_px, width_px = data.sizes[0]
    pretrained = PretrainedConfig(
        model=config.model_of(result.stage),
        task=result.task,
        height_px=height_px,
        width_px=width_px,
        num_frames=described.num_frames,
        sampling_stride=data.sampling_stride,
        fps=result.playback_fps,
        original_height_px=result.original_height_px,
        original_width_px=result.original_width_px,
        encoders=config.encoders.model_dump(mode="json"),
        sampler=config.sampler,
        guidance=config.guidance,
    )
    write_json(out / CONFIG_NAME, pretrained.model_dump(mode="json"))
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    card = _card(run, config, result, num_parameters, file_sha256(out / WEIGHTS_NAME))
    card += "".join(f"\n\n# Data\n\n{path.read_text()}" for path in data_cards)
    (out / CARD_NAME).write_text(card)
    return out


def _finished(run: RunDirectory, config: TrainConfig, stage: str | None) -> StageResult:
    if stage is not None and stage not in config.stages:
        raise TrainError(f"{run.path} has no stage {stage}; it has {', '.join(config.stages)}")
    results = [run.stage(name).result() for name in config.stages if stage in (None, name)]
    finished = [result for result in results if result is not None]
    if not finished:
        raise TrainError(f"{run.path} has no finished stage {stage or ''}; train it first")
    return finished[-1]


def _card(
    run: RunDirectory, config: TrainConfig, result: StageResult, num_parameters: int, sha256: str
) -> str:
    results = [run.stage(name).result() for name in config.needed_for(result.stage)]
    rows = [
        f"| {r.stage} | {r.task} | {_size(config, r.stage)} | {r.num_steps} | {r.num_clips} | {r.first_loss:.4f} | "
        f"{r.last_loss:.4f} | {'-' if r.validation_loss is None else format(r.validation_loss, '.4f')} |"
        for r in results
        if r is not None
    ]
    encoders = config.encoders
    autoencoder = encoders.autoencoder_model or f"`{AUTOENCODER_NAME}`, fitted on the data"
    return "\n".join(
        [
            f"# {config.name}, stage {result.stage}",
            "",
            f"A STIV model (arXiv 2412.07730) of {num_parameters / 1e6:.1f} million parameters for {result.task}: "
            f"{config.stages[result.stage].num_frames} frames of {_size(config, result.stage)} px at "
            f"{result.playback_fps:g} frames a second.",
            "",
            "## How it was trained",
            "",
            "| stage | task | size | steps | clips | first loss | last loss | held-out loss |",
            "|---|---|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Weights are averages of decay {config.stages[result.stage].ema_decay}. The whole configuration is in "
            "`config.json` of the run.",
            "",
            "## How to open it",
            "",
            "```python",
            "from modeling.pretrained import load_pretrained",
            "",
            'opened = load_pretrained("this/folder")',
            "opened.model, opened.config, opened.autoencoder",
            "```",
            "",
            "`modeling.sampler.sample` turns noise into latents.",
            "",
            f"- Autoencoder: {encoders.autoencoder} ({autoencoder}).",
            f"- Text encoder: {encoders.text_encoder} ({encoders.text_encoder_model or 'embedded'}).",
            f"- SHA-256 of `{WEIGHTS_NAME}`: {sha256}.",
        ]
    )


def _size(config: TrainConfig, stage: str) -> str:
    height_px, width_px = config.data_of(stage).sizes[0]
    return f"{height_px}x{width_px}"
