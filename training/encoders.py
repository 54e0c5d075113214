"""Frames and captions to what the network reads, through the frozen encoders of a run."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from modeling.autoencoder import AUTOENCODERS, Autoencoder
from modeling.conditioning import Conditions, MicroConditions, TextFeatures, concatenate_text
from modeling.conv_autoencoder import ConvAutoencoder
from modeling.kl_autoencoder import KLAutoencoder
from modeling.patch_pca import PatchPCA
from modeling.text_encoder import (
    ClassLabelEncoder,
    MiniLMTextEncoder,
    OpenCLIPTextEncoder,
    T5TextEncoder,
    TextEncoder,
)
from training.config import LATENT_DOWNSAMPLING, EncoderConfig, TrainConfig
from training.errors import DataError, TrainError
from training.randomness import generator_at
from training.step import TrainBatch
from training.streaming.buckets import Bucket
from training.streaming.decode import fit_to_cover
from training.streaming.index import SampleIndex
from training.streaming.loader import LoadedBatch
from training.streaming.order import Sample
from training.streaming.reading import SampleReader

logger = logging.getLogger(__name__)

MAX_CACHED_CAPTIONS = 4096
"""Text features kept in memory; a caption of 40 MiniLM tokens takes about 60 kB."""
FITTED_AUTOENCODERS = ("patch_pca", "conv")
FIT_SAMPLE = {"patch_pca": (48, 4), "conv": (128, 12)}
"""Clips, and frames of each, that a fit looks at; at 256x256 px those of `conv` take 300 MB."""

FitCallback = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


@dataclass(frozen=True)
class FrozenEncoders:
    """The two encoders of a run, and the features of the empty caption."""

    autoencoder: Autoencoder
    text: TextEncoder
    null_text: TextFeatures


def load_encoders(
    config: TrainConfig, autoencoder_path: Path, device: torch.device
) -> FrozenEncoders:
    """Build the encoders that the config names; `autoencoder_path` holds the fitted autoencoder.

    Raises:
        TrainError: an encoder has other widths than the network was configured for, or another factor
            of pixels to latents than the configuration supports.
    """
    autoencoder = _autoencoder(config.encoders, autoencoder_path, device)
    text = _text_encoder(config.encoders, device)
    found = (autoencoder.latent_channels, text.text_width, text.pooled_text_width)
    model = config.model
    expected = (model.latent_channels, model.text_width, model.pooled_text_width)
    if found != expected:
        raise TrainError(
            f"encoders {autoencoder.name} and {text.name} give (latent channels, text width, pooled "
            f"text width) {found}, the model is configured for {expected}; change one of the two"
        )
    if autoencoder.downsampling != LATENT_DOWNSAMPLING:
        raise TrainError(
            f"autoencoder {autoencoder.name} has {autoencoder.downsampling} px to a latent position, "
            f"training supports {LATENT_DOWNSAMPLING}; take another autoencoder_model"
        )
    return FrozenEncoders(autoencoder, text, text.encode([""]))


def fit_autoencoder(
    config: TrainConfig,
    index: SampleIndex,
    reader: SampleReader,
    path: Path,
    on_step: FitCallback | None = None,
) -> None:
    """Fit the autoencoder on frames spread over the shards and save it by a rename.

    On the CPU, also where the run has a GPU: there the same shards, settings and number of threads give
    the same file. The cost does not grow with the size of the frames. A clip that cannot be read is left out.

    Raises:
        DataError: none of the chosen clips can be read.
    """
    num_clips, num_frames = FIT_SAMPLE[config.encoders.autoencoder]
    order = torch.randperm(len(index), generator=generator_at(config.seed, "fit")).tolist()
    bucket = Bucket(1, config.data.height_px, config.data.width_px)
    chosen: list[torch.Tensor] = []
    for row in order[:num_clips]:
        clip = index.clip(row)
        places = torch.linspace(0, clip.num_frames - 1, num_frames).long().unique()
        try:
            chosen.append(torch.tensor(reader.frames(clip, places.tolist(), bucket)))
        except DataError as error:
            logger.warning("the autoencoder is fitted without %s: %s", clip.clip_id, error)
    if not chosen:
        raise DataError(f"none of {min(num_clips, len(index))} clips can be read; build them again")
    sample_NHWC = torch.cat(chosen)
    channels = config.model.latent_channels
    if config.encoders.autoencoder == "patch_pca":
        PatchPCA.fit(sample_NHWC, latent_channels=channels, seed=config.seed).save(path)
        return
    fitted = ConvAutoencoder.fit(
        sample_NHWC,
        latent_channels=channels,
        settings=config.encoders.conv,
        seed=config.seed,
        on_step=on_step,
    )
    fitted.save(path)


class BatchEncoder:
    """What was loaded to batches on a device. Text features are kept, since captions return every epoch."""

    def __init__(self, encoders: FrozenEncoders, device: torch.device) -> None:
        self._encoders = encoders
        self._device = device
        self._text_of: dict[str, TextFeatures] = {}

    def encode(self, loaded: LoadedBatch) -> TrainBatch:
        """Encode what is not encoded yet; in a `stiv` stage some latent frames are given."""
        latents = self._latents(loaded)
        conditions = Conditions(
            text=self._texts(loaded),
            micro=_micro_conditions(loaded.samples, loaded.bucket),
            given_BF=torch.tensor([sample.given for sample in loaded.samples]),
            given_latents_BCFHW=latents,
        )
        return TrainBatch(latents, conditions).to(self._device)

    def _latents(self, loaded: LoadedBatch) -> torch.Tensor:
        """In the order of the samples, of which some may be encoded before and some now."""
        parts: list[torch.Tensor] = []
        places: list[int] = []
        if loaded.frames_NFHWC is not None:
            parts.append(self._encoders.autoencoder.encode(loaded.frames_NFHWC.to(self._device)))
            places += [i for i, s in enumerate(loaded.samples) if s.clip.media != "latents"]
        if loaded.latents_NFCHW is not None:
            parts.append(loaded.latents_NFCHW.to(self._device).float().transpose(1, 2))
            places += [i for i, s in enumerate(loaded.samples) if s.clip.media == "latents"]
        together = torch.cat(parts)
        if places == sorted(places):
            return together
        return together[torch.tensor(places, device=together.device).argsort()]

    def _texts(self, loaded: LoadedBatch) -> TextFeatures:
        """In the order of the samples, too; on the CPU."""
        if loaded.texts is None:
            return concatenate_text([self._text(sample.caption) for sample in loaded.samples])
        found = loaded.texts.padded()
        if len(loaded.texts.lengths) == len(loaded.samples):
            return found
        rows = iter(
            TextFeatures(found.tokens_BLD[[i]], found.mask_BL[[i]], found.pooled_BD[[i]])
            for i in range(len(loaded.texts.lengths))
        )
        return concatenate_text(
            [
                next(rows) if sample.clip.media == "latents" else self._text(sample.caption)
                for sample in loaded.samples
            ]
        )

    def _text(self, caption: str) -> TextFeatures:
        features = self._text_of.get(caption)
        if features is None:
            features = self._encoders.text.encode([caption]).to("cpu")
            if len(self._text_of) < MAX_CACHED_CAPTIONS:
                self._text_of[caption] = features
        return features


def _micro_conditions(samples: Sequence[Sample], bucket: Bucket) -> MicroConditions:
    facts = [
        micro_conditions(
            (sample.clip.original_height_px, sample.clip.original_width_px),
            (bucket.height_px, bucket.width_px),
            stride=sample.stride,
            num_frames=bucket.num_frames,
            crop=sample.crop,
        )
        for sample in samples
    ]
    return MicroConditions(
        original_size_B2=torch.cat([fact.original_size_B2 for fact in facts]),
        crop_top_left_B2=torch.cat([fact.crop_top_left_B2 for fact in facts]),
        sampling_stride_B=torch.cat([fact.sampling_stride_B for fact in facts]),
        num_frames_B=torch.cat([fact.num_frames_B for fact in facts]),
    )


def micro_conditions(
    original_px: tuple[int, int],
    trained_px: tuple[int, int],
    *,
    stride: int,
    num_frames: int,
    crop: tuple[float, float] | None = None,
) -> MicroConditions:
    """A batch of one (STIV section 2.1), from (height, width) of the source and of the training frames."""
    fit = fit_to_cover(original_px, trained_px, crop)
    return MicroConditions(
        original_size_B2=torch.tensor([original_px], dtype=torch.float32),
        crop_top_left_B2=torch.tensor([[fit.top_px, fit.left_px]], dtype=torch.float32),
        sampling_stride_B=torch.tensor([float(stride)]),
        num_frames_B=torch.tensor([float(num_frames)]),
    )


def _autoencoder(config: EncoderConfig, path: Path, device: torch.device) -> Autoencoder:
    if config.autoencoder in FITTED_AUTOENCODERS:
        if not path.exists():
            raise DataError(f"{path} is missing; the run was not prepared, start it again")
        return AUTOENCODERS[config.autoencoder](str(path))
    assert config.autoencoder_model is not None, "the config checks this"
    return KLAutoencoder(config.autoencoder_model, config.kl, device=device)


def _text_encoder(config: EncoderConfig, device: torch.device) -> TextEncoder:
    if config.text_encoder == "minilm":
        return MiniLMTextEncoder(device=device)
    if config.text_encoder == "class_labels":
        return ClassLabelEncoder(config.class_names, device=device)
    assert config.text_encoder_model is not None, "the config checks this"
    if config.text_encoder == "t5":
        return T5TextEncoder(config.text_encoder_model, device=device)
    return OpenCLIPTextEncoder(
        config.text_encoder_model, config.text_encoder_weights, device=device
    )
