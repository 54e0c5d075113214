"""Prediction, upsampling, interpolation and long video from one small run that was trained for each."""

import io
import itertools
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from modeling.patch_pca import PatchPCA
from tests.training.builders import encode_mp4, moving_square, tiny_config, tiny_stage
from training.clip_sampler import IDENTICAL_PSNR_DB
from training.errors import GenerateError
from training.generate import GenerateRequest, GenerateResult, GenerateTask, OpenRun, generate
from training.given_inputs import GivenVideo
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.streaming.decode import decode_frames
from training.trained_shapes import TrainedShape
from training.upsampling import clip_starts, given_per_clip, upsampled_frame_count

pytestmark = pytest.mark.slow

FRAMES = 6
"""Of a clip; an even number of tokens in time, and more than the four that are given."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, long_clips: Path) -> Path:
    """A stage of two steps for each kind of given frames."""
    run = tmp_path_factory.mktemp("run")
    given = ("first", "first_four", "every_second", "first_and_last")
    stages = {
        f"given_{which}": tiny_stage(
            "stiv", num_steps=2, num_frames=FRAMES, given=(which,), sampling_stride=stride
        )
        for which, stride in zip(given, (2, 2, 1, 1), strict=True)
    }
    config = tiny_config(stages=stages)
    prepare_run(config, [long_clips], run)
    for stage in stages:
        train_stage(config, stage, [long_clips], run)
    return run


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.builders import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "squares", [30, 24, 20])


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(encode_mp4(moving_square(20, 5)))
    return path


def num_frames_of(path: Path) -> int:
    with av.open(io.BytesIO(path.read_bytes()), mode="r") as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("task", "stage", "fps"),
    [
        # The squares move at 24 frames a second: every second one is taken, or one is put between each two.
        ("prediction", "given_first_four", 12.0),
        ("upsampling", "given_every_second", 48.0),
        ("interpolation", "given_first_and_last", 24.0),
    ],
)
def test_the_frames_of_a_video_are_kept_and_the_others_made(
    run: Path, film: Path, tmp_path: Path, task: GenerateTask, stage: str, fps: float
) -> None:
    out = tmp_path / "made.mp4"
    result = generate(run, GenerateRequest(prompt="a square", video=film, task=task), out)
    assert (result.task, result.stage, result.fps) == (task, stage, pytest.approx(fps))
    assert result.given_psnr_db == IDENTICAL_PSNR_DB
    # All 20 frames are upsampled, by several clips.
    count = 40 if task == "upsampling" else FRAMES
    assert num_frames_of(out) == result.num_frames == count


def test_all_frames_of_a_video_are_kept_where_it_is_upsampled(
    run: Path, film: Path, tmp_path: Path
) -> None:
    opened = OpenRun(run)
    asked = GenerateRequest(prompt="a square", video=film, task="upsampling")
    plan = opened.plan(asked, tmp_path / "made.mp4")
    assert plan.notes == (f"{film} has 20 frames: they become 40, in 10 clips of {FRAMES}",)
    steps: list[tuple[int, int]] = []
    clip = opened.sample(plan, lambda done, total: steps.append((done, total)))
    assert clip.frames_FHWC.shape == (40, 32, 48, 3)
    assert clip.given_psnr_db == IDENTICAL_PSNR_DB
    assert steps == [(done, 20) for done in range(1, 21)]
    # What the autoencoder of the run makes of each frame of the file.
    autoencoder = PatchPCA.load(RunDirectory(run).autoencoder)
    given = torch.from_numpy(decode_frames(film.read_bytes(), range(20), (32, 48)))
    through = autoencoder.decode(autoencoder.encode(given[None]))[0]
    assert torch.equal(clip.frames_FHWC[::2], through)
    # The frames between differ, also where a clip ends and the next one begins.
    made = clip.frames_FHWC[1::2]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(made))
    again, other = opened.sample(plan), opened.plan(replace(asked, seed=1), tmp_path / "made.mp4")
    assert torch.equal(again.frames_FHWC, clip.frames_FHWC)
    assert not torch.equal(opened.sample(other).frames_FHWC, clip.frames_FHWC)


@pytest.mark.parametrize(
    ("num_given", "clip_frames", "starts", "num_frames"),
    [
        (10, 20, [0], 20),
        # The 20 frames of a text-to-video model by a stage of 20: neighbours share a frame, the last one more.
        (20, 20, [0, 9, 10], 40),
        (19, 20, [0, 9], 38),
        (11, 20, [0, 1], 22),
        (7, 5, [0, 2, 4], 13),
        (3, 2, [0, 1, 2], 6),
    ],
)
def test_clips_cover_a_video_and_share_a_frame(
    num_given: int, clip_frames: int, starts: list[int], num_frames: int
) -> None:
    per_clip = given_per_clip(clip_frames)
    assert clip_starts(num_given, per_clip) == starts
    assert upsampled_frame_count(num_given, clip_frames) == num_frames
    # The last clip reaches the end, and no frame between two given ones is left out.
    assert 2 * starts[-1] + clip_frames == num_frames
    assert all(later - start <= max(1, per_clip - 1) for start, later in itertools.pairwise(starts))


def test_what_an_interpolation_leaves_out_is_said(run: Path, film: Path, tmp_path: Path) -> None:
    asked = GenerateRequest(video=film, task="interpolation")
    plan = OpenRun(run).plan(asked, tmp_path / "v.mp4")
    assert plan.notes == (
        f"{film} has 20 frames: its first and last are given, the others are left out",
    )


def test_a_long_video_is_made_at_every_size_of_both_stages(run: Path, tmp_path: Path) -> None:
    """The sizes that the stages were trained at, in another order."""
    sizes = {"more_sizes_px": ((48, 32),)}
    opened = OpenRun(run)
    data = opened.config.data.model_copy(update=sizes)
    opened.config = opened.config.model_copy(update={"data": data})
    asked = GenerateRequest(prompt="a square", task="long", height_px=48, width_px=32)
    plan = opened.plan(asked, tmp_path / "v.mp4")
    assert plan.gaps is not None
    assert (plan.asked.shape, plan.gaps[1]) == (TrainedShape(48, 32, FRAMES),) * 2
    result = opened.make(plan)
    assert (result.height_px, result.width_px) == (48, 32)
    assert num_frames_of(result.video) == (FRAMES - 1) * FRAMES


def test_a_video_is_predicted_unless_another_task_is_named(
    run: Path, film: Path, tmp_path: Path
) -> None:
    result = generate(run, GenerateRequest(prompt="", video=film), tmp_path / "made.mp4")
    assert result.task == "prediction"


def long(run: Path, out: Path, *, strict_join: bool) -> GenerateResult:
    asked = GenerateRequest(prompt="a square", task="long", strict_join=strict_join)
    return generate(run, asked, out)


def test_a_long_video_has_the_count_of_the_paper_or_that_of_a_strict_join(
    run: Path, tmp_path: Path
) -> None:
    whole = long(run, tmp_path / "whole.mp4", strict_join=False)
    strict = long(run, tmp_path / "strict.mp4", strict_join=True)
    gaps = FRAMES - 1
    assert num_frames_of(whole.video) == whole.num_frames == gaps * FRAMES
    assert num_frames_of(strict.video) == strict.num_frames == gaps * (FRAMES - 1) + 1
    assert whole.stage == "given_first, given_first_and_last"


def test_every_step_of_a_long_video_is_told(run: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    generate(
        run,
        GenerateRequest(prompt="a square", task="long"),
        tmp_path / "v.mp4",
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert [done for done, _ in steps] == list(range(1, 2 * FRAMES + 1))
    assert {total for _, total in steps} == {2 * FRAMES}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": "prediction"},
            "task prediction takes a video, but nothing but a prompt is given",
        ),
        ({"video": "film.mp4", "task": "ti2v"}, "task ti2v takes an image, but a video is given"),
        ({"video": "film.mp4", "image": "film.mp4"}, "both an image and a video are given"),
        ({"video": "absent.mp4"}, "does not exist"),
        ({"video": "text.mp4"}, "cannot be used: .* give an mp4"),
        ({"video": "short.mp4"}, "has 3 frames, frame 6 was asked for"),
        (
            {"video": "two.mp4", "task": "upsampling"},
            r"has 2 frames, stage given_every_second upsamples 3 to 3000 \(3 at a time\)",
        ),
        ({"stage": "given_first", "video": "film.mp4"}, "trained with given='first_four'"),
        ({"stage": "t3v"}, "has no stage t3v"),
    ],
)
def test_inputs_that_do_not_fit_cost_one_line(
    run: Path, film: Path, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for name, count in (("short.mp4", 3), ("two.mp4", 2)):
        (tmp_path / name).write_bytes(encode_mp4(moving_square(count, 5)))
    paths = {k: tmp_path / v for k, v in changes.items() if k in ("video", "image")}
    request = GenerateRequest(**{"prompt": "x", **changes, **paths})  # pyright: ignore  # values of several types
    with pytest.raises(GenerateError, match=said):
        generate(run, request, tmp_path / "v.mp4")


def test_a_run_without_gaps_says_what_it_lacks(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(stages={"stiv": tiny_stage("stiv", num_steps=2)})
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "stiv", [dataset], tmp_path)
    with pytest.raises(GenerateError, match=r"given='first_and_last'; finished in .*: stiv"):
        generate(tmp_path, GenerateRequest(prompt="x", task="long"), tmp_path / "v.mp4")


def test_the_frames_that_are_asked_for_are_read(film: Path) -> None:
    whole = decode_frames(film.read_bytes(), range(20), (32, 48))
    video = GivenVideo(film)
    assert (video.fps, video.num_frames) == (pytest.approx(24.0), 20)
    frames = video.frames((0, 2, 19), (32, 48))
    assert [np.array_equal(f, whole[n]) for f, n in zip(frames, (0, 2, 19), strict=True)] == [
        True
    ] * 3
