"""The metrics of a stream of videos: of each are kept features and the values of its frames, not the frames."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from training.evaluation.features import ClassFeatures, VideoFeatures
from training.evaluation.metrics import (
    frechet_distance,
    inception_score,
    paired_cosine,
    psnr_db,
    ssim,
)
from training.evaluation.results import Metric
from training.evaluation.versions import package
from training.streaming.decode import FramesFHWC

MAX_PSNR_DB = 100.0
"""For equal frames, whose ratio is infinite and has no place in a mean."""
IS_SPLITS = 10
MIN_FID_SAMPLES = 2
OF_FILES = "of the mp4 files, mean over frames"


class TextSimilarity(Protocol):
    """Pictures and texts in one space; `score_name` says which metric their cosine is."""

    @property
    def backend(self) -> str: ...
    @property
    def score_name(self) -> str: ...
    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]: ...
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class PerceptualDistance(Protocol):
    """LPIPS between frames."""

    @property
    def backend(self) -> str: ...
    def distances(self, made: FramesFHWC, real: FramesFHWC) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The networks that look at the videos."""

    features: tuple[VideoFeatures, ...]
    similarity: TextSimilarity | None = None
    perceptual: PerceptualDistance | None = None


@dataclass(frozen=True)
class _Rows:
    """What a network found of the videos so far."""

    network: VideoFeatures
    made: list[NDArray[np.float32]] = field(default_factory=list)
    real: list[NDArray[np.float32]] = field(default_factory=list)


class Judging:
    """Add every video, then take the metrics."""

    def __init__(self, judges: Judges, given: Sequence[int], *, with_text: bool) -> None:
        """`given` are the frames that the task gives: with any, a video is compared with its clip frame by frame.

        Without text there is nothing that a picture could be similar to.
        """
        self._judges, self._given, self._with_text = judges, given, with_text
        self._rows = [_Rows(network) for network in judges.features]
        self._cosines: list[float] = []
        self._values: dict[str, list[NDArray[Any]]] = {}
        self.num_made = 0
        self.num_references = 0

    def add(self, made: FramesFHWC, real: FramesFHWC | None, caption: str) -> None:
        """`real` is None where the same clip was given before: it is a reference once."""
        self.num_made += 1
        self.num_references += real is not None
        for rows in self._rows:
            rows.made.append(rows.network.features([made]))
            if real is not None and rows.network.metric is not None:
                rows.real.append(rows.network.features([real]))
        if self._judges.similarity is not None and self._with_text:
            self._cosines.append(_cosine(self._judges.similarity, made, caption))
        if self._given and real is not None:
            # Given frames would show the autoencoder only.
            left = [place for place in range(len(made)) if place not in self._given]
            self._compare(made[left], real[left])

    def metrics(self) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
        """Of all videos added, and what was not computed, with the reason.

        Raises:
            EvaluationError: a metric cannot use these videos.
        """
        metrics: list[Metric] = []
        skipped: list[str] = []
        for rows in self._rows:
            metrics += self._distribution(rows, skipped)
        metrics += self._similarity(skipped)
        if self._given:
            metrics += self._fidelity()
        else:
            skipped.append(
                "PSNR and SSIM: without a given frame no video is meant to equal its clip"
            )
        return tuple(metrics), tuple(skipped)

    def _distribution(self, rows: _Rows, skipped: list[str]) -> list[Metric]:
        network, metrics = rows.network, list[Metric]()
        made = np.concatenate(rows.made)
        if network.metric is not None and min(self.num_made, self.num_references) < MIN_FID_SAMPLES:
            skipped.append(f"{network.metric}: needs at least {MIN_FID_SAMPLES} videos")
            return []
        if network.metric is not None:
            real = np.concatenate(rows.real)
            metrics.append(
                Metric(
                    name=network.metric,
                    value=frechet_distance(made, real),
                    backend=network.backend,
                    num_samples=len(made),
                    num_references=len(real),
                    better="lower",
                )
            )
        if isinstance(network, ClassFeatures):
            splits = min(IS_SPLITS, len(made))
            score, _ = inception_score(network.probabilities(made), splits)
            metrics.append(
                Metric(
                    name=network.score_name,
                    value=score,
                    backend=f"{network.backend}, {splits} splits",
                    num_samples=len(made),
                    num_references=None,
                    better="higher",
                )
            )
        return metrics

    def _similarity(self, skipped: list[str]) -> list[Metric]:
        similarity = self._judges.similarity
        if similarity is None:
            return []
        if not self._with_text:
            skipped.append(f"{similarity.score_name}: the videos are made without text")
            return []
        return [
            Metric(
                name=similarity.score_name,
                value=float(np.mean(self._cosines)),
                backend=f"{similarity.backend}, mean over frames, then videos",
                num_samples=len(self._cosines),
                num_references=None,
                better="higher",
            )
        ]

    def _compare(self, made: FramesFHWC, real: FramesFHWC) -> None:
        found = {"psnr_db": np.minimum(psnr_db(made, real), MAX_PSNR_DB), "ssim": ssim(made, real)}
        if self._judges.perceptual is not None:
            found["lpips"] = self._judges.perceptual.distances(made, real)
        for name, values in found.items():
            self._values.setdefault(name, []).append(values)

    def _fidelity(self) -> list[Metric]:
        window = f"{package('scikit-image')}, Gaussian window, {OF_FILES}"
        found = [self._of_frames("psnr_db", OF_FILES), self._of_frames("ssim", window)]
        if self._judges.perceptual is not None:
            backend = f"{self._judges.perceptual.backend}, {OF_FILES}"
            found.append(self._of_frames("lpips", backend, "lower"))
        return found

    def _of_frames(
        self, name: str, backend: str, better: Literal["higher", "lower"] = "higher"
    ) -> Metric:
        values = np.concatenate(self._values[name])
        return Metric(
            name=name,
            value=float(values.mean()),
            backend=backend,
            num_samples=len(values),
            num_references=len(values),
            better=better,
        )


def _cosine(similarity: TextSimilarity, made: FramesFHWC, caption: str) -> float:
    (text,) = similarity.embed_texts([caption])
    images = similarity.embed_images(list(made))
    return float(paired_cosine(images, np.tile(text, (len(images), 1))).mean())
