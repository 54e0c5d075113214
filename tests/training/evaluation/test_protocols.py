"""Every protocol of the paper from end to end: a run of a tiny network, three clips, and its networks at random weights."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torchvision.models import alexnet
from typer.testing import CliRunner

from data_engine.scores.similarity import OpenCLIP
from orchestration.cli import app
from tests.training.builders import tiny_config, tiny_stage, write_dataset
from tests.training.evaluation.networks import (
    C3DLike,
    I3DMeans,
    random_inception_2015,
    save_script,
    tiny_clip,
)
from training.errors import EvaluationError
from training.evaluation.evaluate import EvaluationPlan, evaluate_run
from training.evaluation.features import VideoFeatures, open_features
from training.evaluation.generation import Task
from training.evaluation.judging import Judges
from training.evaluation.perceptual import Lpips
from training.evaluation.protocols import PROTOCOLS
from training.evaluation.results import read_result
from training.loop import prepare_run, train_stage

METRICS = {
    "i3d": {"fvd_i3d"},
    "c3d": {"inception_score_c3d"},
    "inception-2015": {"fid", "inception_score"},
}

TINY_CLIP = "stiv-test-tinier"


@dataclass(frozen=True)
class Bench:
    """Clips, a run that can do every task, and the networks, each opened when it is first asked for."""

    folder: Path

    @cached_property
    def clips(self) -> Path:
        return write_dataset(self.folder / "clips", [17, 19, 18])

    @cached_property
    def run(self) -> Path:
        run = self.folder / "run"
        config = tiny_config(
            data=tiny_config().data.model_copy(update={"sampling_stride": 1}),
            stages={
                "images": tiny_stage("t2i", num_steps=1),
                "videos": tiny_stage("t2v", num_steps=1, num_frames=16),
                "given": tiny_stage(
                    "stiv", num_steps=1, num_frames=10, given=("first_four", "every_second")
                ),
                "views": tiny_stage("stiv", num_steps=1, num_frames=7, text_dropout_prob=1.0),
            },
        )
        prepare_run(config, [self.clips], run)
        for stage in config.stages:
            train_stage(config, stage, [self.clips], run)
        return run

    @cached_property
    def features(self) -> dict[str, VideoFeatures]:
        return {kind: open_features(f"{kind}:{self.weights(kind)}") for kind in METRICS}

    @cached_property
    def clip(self) -> OpenCLIP:
        return OpenCLIP(TINY_CLIP, str(self.clip_weights))

    @cached_property
    def clip_weights(self) -> Path:
        return tiny_clip(self.folder, TINY_CLIP)

    @cached_property
    def lpips(self) -> Lpips:
        path = self.folder / "alexnet.pth"
        state = alexnet().state_dict()
        torch.save({name: of for name, of in state.items() if name.startswith("features.")}, path)
        return Lpips(path)

    def weights(self, kind: str) -> Path:
        path = self.folder / f"{kind}.pt"
        if path.exists():
            return path
        if kind == "inception-2015":
            torch.save(random_inception_2015(), path)
        else:
            save_script({"i3d": I3DMeans, "c3d": C3DLike}[kind](), path)
        return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.manual_seed(0)
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "ucf101"])
def test_a_protocol_needs_the_data_alone(name: str, bench: Bench, tmp_path: Path) -> None:
    protocol = PROTOCOLS[name]
    judges = Judges(
        features=tuple(bench.features[kind] for kind in protocol.features),
        similarity=bench.clip if protocol.needs_clip else None,
        perceptual=bench.lpips if protocol.needs_lpips else None,
    )
    plan = protocol.applied(name, EvaluationPlan(), 2)
    found = evaluate_run(bench.run, [str(bench.clips)], tmp_path, plan, judges)
    expected = {metric for kind in protocol.features for metric in METRICS[kind]}
    expected |= {"clip_similarity"} if protocol.needs_clip else set()
    expected |= {"lpips"} if protocol.needs_lpips else set()
    given = protocol.task not in ("t2i", "t2v")
    expected |= {"psnr_db", "ssim"} if given else set()
    assert {metric.name for metric in found.metrics} == expected
    assert all(np.isfinite(metric.value) for metric in found.metrics)
    assert (found.suite, found.num_references) == (f"{name} {protocol.task}", 2)
    texts = {prompt_of(path) for path in (tmp_path / "videos").glob("*.settings.json")}
    assert (texts == {""}) == (protocol.task == "multi_view" or not protocol.with_text)


def prompt_of(settings: Path) -> str:
    return json.loads(settings.read_bytes())["prompt"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_ucf101_takes_more_videos_than_there_are_clips(bench: Bench, tmp_path: Path) -> None:
    assert PROTOCOLS["ucf101"].num_samples > 9537, "the clips of its training set"
    words = ["evaluate", "--suite", "ucf101", "--run", bench.run, "--dataset", bench.clips]
    words += ["--out", tmp_path, "--num-samples", 5]
    words += [w for k in ("c3d", "i3d") for w in ("--features", f"{k}:{bench.weights(k)}")]
    words += ["--clip", f"{TINY_CLIP}/{bench.clip_weights}"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    found = read_result(tmp_path)
    counts = {m.name: (m.num_samples, m.num_references) for m in found.metrics}
    assert counts["inception_score_c3d"] == (5, None)
    assert counts["fvd_i3d"] == (5, 3)
    videos = list((tmp_path / "videos").glob("*.mp4"))
    assert len({video.read_bytes() for video in videos}) == 5, "each has a noise of its own"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_goes_by_its_name_with_its_networks_alone(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.task in get_args(Task)
    features = [f"{kind}:weights.pt" for kind in protocol.features]
    clip = "ViT-L-14/openai" if protocol.needs_clip else None
    alexnet = Path("alexnet.pth") if protocol.needs_lpips else None
    protocol.check(name, features, clip, alexnet)
    with pytest.raises(EvaluationError, match=f"suite {name} is judged by published networks"):
        protocol.check(name, ["embedded", "inception:weights.pt"], None, None)
