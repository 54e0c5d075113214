"""Whole runs by name, as functions that return a resolved config."""

from collections.abc import Callable

from modeling.config import GuidanceConfig, SamplerConfig, preset
from training.config import (
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)


def demo_tiny() -> TrainConfig:
    """The three stages on two CPU cores in minutes, with encoders that need no download.

    Everything is scaled down from the paper; the chain, the objective and the conditioning are its own.
    The average decays faster than in the paper, where 0.9999 looks back over 10,000 steps: more than
    this whole run. The learning rate is higher for the same reason, and the guidance scale lower: after
    so few steps 7.5 amplifies noise. The autoencoder is the one that fits in seconds: after so few steps
    a sharper one does not show (docs/log.md).
    """
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=20)
    return TrainConfig(
        name="demo_tiny",
        model=preset("tiny", latent_channels=16, text_width=384, pooled_text_width=384, depth=4),
        encoders=EncoderConfig(autoencoder="patch_pca", text_encoder="minilm"),
        data=DataConfig(height_px=64, width_px=112, sampling_stride=3),
        stages={
            "t2i": StageConfig(
                task="t2i",
                num_steps=160,
                batch_size=32,
                num_frames=1,
                optimizer=optimizer,
                ema_decay=0.98,
                checkpoint_every_steps=50,
            ),
            "t2v": StageConfig(
                task="t2v",
                num_steps=100,
                batch_size=16,
                num_frames=8,
                optimizer=optimizer,
                ema_decay=0.98,
                checkpoint_every_steps=40,
            ),
            "stiv": StageConfig(
                task="stiv",
                num_steps=100,
                batch_size=16,
                num_frames=8,
                optimizer=optimizer,
                ema_decay=0.98,
                checkpoint_every_steps=40,
            ),
        },
        sampler=SamplerConfig(num_sampling_steps=50),
        guidance=GuidanceConfig(text_scale=2.0),
        num_workers=2,
    )


def stiv_xl_256() -> TrainConfig:
    """STIV-XL at 256 px and 20 frames with the paper's hyper-parameters, on GPUs.

    From the paper: size XL (table 1); stride 3, text dropout 10% and image dropout 8% (appendix B);
    AdaFactor 0.9 / 0.999, learning rate 2e-4 after 1000 warm-up steps, clipping at 1.0, EMA 0.9999,
    400k steps at batch 4096 (T2I) and 1024 (T2V, TI2V), then 50k and 100k without masking
    (section 3.1); 50% masking (section 2.2); guidance 7.5 with renormalisation (section 3.2).

    Not in the paper: the encoders, whose originals are not public (sd-vae-ft-ema is the paper's first
    baseline, appendix D, and ViT-bigG-14 has the geometry of its text tower, appendix C); logit-normal
    timesteps and 50 Heun steps (DiT-Air); the numeric precision and the number of workers. STIV stages
    start from T2V of the same resolution (section 2.4).
    """

    def stage(task: str, num_steps: int, mask_ratio: float) -> StageConfig:
        is_image = task == "t2i"
        return StageConfig.model_validate(
            {
                "task": task,
                "num_steps": num_steps,
                "batch_size": 4096 if is_image else 1024,
                "num_frames": 1 if is_image else 20,
                "mask_ratio": mask_ratio,
                "checkpoint_every_steps": 5000,
            }
        )

    return TrainConfig(
        name="stiv_xl_256",
        model=preset("XL", latent_channels=4, text_width=1280, pooled_text_width=1280),
        encoders=EncoderConfig(
            autoencoder="kl",
            autoencoder_model="stabilityai/sd-vae-ft-ema",
            text_encoder="open_clip",
            text_encoder_model="ViT-bigG-14",
            text_encoder_weights="laion2b_s39b_b160k",
        ),
        data=DataConfig(height_px=256, width_px=256, sampling_stride=3, cache_bytes=0),
        stages={
            "t2i": stage("t2i", 400_000, 0.5),
            "t2i_unmasked": stage("t2i", 50_000, 0.0),
            "t2v": stage("t2v", 400_000, 0.5),
            "t2v_unmasked": stage("t2v", 100_000, 0.0),
            "stiv": stage("stiv", 400_000, 0.5),
            "stiv_unmasked": stage("stiv", 100_000, 0.0),
        },
        sampler=SamplerConfig(solver="heun", num_sampling_steps=50),
        guidance=GuidanceConfig(scheme="joint", text_scale=7.5, renormalize=True),
        device="cuda",
        precision="bfloat16",
        num_workers=64,
        threads_per_worker=8,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "demo_tiny": demo_tiny,
    "stiv_xl_256": stiv_xl_256,
}
