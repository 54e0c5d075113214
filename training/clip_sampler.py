"""One stage of a run, loaded once, that makes clips from a prompt and from frames that are given."""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.conditioning import Conditions, TextFeatures, concatenate_conditions
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.frames import psnr
from modeling.sampler import SamplingTask, sample
from modeling.stiv import STIV
from training.checkpoint import load_average
from training.config import LATENT_DOWNSAMPLING, TrainConfig
from training.encoders import FrozenEncoders, micro_conditions
from training.errors import GenerateError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory, StageModel
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

    @property
    def kind(self) -> Hashable:
        """Equal for clips that can be sampled in one batch."""
        given, settings = tuple(sorted(self.given)), (self.sampler, self.guidance)
        return self.shape, given, settings, self.negative_prompt, self.cut_prompt


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
        stage: StageModel,
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
            GenerateError: a text is too long, there is too little memory, or the result holds no finite numbers.
        """
        return self.sample_together([request], on_step)[0]

    def sample_together(
        self, requests: Sequence[ClipRequest], on_step: StepCallback | None = None
    ) -> list[SampledClip]:
        """One batch of clips of equal `kind`, in their order; each has the noise that it would have alone.

        Raises:
            GenerateError: as `sample`.
        """
        first, texts = requests[0], [self.text_of(request) for request in requests]
        assert all(request.kind == first.kind for request in requests)
        null_text = self._encoders.null_text.to(self._device)
        if first.negative_prompt:
            null_text = self._text(first.negative_prompt, cut=first.cut_prompt)
        advice = (
            "close other programs that use it, ask for fewer frames or a smaller size that was trained, take another "
            "stage, or (on a GPU) hide it with CUDA_VISIBLE_DEVICES="
        )
        what = str(first.shape)
        if len(requests) > 1:
            what, advice = (
                f"{len(requests)} clips of {what}",
                f"take a smaller --batch-size, {advice}",
            )
        with memory_advice(what, advice):
            return self._sample(requests, texts, null_text, on_step)

    def text_of(self, request: ClipRequest) -> TextFeatures:
        """The encoded prompt.

        Raises:
            GenerateError: it is too long.
        """
        return self._text(request.prompt, cut=request.cut_prompt)

    def _sample(
        self,
        requests: Sequence[ClipRequest],
        texts: Sequence[TextFeatures],
        null_text: TextFeatures,
        on_step: StepCallback | None,
    ) -> list[SampledClip]:
        first = requests[0]
        places = sorted(first.given)
        given = None
        if places:
            clips = [torch.stack([one.given[place] for place in places]) for one in requests]
            given = self._encoders.autoencoder.encode(torch.stack(clips).to(self._device))
        conditions = concatenate_conditions(
            [
                self._conditions(first.shape, text, places, None if given is None else given[[row]])
                for row, text in enumerate(texts)
            ]
        )
        shape = conditions.given_latents_BCFHW.shape[1:]
        noise = [torch.randn(shape, generator=generator_at(one.seed, "sample")) for one in requests]
        task = SamplingTask(
            model=self._model,
            conditions=conditions.to(self._device),
            null_text=null_text,
            noise_BCFHW=torch.stack(noise).to(self._device),
            sampler=first.sampler,
            guidance=first.guidance,
            contract=self._model.config.contract,
        )
        of_solver = torch.Generator(self._device).manual_seed(derive_seed(first.seed, "solver"))
        latents = sample(task, of_solver, on_step)
        if not bool(latents.isfinite().all()):
            raise GenerateError(
                "sampling ended in values that are no finite numbers; take a smaller guidance scale, or another checkpoint"
            )
        frames_BFHWC = self._encoders.autoencoder.decode(latents).cpu()
        if given is None:
            return [SampledClip(frames_FHWC, None) for frames_FHWC in frames_BFHWC]
        known_BFHWC = self._encoders.autoencoder.decode(given).cpu()
        return [
            SampledClip(made, min(psnr(made[places], known), IDENTICAL_PSNR_DB))
            for made, known in zip(frames_BFHWC, known_BFHWC, strict=True)
        ]

    def _text(self, prompt: str, *, cut: bool) -> TextFeatures:
        encoder = self._encoders.text
        num_tokens = encoder.num_tokens(prompt)
        if num_tokens > encoder.max_text_tokens and not cut:
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
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for this.
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise GenerateError(f"this machine has too little memory for {what}; {advice}") from error
