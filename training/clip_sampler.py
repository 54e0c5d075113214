"""One finished stage of a run, loaded once, that makes clips from a prompt and from frames that are given."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
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
from training.encoders import FrozenEncoders, micro_conditions
from training.errors import GenerateError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory, StageResult
from training.trained_shapes import TrainedShape

IDENTICAL_PSNR_DB = 100.0
"""Reported for equal frames, whose ratio is infinite and has no place in JSON."""

StepCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What a clip is to show, and how it is sampled."""

    prompt: str
    negative_prompt: str = ""
    """Takes the place of the empty text in guidance."""
    cut_prompt: bool = False
    """Cut a text that is too long for the text encoder, which is refused otherwise."""
    shape: TrainedShape
    given: Mapping[int, Tensor]
    """Frames (uint8, height x width x RGB, of the size of the shape) by their place in the clip."""
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
    """The averaged weights of a stage, beside the encoders of its run.

    Raises:
        GenerateError: the GPU has too little memory for the model.
        CheckpointError: the checkpoint is missing or damaged.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        stage: StageResult,
        encoders: FrozenEncoders,
        device: torch.device,
    ) -> None:
        self.config = config
        self.stage = stage
        self._device = device
        self._encoders = encoders
        weights = load_average(run.path / stage.checkpoint)
        with memory_advice("the model", "hide the GPU with CUDA_VISIBLE_DEVICES="):
            model = STIV(config.model_of(stage.stage))
            model.load_state_dict(weights)
            self._model = model.to(device).eval()

    def sample(self, request: ClipRequest, on_step: StepCallback | None = None) -> SampledClip:
        """On the CPU the same request gives the same frames. `on_step` gets (steps done, steps in all).

        Raises:
            GenerateError: a text is too long, or there is too little memory.
        """
        text = self._text(request.prompt, request)
        null_text = self._encoders.null_text.to(self._device)
        if request.negative_prompt:
            null_text = self._text(request.negative_prompt, request)
        advice = (
            "close other programs that use it, ask for fewer frames or a smaller size that was trained, take another "
            "stage, or (on a GPU) hide it with CUDA_VISIBLE_DEVICES="
        )
        with memory_advice(str(request.shape), advice):
            return self._sample(request, text, null_text, on_step)

    def _sample(
        self,
        request: ClipRequest,
        text: TextFeatures,
        null_text: TextFeatures,
        on_step: StepCallback | None,
    ) -> SampledClip:
        places = sorted(request.given)
        given = None
        if places:
            frames = torch.stack([request.given[place] for place in places])[None]
            given = self._encoders.autoencoder.encode(frames.to(self._device))
        conditions = self._conditions(request.shape, text, places, given)
        noise = torch.randn(
            conditions.given_latents_BCFHW.shape, generator=generator_at(request.seed, "sample")
        )
        task = SamplingTask(
            model=self._model,
            conditions=conditions.to(self._device),
            null_text=null_text,
            noise_BCFHW=noise.to(self._device),
            sampler=request.sampler,
            guidance=request.guidance,
            contract=self._model.config.contract,
        )
        of_solver = torch.Generator(self._device).manual_seed(derive_seed(request.seed, "solver"))
        latents = sample(task, of_solver, on_step)
        frames_BFHWC = self._encoders.autoencoder.decode(latents).cpu()
        psnr_db = None
        if given is not None:
            reconstruction = self._encoders.autoencoder.decode(given).cpu()
            psnr_db = min(psnr(frames_BFHWC[:, places], reconstruction), IDENTICAL_PSNR_DB)
        return SampledClip(frames_BFHWC[0], psnr_db)

    def _text(self, prompt: str, request: ClipRequest) -> TextFeatures:
        encoder = self._encoders.text
        num_tokens = encoder.num_tokens(prompt)
        if num_tokens > encoder.max_text_tokens and not request.cut_prompt:
            raise GenerateError(
                f"the prompt '{prompt[:40]}...' has {num_tokens} tokens, text encoder {encoder.name} reads "
                f"{encoder.max_text_tokens}; shorten it, or have it cut as captions are in training (--cut-prompt)"
            )
        return encoder.encode([prompt]).to(self._device)

    def _conditions(
        self,
        shape: TrainedShape,
        text: TextFeatures,
        places: list[int],
        given_1CFHW: Tensor | None,
    ) -> Conditions:
        """Of one clip; given frames become latent frames at their places (STIV section 2.3.1)."""
        rows, columns = (side // LATENT_DOWNSAMPLING for side in (shape.height_px, shape.width_px))
        channels = self.config.model.latent_channels
        latents = torch.zeros(1, channels, shape.num_frames, rows, columns)
        given_BF = torch.zeros(1, shape.num_frames, dtype=torch.bool)
        if given_1CFHW is not None:
            latents[:, :, places] = given_1CFHW.cpu()
            given_BF[:, places] = True
        return Conditions(
            text=text.to("cpu"),
            micro=micro_conditions(
                (self.stage.original_height_px, self.stage.original_width_px),
                (shape.height_px, shape.width_px),
                stride=self.config.data_of(self.stage.stage).sampling_stride,
                num_frames=shape.num_frames,
            ),
            given_BF=given_BF,
            given_latents_BCFHW=latents,
        )


@contextmanager
def memory_advice(what: str, advice: str) -> Generator[None]:
    """Turns a lack of memory within the block into one line.

    Raises:
        GenerateError: the GPU, or the machine, has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GenerateError(f"the GPU has too little memory for {what}; {advice}") from error
    except RuntimeError as error:
        # The CPU has no class of its own for this.
        if "can't allocate memory" not in str(error):
            raise
        raise GenerateError(f"this machine has too little memory for {what}; {advice}") from error
