"""Features of videos under a Frechet distance. Only published networks give a number the name FVD or FID.

The weights are read without unpickling: safetensors, TorchScript, or state dicts in torch's safe mode.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import EvaluationError
from training.streaming.decode import FramesFHWC

_I3D_PX = 224
_INCEPTION_PX = 299
_I3D_MIN_FRAMES = 10
"""The strides of I3D leave nothing of fewer."""


class VideoFeatures(Protocol):
    """A network under a Frechet distance, and how that distance is then called."""

    @property
    def metric(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def is_of_frames(self) -> bool:
        """Whether each frame, rather than each video, gives a row."""
        ...

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """N x D."""
        ...


class PooledFrameFeatures:
    """Mean and deviation over time of the features of single frames. Embedded, so never called FVD.

    `of_frames` maps frames to N x D; the deviation lets a still video differ from a moving one.
    """

    metric = "embedded_frechet_video"
    is_of_frames = False

    def __init__(
        self, of_frames: Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]], backend: str
    ) -> None:
        self._of_frames = of_frames
        self.backend = f"{backend}, mean and deviation over time"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        frames = [self._of_frames(list(video)) for video in videos]
        return np.stack([np.concatenate([f.mean(axis=0), f.std(axis=0)]) for f in frames])


class VideoMAEFeatures:
    """FVD with VideoMAE: the mean over tokens of the last layer, as in content-debiased FVD.

    Raises:
        EvaluationError: the model cannot be had.
    """

    metric = "fvd_videomae"
    is_of_frames = False

    def __init__(self, model: str) -> None:
        from transformers import VideoMAEImageProcessor, VideoMAEModel

        try:
            self._processor: Any = VideoMAEImageProcessor.from_pretrained(model)
            loaded: Any = VideoMAEModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"VideoMAE {model} is neither a folder with a model in safetensors nor within reach on the hub"
            ) from error
        self._device = _best_device()
        self._model: Any = loaded.eval().to(self._device)
        digest = _digest_of(self._model)
        self.backend = f"transformers/VideoMAE {Path(model).name} {digest}"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        wanted = int(self._model.config.num_frames)
        rows: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for video in videos:
                # The network has a fixed number of frames: nearest ones, evenly over the clip.
                at = np.linspace(0, len(video) - 1, wanted).round().astype(int)
                pixels = self._processor(list(video[at]), return_tensors="pt")["pixel_values"]
                tokens_1LD = self._model(pixels.to(self._device)).last_hidden_state
                rows.append(tokens_1LD.mean(dim=1)[0].float().cpu().numpy())
        return np.stack(rows)


class I3DFeatures:
    """FVD with I3D of Kinetics-400, from the TorchScript file that StyleGAN-V and others share.

    Raises:
        EvaluationError: the file is missing or holds no TorchScript.
    """

    metric = "fvd_i3d"
    is_of_frames = False

    def __init__(self, path: Path) -> None:
        self._device = _best_device()
        self._model = _load_torchscript(path).to(self._device)
        self.backend = f"torchscript/I3D {_digest(path)}"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        short = [len(video) for video in videos if len(video) < _I3D_MIN_FRAMES]
        if short:
            raise EvaluationError(
                f"a video has {short[0]} frames, I3D needs at least {_I3D_MIN_FRAMES}; "
                "use longer clips, or VideoMAE"
            )
        rows: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for video in videos:
                frames_FCHW = torch.from_numpy(video).permute(0, 3, 1, 2).float()
                frames_FCHW = F.interpolate(frames_FCHW, size=(_I3D_PX, _I3D_PX), mode="bilinear")
                video_1CFHW = (frames_FCHW / 127.5 - 1).transpose(0, 1)[None].to(self._device)
                row = self._model(video_1CFHW, rescale=False, resize=False, return_features=True)
                rows.append(row[0].float().cpu().numpy())
        return np.stack(rows)


class InceptionFeatures:
    """FID with Inception-v3: the 2048 pooled features of torchvision's weights for ImageNet.

    The original FID uses another training of this network, whose numbers differ: the backend says so.

    Raises:
        EvaluationError: the file is missing, or holds no weights of Inception-v3.
    """

    metric = "fid_torchvision"
    is_of_frames = True

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3

        self._device = _best_device()
        model = inception_v3(weights=None, init_weights=False, transform_input=True)
        _load_state(model, path, "torchvision's inception_v3")
        self._classify: nn.Module = model.fc
        model.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]  # typed as a linear layer
        self._model = model.eval().to(self._device)
        self._classify = self._classify.eval().to(self._device)
        self.backend = f"torchvision/inception_v3 {_digest(path)}"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """One row of 2048 for each frame."""
        with torch.inference_mode():
            rows = [self._pooled(frame) for video in videos for frame in video]
            return torch.cat(rows).cpu().numpy()

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the 1000 classes, from `features`; what the Inception Score is made of."""
        with torch.inference_mode():
            logits_NK = self._classify(torch.from_numpy(features_ND).to(self._device))
            return logits_NK.softmax(dim=1).cpu().numpy()

    def _pooled(self, frame_HWC: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(frame_HWC).permute(2, 0, 1)[None].float()
        size = (_INCEPTION_PX, _INCEPTION_PX)
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True) / 255
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        return self._model(((pixels - mean) / deviation).to(self._device))


def open_features(spec: str) -> VideoFeatures:
    """`videomae:HUB_ID_OR_FOLDER`, `i3d:FILE` or `inception:FILE`.

    Raises:
        EvaluationError: the words are none of these, or the model cannot be had.
    """
    kind, _, where = spec.partition(":")
    if where and kind == "videomae":
        return VideoMAEFeatures(where)
    if where and kind == "i3d":
        return I3DFeatures(Path(where))
    if where and kind == "inception":
        return InceptionFeatures(Path(where))
    raise EvaluationError(
        f"features {spec!r} are not known; give embedded, videomae:HUB_ID_OR_FOLDER, i3d:FILE or inception:FILE"
    )


def _best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _digest_of(model: nn.Module) -> str:
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()[:12]


def _load_torchscript(path: Path) -> Any:
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; give the TorchScript file of the network")
    try:
        # It has its own reader: no Python of the file is run.
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise EvaluationError(f"{path} is no TorchScript file ({error})") from error


def _load_state(model: nn.Module, path: Path, expected: str) -> None:
    try:
        model.load_state_dict(read_state(path, expected))
    except RuntimeError as error:
        raise _other_weights(path, expected, error) from error


def read_state(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a state dict, without unpickling anything else.

    Raises:
        EvaluationError: the file is missing or holds something else.
    """
    import pickle

    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; give the weights of {expected}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError) as error:
        raise _other_weights(path, expected, error) from error


def _other_weights(path: Path, expected: str, error: Exception) -> EvaluationError:
    lines = str(error).splitlines() or [type(error).__name__]
    return EvaluationError(f"{path} does not hold the weights of {expected}: {lines[0]}")
