"""A prompt, and perhaps an image, to a video file, from the averaged weights of a run."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from modeling.conditioning import Conditions, TextFeatures
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.frames import psnr
from modeling.sampler import SamplingTask, sample
from modeling.stiv import STIV
from training.checkpoint import STATE_NAME, file_sha256, load_average, write_json
from training.config import LATENT_DOWNSAMPLING, TrainConfig
from training.encoders import load_encoders, micro_conditions
from training.errors import GenerateError
from training.randomness import derive_seed, generator_at
from training.run_directory import RunDirectory, StageResult
from training.streaming.decode import fit_to_cover
from training.video_file import enlarge, write_contact_sheet, write_video

IDENTICAL_PSNR_DB = 100.0
"""Reported for equal frames, whose ratio is infinite and has no place in JSON."""


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """Where the files are and what made them."""

    task: Literal["t2v", "ti2v"]
    video: Path
    contact_sheet: Path
    stage: str
    num_frames: int
    fps: float
    prompt: str
    image: Path | None
    image_sha256: str | None
    weights_sha256: str
    """Of the checkpoint's `state.json`, which names the hash of every tensor file."""
    seed: int
    solver: str
    num_sampling_steps: int
    guidance_scheme: str
    guidance_scale: float
    first_frame_psnr_db: float | None
    """First frame against the autoencoder's reconstruction of the image; None without an image. It
    shows that the image went through the sampler unchanged."""


