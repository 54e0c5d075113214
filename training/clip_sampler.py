"""One finished stage of a run, loaded once, that makes clips from a prompt and from frames that are given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.conditioning import Conditions, TextFeatures
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.frames import psnr
from modeling.sampler import SamplingTask, sample
from modeling.stiv import STIV
from training.checkpoint import load_average
from training.config import LATENT_DOWNSAMPLING, TrainConfig
from training.encoders import load_encoders, micro_conditions
from training.errors import GenerateError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory, StageResult

IDENTICAL_PSNR_DB = 100.0
"""Reported for equal frames, whose ratio is infinite and has no place in JSON."""

StepCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What a clip is to show, and how it is sampled."""

    prompt: str
    negative_prompt: str = ""
    """Takes the place of the empty text in guidance."""
    given: Mapping[int, Tensor]
    """Frames (uint8, height x width x RGB, at the size of the stage) by their place in the clip."""
    seed: int
    sampler: SamplerConfig
    guidance: GuidanceConfig


@dataclass(frozen=True)
class SampledClip:
    frames_FHWC: Tensor
    """uint8, RGB."""
    given_psnr_db: float | None
    """The given frames against the autoencoder's reconstruction of what was given; None where nothing was. It shows
    that they went through the sampler unchanged."""


class ClipSampler:
    """The averaged weights of a stage with the encoders of its run."""

    def __init__(self, config: TrainConfig, run: RunDirectory, stage: StageResult) -> None:
        self.config = config
        self.stage = stage
        self.num_frames = config.stages[stage.stage].num_frames
        self.size_px = config.data_of(stage.stage).sizes[0]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoders = load_encoders(config, run.autoencoder, self._device)
        model = STIV(config.model_of(stage.stage))
        model.load_state_dict(load_average(run.path / stage.checkpoint))
        self._model = model.to(self._device).eval()

    def sample(self, request: ClipRequest, on_step: StepCallback | None = None) -> SampledClip:
        """On the CPU the same request gives the same frames. `on_step` gets (steps done, steps in all).

        Raises:
            GenerateError: the GPU has too little memory.
        """
        places = sorted(request.given)
        given = None
        if places:
            frames = torch.stack([request.given[place] for place in places])[None]
            given = self._encoders.autoencoder.encode(frames.to(self._device))
        conditions = self._conditions(self._text(request.prompt), places, given)
        noise = torch.randn(
            conditions.given_latents_BCFHW.shape, generator=generator_at(request.seed, "sample")
        )
        task = SamplingTask(
            model=self._model,
            conditions=conditions.to(self._device),
            null_text=self._text(request.negative_prompt)
            if request.negative_prompt
            else self._encoders.null_text.to(self._device),
            noise_BCFHW=noise.to(self._device),
            sampler=request.sampler,
            guidance=request.guidance,
            contract=self._model.config.contract,
        )
        of_solver = torch.Generator(self._device).manual_seed(derive_seed(request.seed, "solver"))
        try:
            latents = sample(task, of_solver, on_step)
            frames_BFHWC = self._encoders.autoencoder.decode(latents).cpu()
        except torch.cuda.OutOfMemoryError as error:
            height_px, width_px = self.size_px
            raise GenerateError(
                f"the GPU has too little memory for {self.num_frames} frames of {height_px}x{width_px} px; close "
                "other programs on it, take a stage of smaller frames with --stage, or hide the GPU with "
                "CUDA_VISIBLE_DEVICES="
            ) from error
        psnr_db = None
        if given is not None:
            reconstruction = self._encoders.autoencoder.decode(given).cpu()
            psnr_db = min(psnr(frames_BFHWC[:, places], reconstruction), IDENTICAL_PSNR_DB)
        return SampledClip(frames_BFHWC[0], psnr_db)

    def _text(self, prompt: str) -> TextFeatures:
        return self._encoders.text.encode([prompt]).to(self._device)

    def _conditions(
        self, text: TextFeatures, places: list[int], given_1CFHW: Tensor | None
    ) -> Conditions:
        """Of one clip; given frames become latent frames at their places (STIV section 2.3.1)."""
        rows, columns = (side // LATENT_DOWNSAMPLING for side in self.size_px)
        channels = self.config.model.latent_channels
        latents = torch.zeros(1, channels, self.num_frames, rows, columns)
        given_BF = torch.zeros(1, self.num_frames, dtype=torch.bool)
        if given_1CFHW is not None:
            latents[:, :, places] = given_1CFHW.cpu()
            given_BF[:, places] = True
        return Conditions(
            text=text.to("cpu"),
            micro=micro_conditions(
                (self.stage.original_height_px, self.stage.original_width_px),
                self.size_px,
                stride=self.config.data_of(self.stage.stage).sampling_stride,
                num_frames=self.num_frames,
            ),
            given_BF=given_BF,
            given_latents_BCFHW=latents,
        )
