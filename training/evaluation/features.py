"""Features of videos under a Frechet distance. Only published networks give a number the name FVD or FID.

The weights are read without unpickling: safetensors, TorchScript, or state dicts in torch's safe mode.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.errors import EvaluationError
from training.evaluation.inception import Inception2015Features, InceptionFeatures
from training.evaluation.weights import (
    best_device,
    digest_of_file,
    digest_of_model,
    load_torchscript,
)
from training.streaming.decode import FramesFHWC

_I3D_PX = 224
_I3D_MIN_FRAMES = 10
"""The strides of I3D leave nothing of fewer."""
_C3D_FRAMES = 16


class VideoFeatures(Protocol):
    """A network, and how the Frechet distance of its features is called."""

    @property
    def metric(self) -> str | None:
        """None where its features are no base for one."""
        ...

    @property
    def backend(self) -> str: ...

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """N x D, a row for each video, or for each frame."""
        ...


@runtime_checkable
class ClassFeatures(Protocol):
    """A network that also knows classes, and how the Inception Score of those is called."""

    @property
    def score_name(self) -> str: ...

    @property
    def backend(self) -> str: ...

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """N x classes, from its features."""
        ...


class PooledFrameFeatures:
    """Mean and deviation over time of the features of single frames. Embedded, so never called FVD.

    `of_frames` maps frames to N x D; the deviation lets a still video differ from a moving one.
    """

    metric = "embedded_frechet_video"

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

    def __init__(self, model: str) -> None:
        from transformers import VideoMAEImageProcessor, VideoMAEModel

        try:
            self._processor: Any = VideoMAEImageProcessor.from_pretrained(model)
            loaded: Any = VideoMAEModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"VideoMAE {model} is neither a folder with a model in safetensors nor within reach on the hub"
            ) from error
        self._device = best_device()
        self._model: Any = loaded.eval().to(self._device)
        digest = digest_of_model(self._model)
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

    def __init__(self, path: Path) -> None:
        self._device = best_device()
        self._model = load_torchscript(path).to(self._device)
        self.backend = f"torchscript/I3D {digest_of_file(path)}"

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


class C3DFeatures:
    """The Inception Score of UCF-101, from C3D that was trained on it: the TorchScript file that StyleGAN-V and others share.

    It takes pixels from 0 to 255 at any size, resizes them itself and gives probabilities of the 101 classes.

    Raises:
        EvaluationError: the file is missing or holds no TorchScript.
    """

    metric = None
    score_name = "inception_score_c3d"

    def __init__(self, path: Path) -> None:
        self._device = best_device()
        self._model = load_torchscript(path).to(self._device)
        self.backend = (
            f"torchscript/C3D {digest_of_file(path)}, the first {_C3D_FRAMES} frames of each video"
        )

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """Probabilities, N x 101."""
        short = [len(video) for video in videos if len(video) < _C3D_FRAMES]
        if short:
            raise EvaluationError(
                f"a video has {short[0]} frames, C3D needs {_C3D_FRAMES}; use longer clips"
            )
        rows: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for video in videos:
                first = np.ascontiguousarray(video[:_C3D_FRAMES])
                video_1CFHW = torch.from_numpy(first).permute(3, 0, 1, 2)[None]
                rows.append(self._model(video_1CFHW.to(self._device))[0].float().cpu().numpy())
        return np.stack(rows)

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """They are its features."""
        return features_ND


def open_features(spec: str) -> VideoFeatures:
    """`videomae:HUB_ID_OR_FOLDER`, or one of `i3d`, `c3d`, `inception-2015`, `inception` with `:FILE`.

    Raises:
        EvaluationError: the words are none of these, or the model cannot be had.
    """
    kind, _, where = spec.partition(":")
    if where and kind == "videomae":
        return VideoMAEFeatures(where)
    if where and kind in _OF_FILES:
        return _OF_FILES[kind](Path(where))
    raise EvaluationError(
        f"features {spec!r} are not known; give embedded, videomae:HUB_ID_OR_FOLDER, "
        f"{', '.join(f'{name}:FILE' for name in list(_OF_FILES)[:-1])} or {list(_OF_FILES)[-1]}:FILE"
    )


_OF_FILES: Mapping[str, Callable[[Path], VideoFeatures]] = MappingProxyType(
    {
        "i3d": I3DFeatures,
        "c3d": C3DFeatures,
        "inception-2015": Inception2015Features,
        "inception": InceptionFeatures,
    }
)
