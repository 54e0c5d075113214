"""What generation writes: a video, GIF or contact sheet, with the settings that made it inside and beside it."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.camera_grid import camera_grid
from training.checkpoint import write_json
from training.errors import GenerateError
from training.generate_request import GenerateTask
from training.streaming.decode import FramesFHWC
from training.video_file import enlarge, save_png, write_contact_sheet, write_gif, write_video

FORMATS = (".mp4", ".gif", ".png")
_PATHS = ("video", "contact_sheet", "given")


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """Where the files are and what made them."""

    task: GenerateTask
    video: Path
    """An mp4 or a GIF; or a PNG, the contact sheet alone."""
    contact_sheet: Path
    model: str
    """Name of the recipe."""
    stage: str
    checkpoint: str
    height_px: int
    """That was sampled; small frames are shown larger."""
    width_px: int
    num_frames: int
    fps: float
    prompt: str
    negative_prompt: str
    cut_prompt: bool
    given: Path | None
    """The image or video that was given."""
    given_sha256: str | None
    weights_sha256: str
    """Of the checkpoint's `state.json`, which names the hash of every tensor file."""
    seed: int
    solver: str
    num_sampling_steps: int
    guidance_scheme: str
    guidance_scale: float
    image_guidance_scale: float | None
    """None where the scheme reads none."""
    given_psnr_db: float | None
    """The given frames against the autoencoder's reconstruction of what was given; None where nothing was."""

    @property
    def facts(self) -> dict[str, Any]:
        """All of it but for where files lie, which is nobody's business who gets the video."""
        return {key: value for key, value in asdict(self).items() if key not in _PATHS}


def check_out(path: Path) -> None:
    """Raises:
    GenerateError: the name says no format that is written.
    """
    if path.suffix not in FORMATS:
        raise GenerateError(
            f"--out {path} does not end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, which are written"
        )


def sheet_of(out: Path) -> Path:
    """The contact sheet beside a video, or the PNG itself."""
    return out if out.suffix == ".png" else out.with_suffix(".frames.png")


def write_result(result: GenerateResult, frames_FHWC: Tensor) -> None:
    """The video, its contact sheet and its settings; the settings are in the other files as well."""
    result.video.parent.mkdir(parents=True, exist_ok=True)
    settings = settings_file(result.video)
    # Gone first and back last: they vouch for the files beside them.
    settings.unlink(missing_ok=True)
    shown, comment = enlarge(np.asarray(frames_FHWC)), json.dumps(result.facts)
    if result.video.suffix == ".mp4":
        write_video(shown, result.video, result.fps, comment)
    elif result.video.suffix == ".gif":
        write_gif(shown, result.video, result.fps, comment)
    _write_sheet(result, shown, comment)
    write_json(settings, _plain(result))


def already_made(planned: GenerateResult) -> GenerateResult | None:
    """The result on disk, if it is what `planned` would make and its files are there."""
    settings = settings_file(planned.video)
    if not (settings.exists() and planned.video.exists() and planned.contact_sheet.exists()):
        return None
    try:
        found: dict[str, Any] = json.loads(settings.read_bytes())
    except ValueError:
        return None
    made = replace(planned, given_psnr_db=found.get("given_psnr_db"))
    same = {key: value for key, value in found.items() if key not in _PATHS} == made.facts
    return made if same else None


def settings_file(video: Path) -> Path:
    return video.with_suffix(".settings.json")


def _write_sheet(result: GenerateResult, shown: FramesFHWC, comment: str) -> None:
    if result.task == "multi_view":
        save_png(camera_grid(shown), result.contact_sheet, comment)
        return
    write_contact_sheet(shown, result.contact_sheet, comment)


def _plain(result: GenerateResult) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(result).items()
    }
