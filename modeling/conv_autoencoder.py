"""A small convolutional autoencoder that two CPU cores fit to the frames of a run in half a minute."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from modeling.errors import AutoencoderError
from modeling.frames import check_frames, check_latents, to_uint8, to_unit
from modeling.patch_pca import PatchPCA
from modeling.settings import ConvSettings
from modeling.weights_file import check_shapes, load_weights, save_weights

SIDE = PatchPCA.downsampling
MAX_PIXELS_IN_ONE_PASS = 2**21
"""Of the frames that are encoded at once; the activations take about 40 bytes for each pixel."""

StepCallback = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


class ConvAutoencoder:
    """PatchPCA with a convolutional correction on both sides, fitted on crops of frames.

    latents = PCA(frames) + f(frames); pixels = inverse PCA(latents) + g(latents). Both corrections start
    at zero, so a fit starts at the quality of PCA and the latents keep the sizes that PatchPCA gives
    them: zero mean, mean variance 1 over the channels, half whitened. The decoder sees the neighbours
    of a latent pixel, which removes the edges between patches. docs/log.md has what else was tried.
    """

    name = "conv"
    downsampling = SIDE

    def __init__(self, network: "_Network", settings: ConvSettings) -> None:
        self._network = network.requires_grad_(False).eval()
        self.settings = settings

    @property
    def latent_channels(self) -> int:
        return self._network.latent_channels

    @classmethod
    def fit(
        cls,
        frames_NHWC: Tensor,
        *,
        latent_channels: int = 16,
        settings: ConvSettings | None = None,
        seed: int = 0,
        on_step: StepCallback | None = None,
    ) -> "ConvAutoencoder":
        """Fit on uint8 frames, on their device; on the CPU the same frames, seed and number of threads
        give the same bytes.

        Raises:
            AutoencoderError: wrong type or size of frames, too few distinct patches, or a fit that
                diverged.
        """
        settings = settings or ConvSettings()
        check_frames(frames_NHWC[None], cls.downsampling)
        pca = PatchPCA.fit(frames_NHWC, latent_channels=latent_channels, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        # nn.Module draws its first weights from the global generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _Network(latent_channels, settings)
        network.start_from(pca)
        network = network.to(frames_NHWC.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
        for step in range(settings.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings.num_steps)
            pixels_BCHW = _crops(frames_NHWC, settings, generator)
            error = network.to_pixels(network.to_latents(pixels_BCHW)) - pixels_BCHW
            # Squared error for PSNR, absolute error for edges; about equal at 27 dB.
            loss = 2 * error.square().mean() + 0.5 * error.abs().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if on_step is not None:
                on_step(step + 1, settings.num_steps, loss.item())
        fitted = cls(network, settings)
        fitted._standardize(frames_NHWC)
        return fitted

    @torch.no_grad()
    def encode(self, frames_BFHWC: Tensor) -> Tensor:
        check_frames(frames_BFHWC, self.downsampling)
        batch, num_frames, height, width, _ = frames_BFHWC.shape
        network = self._network.to(frames_BFHWC.device)
        at_once = max(1, MAX_PIXELS_IN_ONE_PASS // (height * width))
        latents = [
            network.to_latents(_to_pixels(part))
            for part in frames_BFHWC.flatten(0, 1).split(at_once)
        ]
        latents_BFCHW = torch.cat(latents).unflatten(0, (batch, num_frames))
        return latents_BFCHW.transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        """One frame at a time: equal latents give equal pixels, whatever frames are beside them."""
        check_latents(latents_BCFHW, self.latent_channels)
        batch, _, num_frames = latents_BCFHW.shape[:3]
        network = self._network.to(latents_BCFHW.device)
        latents_XCHW = latents_BCFHW.float().transpose(1, 2).flatten(0, 1)
        frames = [to_uint8(network.to_pixels(one)) for one in latents_XCHW.split(1)]
        frames_XHWC = torch.cat(frames).permute(0, 2, 3, 1)
        return frames_XHWC.unflatten(0, (batch, num_frames)).contiguous()

    def save(self, path: Path) -> None:
        """Write weights and settings as safetensors, byte-identical for identical weights, by a rename."""
        settings = {"latent_channels": self.latent_channels, **self.settings.model_dump()}
        save_weights(self._network.state_dict(), path, self.name, json.dumps(settings))

    @classmethod
    def load(cls, path: Path) -> "ConvAutoencoder":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            AutoencoderError: the file is not safetensors, holds something else, or tensors that do not
                have the shapes of its settings.
        """
        tensors, text = load_weights(path, cls.name)
        try:
            stored = json.loads(text)
            latent_channels = int(stored.pop("latent_channels"))
            settings = ConvSettings.model_validate(stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            raise AutoencoderError(
                f"{path} states settings that this code cannot read ({reason}); fit it again"
            ) from error
        with torch.device("meta"):
            network = _Network(latent_channels, settings)
        expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        check_shapes(tensors, expected, path)
        network.load_state_dict(tensors, assign=True)
        return cls(network.to(memory_format=torch.channels_last), settings)

    @torch.no_grad()
    def _standardize(self, frames_NHWC: Tensor) -> None:
        """Shift and scale the latents of the fitted frames to zero mean and mean variance 1."""
        latents_CX = self.encode(frames_NHWC[None])[0].flatten(1).double()
        size = latents_CX.var(1).mean().sqrt()
        if not torch.isfinite(size):
            raise AutoencoderError(
                f"the fit diverged; fit with a learning_rate below {self.settings.learning_rate}"
            )
        self._network.shift_C.copy_(latents_CX.mean(1))
        self._network.size.copy_(size)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = _start_at_zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(functional.silu(self.first(functional.silu(hidden))))


class _Network(nn.Module):
    """Pixels (X, 3, H, W) from -1 to 1 to latents (X, C, H / 8, W / 8) and back."""

    mean: Tensor
    encoding: Tensor
    decoding: Tensor
    shift_C: Tensor
    size: Tensor

    def __init__(self, latent_channels: int, settings: ConvSettings) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        width = settings.width
        self.register_buffer("mean", torch.zeros(3, SIDE, SIDE))
        self.register_buffer("encoding", torch.zeros(latent_channels, 3, SIDE, SIDE))
        self.register_buffer("decoding", torch.zeros(latent_channels, 3, SIDE, SIDE))
        self.register_buffer("shift_C", torch.zeros(latent_channels))
        self.register_buffer("size", torch.ones(()))
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, SIDE, stride=SIDE),
            _Residual(width),
            nn.SiLU(),
            _start_at_zero(nn.Conv2d(width, latent_channels, 1)),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            *(_Residual(width) for _ in range(settings.num_decoder_blocks)),
            nn.SiLU(),
            _start_at_zero(nn.Conv2d(width, 3 * SIDE**2, 3, padding=1)),
            nn.PixelShuffle(SIDE),
        )

    def start_from(self, pca: PatchPCA) -> None:
        for buffer, value in zip(
            (self.mean, self.encoding, self.decoding), pca.kernels(), strict=True
        ):
            buffer.copy_(value)

    def to_latents(self, pixels_XCHW: Tensor) -> Tensor:
        rows, columns = (size // SIDE for size in pixels_XCHW.shape[2:])
        centred = pixels_XCHW - self.mean.repeat(1, rows, columns)
        raw = functional.conv2d(centred, self.encoding, stride=SIDE) + self.encoder(pixels_XCHW)
        return (raw - self.shift_C[:, None, None]) / self.size

    def to_pixels(self, latents_XCHW: Tensor) -> Tensor:
        raw = latents_XCHW * self.size + self.shift_C[:, None, None]
        base = functional.conv_transpose2d(raw, self.decoding, stride=SIDE)
        return base + self.mean.repeat(1, *raw.shape[2:]) + self.decoder(raw)


def _start_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _schedule(step: int, num_steps: int) -> float:
    """Share of the learning rate: up over 30 steps, down along half a cosine."""
    return min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _crops(frames_NHWC: Tensor, settings: ConvSettings, generator: torch.Generator) -> Tensor:
    """Random crops at any pixel, as pixels (B, 3, crop, crop); half of the batches are mirrored."""
    count, height, width, _ = frames_NHWC.shape
    side = min(settings.crop_px, height, width)

    def draw(high: int) -> list[int]:
        return torch.randint(high, (settings.batch_size,), generator=generator).tolist()

    places = zip(draw(count), draw(height - side + 1), draw(width - side + 1), strict=True)
    crops = [frames_NHWC[index, y : y + side, x : x + side] for index, y, x in places]
    mirror_x, mirror_y = torch.randint(2, (2,), generator=generator).tolist()
    mirrored = [axis for axis, chosen in ((2, mirror_y), (3, mirror_x)) if chosen]
    pixels_BCHW = _to_pixels(torch.stack(crops)).flip(mirrored)
    return pixels_BCHW.contiguous(memory_format=torch.channels_last)


def _to_pixels(frames_XHWC: Tensor) -> Tensor:
    return to_unit(frames_XHWC).permute(0, 3, 1, 2)
