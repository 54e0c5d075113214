"""PatchPCA and ConvAutoencoder on frames that neither has seen: PSNR, SSIM, the cost of a fit, a picture.

    OMP_NUM_THREADS=1 python -m benchmarks.autoencoders --dataset demo/datasets/samples --picture autoencoders.jpg

The data set is the one that `make demo` curates. Fitted are the clips of the first 384 s of Big Buck Bunny, where no
shot crosses, and `carphone`; unseen are its later clips, and the source `bikes` as a whole.
"""

import argparse
import json
import platform
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from modeling.conv_autoencoder import ConvAutoencoder
from modeling.frames import psnr
from modeling.patch_pca import PatchPCA
from training.streaming.decode import decode_frames

Fitted = PatchPCA | ConvAutoencoder

FITTED_UNTIL_S = 384.0
FITTED_FRAMES_PER_CLIP = 12
UNSEEN_FRAMES_PER_CLIP = 4
NUM_SHOWN = 6
ENLARGED = 2


@dataclass(frozen=True)
class Frames:
    """uint8 frames (N, H, W, 3)."""

    fitted: Tensor
    film: Tensor
    bikes: Tensor


@dataclass(frozen=True)
class Row:
    name: str
    channels: int
    fit_s: float
    cpu_s: float
    quality: Sequence[tuple[float, float]]
    """PSNR in dB and SSIM on film and bikes."""
    deviations: tuple[float, float]
    """Smallest and largest standard deviation of a channel over the fitted frames."""


def read_frames(dataset: Path, height_px: int, width_px: int) -> Frames:
    fitted: list[Tensor] = []
    film: list[Tensor] = []
    bikes: list[Tensor] = []
    for record, video in _clips(dataset):
        source = Path(record["source_uri"]).stem
        if source == "big_buck_bunny_excerpt":
            continue
        unseen = source == "bikes" or record["start_s"] >= FITTED_UNTIL_S
        count = UNSEEN_FRAMES_PER_CLIP if unseen else FITTED_FRAMES_PER_CLIP
        places = np.unique(np.linspace(0, record["num_frames"] - 1, count).astype(int)).tolist()
        frames = torch.from_numpy(decode_frames(video, places, (height_px, width_px)))
        (bikes if source == "bikes" else film if unseen else fitted).append(frames)
    return Frames(torch.cat(fitted), torch.cat(film), torch.cat(bikes))


def _clips(dataset: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    for path in sorted((dataset / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in sorted(tar.getnames()):
                if name.endswith(".json"):
                    yield json.loads(_read(tar, name)), _read(tar, name[:-5] + ".mp4")


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def measure(name: str, channels: int, frames: Frames) -> tuple[Row, Fitted]:
    wall, cpu = time.perf_counter(), time.process_time()
    fit = PatchPCA.fit if name == PatchPCA.name else ConvAutoencoder.fit
    fitted = fit(frames.fitted, latent_channels=channels)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    quality: list[tuple[float, float]] = []
    for unseen in (frames.film, frames.bikes):
        decoded = reconstruct(fitted, unseen)
        quality.append((psnr(decoded, unseen), _ssim(decoded, unseen)))
    deviations = fitted.encode(frames.fitted[None])[0].flatten(1).std(1)
    spread = (float(deviations.min()), float(deviations.max()))
    return Row(name, channels, wall, cpu, quality, spread), fitted


def reconstruct(fitted: Fitted, frames: Tensor) -> Tensor:
    return fitted.decode(fitted.encode(frames[None]))[0]


def _ssim(frames: Tensor, other: Tensor) -> float:
    pairs = zip(frames.numpy(), other.numpy(), strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=2) for a, b in pairs]))


def write_picture(path: Path, frames: Frames, shown: Sequence[Fitted]) -> None:
    """Rows: the original, then each autoencoder. Of the film only, whose licence lets it be shown."""
    originals = frames.film[torch.linspace(0, len(frames.film) - 1, NUM_SHOWN).long()]
    rows = [originals, *(reconstruct(fitted, originals) for fitted in shown)]
    sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows]).numpy()
    image = Image.fromarray(sheet)
    size = (image.width * ENLARGED, image.height * ENLARGED)
    image.resize(size, Image.Resampling.NEAREST).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 112), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--channels", type=int, nargs="+", default=(4, 8, 16))
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    frames = read_frames(args.dataset, *args.size)
    counts = (
        f"{len(frames.fitted)} frames fitted, unseen {len(frames.film)} and {len(frames.bikes)}"
    )
    print(
        f"{counts}; {args.size[0]}x{args.size[1]} px; {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}; {platform.machine()}\n"
    )
    print(
        "| channels | autoencoder | film dB | SSIM | bikes dB | SSIM | fit s | CPU s | deviations |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    shown: list[Fitted] = []
    for channels in args.channels:
        for name in (PatchPCA.name, ConvAutoencoder.name):
            row, fitted = measure(name, channels, frames)
            quality = " | ".join(f"{db:.2f} | {ssim:.3f}" for db, ssim in row.quality)
            spread = " to ".join(f"{value:.2f}" for value in row.deviations)
            print(
                f"| {channels} | `{name}` | {quality} | {row.fit_s:.0f} | {row.cpu_s:.0f} | {spread} |",
                flush=True,
            )
            if channels in (min(args.channels), max(args.channels)):
                shown.append(fitted)
    if args.picture is not None:
        write_picture(args.picture, frames, shown)


if __name__ == "__main__":
    main()
