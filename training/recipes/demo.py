"""The run of the demo."""

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