def generate(  # noqa: PLR0913  (a user may set each of these)
    run_dir: Path,
    prompt: str,
    out_path: Path,
    *,
    image_path: Path | None = None,
    stage: str | None = None,
    seed: int = 0,
    num_sampling_steps: int | None = None,
    guidance_scale: float | None = None,
    reuse: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Write `out_path` (NAME.mp4), and beside it NAME.frames.png, a contact sheet, and NAME.settings.json.

    The last finished video stage is used unless `stage` names another; settings left out are those of the recipe. On the CPU the
    same arguments give the same frames. With `reuse`, files that the same weights, settings and image
    made are left as they are. `on_step` gets (steps done, steps in all).

    Raises:
        GenerateError: there is no run, a setting is out of range, `out_path` is no mp4, the image is
            unreadable, or no finished stage can do the task.
        TrainError, CheckpointError: the run is damaged or of another version.
    """
    if out_path.suffix != ".mp4":
        raise GenerateError(f"--out {out_path} does not end in .mp4, which is what is written")
    run = RunDirectory(run_dir)
    if not run.config.exists():
        raise GenerateError(f"{run_dir} holds no run; train first, or give the folder of a run")
    config = run.load_config()
    chosen = _finished_stage(config, run, stage, needs_image=image_path is not None)
    sampler, guidance = _settings(config, num_sampling_steps, guidance_scale)
    image = (
        None
        if image_path is None
        else read_image(image_path, config.data_of(chosen.stage).sizes[0])
    )

    planned = GenerateResult(
        task="t2v" if image_path is None else "ti2v",
        video=out_path,
        contact_sheet=out_path.with_suffix(".frames.png"),
        stage=chosen.stage,
        num_frames=config.stages[chosen.stage].num_frames,
        fps=chosen.playback_fps,
        prompt=prompt,
        image=image_path,
        image_sha256=None if image_path is None else file_sha256(image_path),
        weights_sha256=file_sha256(run.path / chosen.checkpoint / STATE_NAME),
        seed=seed,
        solver=sampler.solver,
        num_sampling_steps=sampler.num_sampling_steps,
        guidance_scheme=guidance.scheme,
        guidance_scale=guidance.text_scale,
        first_frame_psnr_db=None,
    )
    if reuse and (made := _already_made(planned)):
        return made

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders = load_encoders(config, run.autoencoder, device)
    image_latents = None if image is None else encoders.autoencoder.encode(image.to(device))
    conditions = _conditions(config, chosen, encoders.text.encode([prompt]), image_latents)
    shape = conditions.given_latents_BCFHW.shape
    model = _load_model(config, run, chosen, device)
    task = SamplingTask(
        model=model,
        conditions=conditions.to(device),
        null_text=encoders.null_text.to(device),
        noise_BCFHW=torch.randn(shape, generator=generator_at(seed, "sample")).to(device),
        sampler=sampler,
        guidance=guidance,
        contract=model.config.contract,
    )
    of_solver = torch.Generator(device).manual_seed(derive_seed(seed, "solver"))
    latents = sample(task, of_solver, on_step)
    frames_BFHWC = encoders.autoencoder.decode(latents).cpu()
    first_frame_psnr_db = None
    if image_latents is not None:
        reconstruction = encoders.autoencoder.decode(image_latents).cpu()
        first_frame_psnr_db = min(psnr(frames_BFHWC[:, :1], reconstruction), IDENTICAL_PSNR_DB)

    result = replace(planned, first_frame_psnr_db=first_frame_psnr_db)
    _write(result, frames_BFHWC[0])
    return result


def _conditions(
    config: TrainConfig, stage: StageResult, text: TextFeatures, image_latents: Tensor | None
) -> Conditions:
    """Conditions of one clip; an image becomes its first latent frame (STIV section 2.3.1)."""
    num_frames = config.stages[stage.stage].num_frames
    data = config.data_of(stage.stage)
    size_px = data.sizes[0]
    rows, columns = (size // LATENT_DOWNSAMPLING for size in size_px)
    original_px = (stage.original_height_px, stage.original_width_px)
    given_latents = torch.zeros(1, config.model.latent_channels, num_frames, rows, columns)
    given_BF = torch.zeros(1, num_frames, dtype=torch.bool)
    if image_latents is not None:
        given_latents[:, :, :1] = image_latents.cpu()
        given_BF[:, 0] = True
    return Conditions(
        text=text,
        micro=micro_conditions(
            original_px,
            size_px,
            stride=data.sampling_stride,
            num_frames=num_frames,
        ),
        given_BF=given_BF,
        given_latents_BCFHW=given_latents,
    )


def read_image(path: Path, size_px: tuple[int, int]) -> Tensor:
    """An image file as one frame of (height, width) (uint8, 1 x 1 x height x width x RGB).

    Raises:
        GenerateError: the file is missing or not an image.
    """
    height_px, width_px = size_px
    try:
        with Image.open(path) as opened:
            # A phone stores a portrait as a landscape and a note to turn it.
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError as error:
        raise GenerateError(
            f"image {path} does not exist; give the path of a PNG or JPEG"
        ) from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise GenerateError(
            f"{path} cannot be read as an image ({error}); give a PNG or JPEG"
        ) from error
    fit = fit_to_cover((image.height, image.width), (height_px, width_px))
    size = (fit.resized_width_px, fit.resized_height_px)
    box = (fit.left_px, fit.top_px, fit.left_px + width_px, fit.top_px + height_px)
    frame = np.array(image.resize(size, Image.Resampling.BICUBIC).crop(box))
    return torch.from_numpy(frame)[None, None]


def _finished_stage(
    config: TrainConfig, run: RunDirectory, name: str | None, *, needs_image: bool
) -> StageResult:
    if name is not None and name not in config.stages:
        raise GenerateError(
            f"{run.path} has no stage {name}; its stages are {', '.join(config.stages)}"
        )
    results = [run.stage(stage).result() for stage in config.stages]
    finished = [result for result in results if result is not None]
    videos = [r for r in finished if r.task != "t2i" and name in (None, r.stage)]
    if not videos:
        done = ", ".join(result.stage for result in finished) or "none"
        wanted = "video stage" if name is None else f"video stage {name}"
        raise GenerateError(
            f"{run.path} has no finished {wanted} (finished: {done}); resume the run first"
        )
    if needs_image and videos[-1].task != "stiv":
        raise GenerateError(
            f"the last finished stage of {run.path} is {videos[-1].stage}, which was not trained on a "
            "given image; finish a stiv stage, or leave the image out"
        )
    return videos[-1]


def _settings(
    config: TrainConfig, num_sampling_steps: int | None, guidance_scale: float | None
) -> tuple[SamplerConfig, GuidanceConfig]:
    sampler, guidance = config.sampler, config.guidance
    if num_sampling_steps is not None:
        if num_sampling_steps < 1:
            raise GenerateError(
                f"num_sampling_steps is {num_sampling_steps}, it must be at least 1"
            )
        sampler = sampler.model_copy(update={"num_sampling_steps": num_sampling_steps})
    if guidance_scale is not None:
        if guidance_scale < 0:
            raise GenerateError(f"guidance_scale is {guidance_scale}, it must not be negative")
        guidance = guidance.model_copy(update={"text_scale": guidance_scale})
    return sampler, guidance


def _load_model(
    config: TrainConfig, run: RunDirectory, stage: StageResult, device: torch.device
) -> STIV:
    model = STIV(config.model_of(stage.stage))
    model.load_state_dict(load_average(run.path / stage.checkpoint))
    return model.to(device).eval()


def _settings_file(video: Path) -> Path:
    return video.with_suffix(".settings.json")


def _already_made(planned: GenerateResult) -> GenerateResult | None:
    """The result on disk, if it is what `planned` would make and its files are there."""
    settings = _settings_file(planned.video)
    if not (settings.exists() and planned.video.exists() and planned.contact_sheet.exists()):
        return None
    try:
        found = json.loads(settings.read_bytes())
    except ValueError:
        return None
    psnr_db = found.get("first_frame_psnr_db")
    made = replace(planned, first_frame_psnr_db=psnr_db)
    return made if found == _plain(made) else None


def _write(result: GenerateResult, frames_FHWC: Tensor) -> None:
    result.video.parent.mkdir(parents=True, exist_ok=True)
    settings = _settings_file(result.video)
    # Gone first and back last: they vouch for the files beside them.
    settings.unlink(missing_ok=True)
    shown = enlarge(frames_FHWC.numpy())
    write_video(shown, result.video, result.fps)
    write_contact_sheet(shown, result.contact_sheet)
    write_json(settings, _plain(result))


def _plain(result: GenerateResult) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(result).items()
    }
