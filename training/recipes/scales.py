"""How large a run is: network, sizes, batches and steps. The stages themselves are the same at every scale.

Of the paper are: the networks (table 1), batch 4096 and 1024, 400k steps, 50k and 100k without masking (section 3.1),
110k steps for views (section 5). Not in the paper, and marked so below: everything about 512 px and SFT but the weight
flow, where DiT-Air (arXiv 2503.10618), by the same group, has 100k steps at batch 2048 and 2.5k at batch 64.
"""

from dataclasses import dataclass
from typing import Literal

from modeling.config import STIVConfig, preset
from modeling.settings import RecomputePolicy
from training.config import OptimizerConfig, ValidationConfig
from training.encoder_config import EncoderConfig

PAPER_ENCODERS = EncoderConfig(
    autoencoder="kl",
    # The encoders of the paper are not public. This one is its first baseline (appendix D) ...
    autoencoder_model="stabilityai/sd-vae-ft-ema",
    text_encoder="open_clip",
    # ... and this one has the geometry of its text tower (appendix C).
    text_encoder_model="ViT-bigG-14",
    text_encoder_weights="laion2b_s39b_b160k",
)
EMBEDDED_ENCODERS = EncoderConfig(autoencoder="patch_pca", text_encoder="minilm")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of everything."""

    name: str
    model: STIVConfig
    encoders: EncoderConfig
    low_px: int
    """Side of the frames of the first stages."""
    high_px: int
    views_px: int
    """Side of the frames of multi-view."""
    classes_px: int
    """Side of the frames of class-to-video."""
    num_frames: int
    num_class_frames: int
    image_batch: int
    high_image_batch: int
    video_batch: int
    sft_batch: int
    steps: int
    """Of a stage at low resolution, and of each application."""
    high_image_steps: int
    high_video_steps: int
    """From "both", before images are given."""
    views_steps: int
    sft_steps: int
    unmasked_image_steps: int
    unmasked_video_steps: int
    mask_ratio: float
    optimizer: OptimizerConfig
    ema_decay: float
    checkpoint_every_steps: int
    validation: ValidationConfig | None
    guidance_scale: float
    views_guidance_scale: float
    device: Literal["cpu", "cuda"]
    sharding: Literal["none", "full"]
    recompute: RecomputePolicy
    tokens_at_once: int | None
    """Of the main blocks, on each worker, at most: what its share is passed through the network in parts for."""
    num_workers: int
    cache_bytes: int


def paper_scale(size: Literal["XL", "XXL", "M"]) -> Scale:
    """The sizes of the paper; the number of GPUs is open there, and so is how a run lies on them.

    Here on 64 of 80 GiB (`stiv plan` finds what is faster on others): blocks are computed again but for self-attention,
    as in the paper (section 2.2), one unmasked clip of 512 px or as many tokens pass through at once, and the two
    larger networks are divided. Within machines of 8 GPUs, `sharding=hybrid` sends less between them.
    """
    return Scale(
        name=size.lower(),
        model=preset(size, latent_channels=4, text_width=1280, pooled_text_width=1280),
        encoders=PAPER_ENCODERS,
        low_px=256,
        high_px=512,
        views_px=320,
        classes_px=128,
        num_frames=20,
        num_class_frames=16,
        image_batch=4096,
        high_image_batch=2048,  # open; of DiT-Air
        video_batch=1024,
        sft_batch=64,  # open; of DiT-Air
        steps=400_000,
        high_image_steps=100_000,  # open; of DiT-Air
        high_video_steps=100_000,  # open; the FLOPs of table 13 suggest about 93k
        views_steps=110_000,
        sft_steps=2_500,  # open; of DiT-Air
        unmasked_image_steps=50_000,
        unmasked_video_steps=100_000,
        mask_ratio=0.5,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=1000),
        ema_decay=0.9999,
        checkpoint_every_steps=5_000,
        validation=None,  # how much to hold out follows from the data set
        guidance_scale=7.5,
        views_guidance_scale=3.5,
        device="cuda",
        sharding="none" if size == "XL" else "full",
        recompute="keep_self_attention",
        tokens_at_once=10_240,
        num_workers=64,
        cache_bytes=0,
    )


def small_scale() -> Scale:
    """For one GPU of 24 GB and a few days; every number is ours."""
    return Scale(
        name="small",
        model=preset("small", latent_channels=4, text_width=1280, pooled_text_width=1280),
        encoders=PAPER_ENCODERS,
        low_px=128,
        high_px=256,
        views_px=160,
        classes_px=64,
        num_frames=20,
        num_class_frames=16,
        image_batch=256,
        high_image_batch=128,
        video_batch=64,
        sft_batch=32,
        steps=50_000,
        high_image_steps=20_000,
        high_video_steps=20_000,
        views_steps=20_000,
        sft_steps=1_000,
        unmasked_image_steps=5_000,
        unmasked_video_steps=10_000,
        mask_ratio=0.5,
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=500),
        ema_decay=0.999,
        checkpoint_every_steps=1_000,
        validation=ValidationConfig(share=0.01, every_steps=1_000),
        guidance_scale=7.5,
        views_guidance_scale=3.5,
        device="cuda",
        sharding="none",
        recompute="none",
        tokens_at_once=10_240,
        num_workers=1,
        cache_bytes=0,
    )


def tiny_scale() -> Scale:
    """For two CPU cores, minutes a stage, and encoders that need no download; every number is ours.

    As in the demo, weights are averaged over fewer steps, the learning rate is higher and the guidance weaker.
    """
    return Scale(
        name="tiny",
        model=preset("tiny", latent_channels=16, text_width=384, pooled_text_width=384, depth=4),
        encoders=EMBEDDED_ENCODERS,
        low_px=64,
        high_px=96,
        views_px=80,
        classes_px=48,
        num_frames=8,
        num_class_frames=8,
        image_batch=32,
        high_image_batch=16,
        video_batch=16,
        sft_batch=8,
        steps=160,
        high_image_steps=80,
        high_video_steps=80,
        views_steps=80,
        sft_steps=40,
        unmasked_image_steps=40,
        unmasked_video_steps=40,
        # At 16 positions a frame there is little to save.
        mask_ratio=0.25,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
        ema_decay=0.98,
        checkpoint_every_steps=40,
        validation=ValidationConfig(share=0.1, every_steps=20),
        guidance_scale=2.0,
        views_guidance_scale=2.0,
        device="cpu",
        sharding="none",
        recompute="none",
        tokens_at_once=None,
        num_workers=2,
        cache_bytes=2 * 2**30,
    )


def scales() -> dict[str, Scale]:
    """All of them, by name."""
    found = [tiny_scale(), small_scale(), *(paper_scale(size) for size in ("XL", "XXL", "M"))]
    return {scale.name: scale for scale in found}
