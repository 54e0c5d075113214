"""What the decode pass remembers of a run of frames: numbers in memory, pictures in a folder.

Nothing that is remembered of a frame depends on where decoding began: parts of a source, decoded apart, put together
give what one pass over all of it gives.
"""

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import encode_jpeg, fit_long_side, upright_rgb
from data_engine.letterbox import Margins, dark_margins
from data_engine.schema import SourceVideo
from data_engine.scores import motion, pixels
from data_engine.shots import FRAMES_AFTER, CutProposer
from data_engine.thumbnails import THUMBNAIL_SIZE, thumbnail

# Motion is measured over at least this long, because animation often shows each picture for two frames.
_MIN_FLOW_INTERVAL_S = 0.1
# Of a cell of the grid of samples: times went through float.
_GRID_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a JPEG lies among the pictures of a run of frames."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured in a frame that is looked at closely, and the frame itself."""

    time_s: float
    luminance: float
    sharpness: float
    is_black: bool
    margins: Margins | None
    picture: Picture


@dataclass(frozen=True, slots=True)
class FlowSample:
    """The motion from a sample to the first frame that is long enough after it."""

    from_s: float
    to_s: float
    flow: motion.Flow


@dataclass(frozen=True, slots=True)
class Observed:
    """A run of frames. Frames are numbered from 0, its first; its pictures lie in `folder`."""

    folder: Path
    times_s: NDArray[np.float64]
    luminances: NDArray[np.float64]
    thumbnails: NDArray[np.uint8]
    """N x 576; no rows if the configuration looks for no shots."""
    candidates: tuple[int, ...]
    """Frames that may be the first after a cut."""
    damaged: tuple[int, ...]
    """Frames that do not show what the source once held."""
    samples: tuple[Sample, ...]
    flows: tuple[FlowSample, ...]

    @property
    def pictures(self) -> Path:
        """The JPEGs of its samples, one after another."""
        return pictures_in(self.folder)

    @property
    def network_frames(self) -> Path:
        """What a network for shots sees of its frames, if the configuration names one."""
        return network_frames_in(self.folder)


def pictures_in(folder: Path) -> Path:
    return folder / "pictures"


def network_frames_in(folder: Path) -> Path:
    return folder / "network_frames"


class Observer:
    """Takes the frames of a run in order: those just before it, its own, and those just after it.

    Raises:
        DetectorError: the shot detector that is asked for is not installed.
    """

    def __init__(
        self, source: SourceVideo, shots: ShotConfig, decode: DecodeConfig, folder: Path
    ) -> None:
        self._rotation_deg = source.rotation_deg
        size = (source.height_px, source.width_px)
        self._analysis_size = fit_long_side(*size, decode.analysis_long_side_px)
        self._frame_size = fit_long_side(*size, decode.frame_long_side_px)
        self._frames_per_s = decode.frames_per_s
        self._has_shots = shots.detector != "none"
        self._proposer = CutProposer(shots)
        self._meter = motion.MotionMeter()
        self._folder = folder
        self._pictures = pictures_in(folder).open("wb")
        self._network_frames = network_frames_in(folder).open("wb")
        self._num_before = self._num_after = 0
        self._times_s: list[float] = []
        self._luminances: list[float] = []
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._candidates: list[int] = []
        self._damaged: list[int] = []
        self._samples: list[Sample] = []
        self._flows: list[FlowSample] = []
        self._flow_starts: deque[tuple[float, NDArray[np.uint8]]] = deque()
        self._last_cell: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pictures.close()
        self._network_frames.close()

    def add_before(self, frame: VideoFrame, time_s: float) -> None:
        """One of the last `shots.FRAMES_BEFORE` frames before the run, or of all if there are fewer."""
        self._see(frame)
        self._num_before += 1
        self._last_cell = self._cell(time_s)

    def add(self, frame: VideoFrame, time_s: float, *, is_damaged: bool = False) -> None:
        if is_damaged:
            self._damaged.append(len(self._times_s))
        small_rgb = self._see(frame)
        self._times_s.append(time_s)
        if self._has_shots:
            self._thumbnails.append(thumbnail(_bgr(small_rgb)))
        self._network_frames.write(self._proposer.network_frame(_bgr(small_rgb)))
        small_gray = _gray(small_rgb)
        self._luminances.append(pixels.luminance(small_gray))
        self._finish_flows(small_gray, time_s)
        # The first frame in each cell of a fixed grid: the same wherever decoding began.
        cell = self._cell(time_s)
        if cell != self._last_cell:
            self._flow_starts.append((time_s, small_gray))
            self._sample(frame, time_s)
        self._last_cell = cell

    def add_after(self, frame: VideoFrame, time_s: float) -> bool:
        """A frame after the run. Whether the next one is needed too."""
        small_rgb = self._see(frame)
        self._num_after += 1
        self._finish_flows(_gray(small_rgb), time_s)
        return self._num_after < FRAMES_AFTER or bool(self._flow_starts)

    def observed(self) -> Observed:
        """Everything; its pictures are on disk."""
        self._pictures.flush()
        self._network_frames.flush()
        num_frames = len(self._times_s)
        width_px, height_px = THUMBNAIL_SIZE
        return Observed(
            folder=self._folder,
            times_s=np.array(self._times_s, np.float64),
            luminances=np.array(self._luminances, np.float64),
            thumbnails=np.array(self._thumbnails, np.uint8).reshape(-1, width_px * height_px),
            candidates=tuple(c for c in self._candidates if 0 <= c < num_frames),
            damaged=tuple(self._damaged),
            samples=tuple(self._samples),
            flows=tuple(self._flows),
        )

    def _see(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as HxWx3 RGB at the size for analysis, after the detector has seen it."""
        # Cuts and flow need no clean picture, and this is of every frame.
        small_rgb = upright_rgb(frame, *self._analysis_size, self._rotation_deg, "FAST_BILINEAR")
        cuts = self._proposer.add(_bgr(small_rgb))
        self._candidates += [cut - self._num_before for cut in cuts]
        return small_rgb

    def _cell(self, time_s: float) -> int:
        return math.floor(time_s * self._frames_per_s + _GRID_SLACK)

    def _finish_flows(self, small_gray: NDArray[np.uint8], time_s: float) -> None:
        while self._flow_starts and time_s - self._flow_starts[0][0] >= _MIN_FLOW_INTERVAL_S:
            from_s, before = self._flow_starts.popleft()
            flow = self._meter.measure(before, small_gray, time_s - from_s)
            self._flows.append(FlowSample(from_s, time_s, flow))

    def _sample(self, frame: VideoFrame, time_s: float) -> None:
        image = upright_rgb(frame, *self._frame_size, self._rotation_deg)
        gray = _gray(image)
        self._samples.append(
            Sample(
                time_s,
                pixels.luminance(gray),
                pixels.sharpness(gray),
                pixels.is_black(gray),
                dark_margins(gray),
                self._keep(image),
            )
        )

    def _keep(self, image_rgb: NDArray[np.uint8]) -> Picture:
        jpeg = encode_jpeg(image_rgb)
        picture = Picture(self._pictures.tell(), len(jpeg))
        self._pictures.write(jpeg)
        return picture


def _bgr(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def _gray(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
