"""The comparisons of the paper as settings: only the data is missing. What the paper leaves open is said with each.

A number of another protocol cannot be compared: FVD changes with the count, the rate and the size of the videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from training.errors import EvaluationError
from training.evaluation.evaluate import EvaluationPlan
from training.evaluation.generation import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What is made for each clip of a data set, and judged by what."""

    task: Task
    num_samples: int
    features: tuple[str, ...] = ()
    """Kinds of networks, as `--features KIND:FILE` names them."""
    with_text: bool = True
    may_repeat: bool = False
    """Where the data has fewer clips than `num_samples`, take captions again; each clip is a reference once."""
    needs_clip: bool = False
    needs_lpips: bool = False
    data: str
    """What the data set holds."""
    paper: str
    """What the paper found, and what it leaves open."""

    def check(
        self, name: str, features: Sequence[str], clip_model: str | None, lpips: Path | None
    ) -> None:
        """Refuse an evaluation that would go by the name of the protocol without its metrics.

        Raises:
            EvaluationError: a network is missing.
        """
        kinds = {feature.partition(":")[0] for feature in features}
        missing = [f"--features {kind}:FILE" for kind in self.features if kind not in kinds]
        if self.needs_clip and clip_model is None:
            missing.append("--clip MODEL/WEIGHTS")
        if self.needs_lpips and lpips is None:
            missing.append("--lpips FILE")
        if missing:
            raise EvaluationError(
                f"suite {name} is judged by published networks: give {' '.join(missing)}; "
                f"for embedded ones use --task {self.task} without --suite. It takes {self.data}; {self.paper}"
            )

    def applied(self, name: str, plan: EvaluationPlan, num_samples: int | None) -> EvaluationPlan:
        """The plan by this protocol, of as many samples as it has unless another number is given."""
        return replace(
            plan,
            suite=name,
            task=self.task,
            num_samples=num_samples or self.num_samples,
            with_text=self.with_text,
            may_repeat=self.may_repeat,
        )


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "msrvtt": Protocol(
            task="t2v",
            num_samples=2990,
            features=("i3d",),
            data="the test split of MSRVTT, one caption a video",
            paper="FVD of the rows of tables 6b, 7 and 8; count, rate, size and I3D are open",
        ),
        "msrvtt_prediction": Protocol(
            task="prediction",
            num_samples=2990,
            features=("i3d",),
            data="the test split of MSRVTT",
            paper="FVD 183.7 for STIV-V2V, 536.2 for T2V (section 5); count, rate and size are open",
        ),
        "msrvtt_upsampling": Protocol(
            task="upsampling",
            num_samples=2990,
            features=("inception-2015", "i3d"),
            data="the test split of MSRVTT",
            paper="FID 2.0 and FVD 5.9 with text (section 5); count, rate and size are open",
        ),
        "msrvtt_upsampling_no_text": Protocol(
            task="upsampling",
            with_text=False,
            num_samples=2990,
            features=("inception-2015", "i3d"),
            data="the test split of MSRVTT",
            paper="FID 2.2 and FVD 6.3 without text (section 5); count, rate and size are open",
        ),
        "moviegen": Protocol(
            task="t2v",
            num_samples=1003,
            features=("i3d",),
            data="the prompts of MovieGen Video Bench with its videos",
            paper="FVD 347.2 for T2V (section 5); rate, size and I3D are open",
        ),
        "moviegen_prediction": Protocol(
            task="prediction",
            num_samples=1003,
            features=("i3d",),
            data="MovieGen Video Bench with its videos",
            paper="FVD 186.3 for STIV-V2V (section 5); rate, size and I3D are open",
        ),
        "ucf101": Protocol(
            task="t2v",
            num_samples=10_000,
            may_repeat=True,
            features=("c3d", "i3d"),
            data="the training set of UCF-101, 9,537 clips with the names of their classes as captions",
            paper="IS 93.4 and FVD 124 (table 17), after TATS: 16 frames of 128 px, IS of 10,000 videos; the count of FVD is open: "
            "all videos and all clips are taken, TATS took 2,048 of each",
        ),
        "gso": Protocol(
            task="multi_view",
            num_samples=100,
            needs_lpips=True,
            data="clips of seven frames: a rendered view of an object of GSO, then the six of training/camera_grid.py",
            paper="PSNR, SSIM and LPIPS of section 5, appendix J.3; the number of objects is open",
        ),
        "coco": Protocol(
            task="t2i",
            num_samples=30_000,
            features=("inception-2015",),
            needs_clip=True,
            data="images of COCO 2014 with a caption each, as img2dataset leaves them",
            paper="FID and CLIP of table 2; the count is open, 30,000 is the custom",
        ),
    }
)
