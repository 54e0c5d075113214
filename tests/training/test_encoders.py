"""The autoencoder of a run: fitted once, found again, refused where it does not fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.settings import ConvSettings, KLSettings
from tests.training.builders import tiny_config, tiny_stage
from training.config import EncoderConfig, TrainConfig
from training.encoders import load_encoders
from training.errors import TrainError
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

SMALL = ConvSettings(width=16, num_decoder_blocks=1, num_steps=6, batch_size=2, crop_px=16)
CPU = torch.device("cpu")


def conv_config(settings: ConvSettings = SMALL) -> TrainConfig:
    encoders = EncoderConfig(autoencoder="conv", conv=settings, text_encoder="minilm")
    return tiny_config(encoders=encoders, stages={"t2v": tiny_stage("t2v")})


def kl_config(folder: Path, settings: KLSettings | None = None) -> TrainConfig:
    encoders = EncoderConfig(
        autoencoder="kl",
        autoencoder_model=str(folder),
        kl=settings or KLSettings(),
        text_encoder="minilm",
    )
    return tiny_config(encoders=encoders, stages={"t2v": tiny_stage("t2v")})


def write_vae(folder: Path, widths: Sequence[int]) -> Path:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": tuple(widths),
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    vae: Any = AutoencoderKL(**config)
    vae.save_pretrained(folder)
    return folder


def test_a_fit_is_found_again_and_a_lost_one_comes_back_byte_by_byte(
    dataset: Path, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []

    def prepare() -> None:
        prepare_run(
            conv_config(),
            [dataset],
            tmp_path,
            on_fit_step=lambda step, total, _: steps.append((step, total)),
        )

    prepare()
    assert steps == [(step, 6) for step in range(1, 7)]
    file = RunDirectory(tmp_path).autoencoder
    written = file.read_bytes()
    prepare()
    assert len(steps) == 6
    # What a process leaves that is killed while it writes.
    file.rename(file.with_name(f".{file.name}.tmp"))
    prepare()
    assert len(steps) == 12
    assert file.read_bytes() == written
    assert [path.name for path in tmp_path.glob("*autoencoder*")] == [file.name]
    assert list(tmp_path.glob(".*")) == []


def test_a_run_on_the_fitted_autoencoder_trains(dataset: Path, tmp_path: Path) -> None:
    config = conv_config()
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "t2v", [dataset], tmp_path)
    losses = [line["loss"] for line in read_metrics(tmp_path / "t2v" / "metrics.jsonl")]
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)


def test_another_fit_is_another_run(dataset: Path, tmp_path: Path) -> None:
    prepare_run(conv_config(), [dataset], tmp_path)
    longer = SMALL.model_copy(update={"num_steps": 7})
    with pytest.raises(TrainError, match=r"encoders\.conv\.num_steps is 6 in the run and 7 now"):
        prepare_run(conv_config(longer), [dataset], tmp_path)


def test_slices_may_change_on_resume_and_tiles_may_not(dataset: Path, tmp_path: Path) -> None:
    folder = Path("vae")
    prepare_run(kl_config(folder), [dataset], tmp_path)
    prepare_run(kl_config(folder, KLSettings(frames_at_once=8)), [dataset], tmp_path)
    with pytest.raises(TrainError, match=r"encoders\.kl\.tile_px is None in the run and 64 now"):
        prepare_run(kl_config(folder, KLSettings(tile_px=64)), [dataset], tmp_path)


@pytest.mark.slow
def test_a_run_on_a_vae_of_diffusers_trains(dataset: Path, tmp_path: Path) -> None:
    config = kl_config(write_vae(tmp_path / "vae", (8, 8, 8, 8)), KLSettings(frames_at_once=3))
    run = tmp_path / "run"
    prepare_run(config, [dataset], run)
    assert not RunDirectory(run).autoencoder.exists()
    train_stage(config, "t2v", [dataset], run)
    assert len(list(read_metrics(run / "t2v" / "metrics.jsonl"))) == 4


@pytest.mark.slow
def test_a_vae_of_another_factor_is_refused(tmp_path: Path) -> None:
    config = kl_config(write_vae(tmp_path / "vae", (8, 8)))
    with pytest.raises(TrainError, match="kl has 2 px to a latent position, training supports 8"):
        load_encoders(config, tmp_path / "none", CPU)
