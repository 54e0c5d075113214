"""Whole evaluations on clips of known content; the backend is a real, if plain, feature of the pixels."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.encoders import FrozenEncoders, load_encoders
from training.errors import EvaluationError
from training.evaluation.clips import Format, choose_clips, read_clip
from training.evaluation.evaluate import EvaluationPlan, evaluate_run, evaluate_videos
from training.evaluation.features import PooledFrameFeatures
from training.evaluation.generation import Task
from training.evaluation.judging import Judges
from training.evaluation.results import read_result
from training.loop import prepare_run, train_stage
from training.streaming.decode import decode_frames
from training.streaming.index import SampleIndex
from training.streaming.storage import RangeReader
from training.video_file import enlarge, write_video

FORMAT = Format(num_frames=4, stride=2, height_px=32, width_px=48)


def colours(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


DATA = tiny_config().data
JUDGES = Judges(features=(PooledFrameFeatures(colours, "mean colour"),))


@pytest.fixture
def copies(dataset: Path, tmp_path: Path) -> Path:
    """The real clips themselves, as the videos of a perfect model."""
    clips = choose_clips(SampleIndex.open([dataset]), 4, FORMAT, 0)
    folder = tmp_path / "copies"
    folder.mkdir()
    for clip in clips:
        # Enlarged as `stiv generate` does: at this size a video would halve the resolution of colour.
        frames = enlarge(read_clip(RangeReader(), clip, FORMAT))
        write_video(frames, folder / f"{clip.clip_id}.mp4", 12.0)
    return folder


def test_copies_of_the_clips_are_nearly_perfect_and_black_videos_are_not(
    dataset: Path, copies: Path, tmp_path: Path
) -> None:
    plan = EvaluationPlan(task="ti2v", num_samples=4, format=FORMAT)
    near = evaluate_videos(copies, [str(dataset)], tmp_path / "near", plan, JUDGES)
    for path in copies.glob("*.mp4"):
        write_video(np.zeros((4, 32, 48, 3), np.uint8), path, 12.0)
    far = evaluate_videos(copies, [str(dataset)], tmp_path / "far", plan, JUDGES)
    good = {metric.name: metric.value for metric in near.metrics}
    bad = {metric.name: metric.value for metric in far.metrics}
    assert set(good) == {"embedded_frechet_video", "psnr_db", "ssim"}
    assert good["embedded_frechet_video"] < 20 < 1000 < bad["embedded_frechet_video"]
    # 27.6 dB: what H.264 and the resizing to and fro leave of blocks of random colour.
    assert good["psnr_db"] > 25 > 15 > bad["psnr_db"]
    assert good["ssim"] > 0.9 > 0.5 > bad["ssim"]
    # What numbers need in order to be compared is in the file, and comes back as it was.
    content = json.loads((tmp_path / "near" / "result.json").read_text())
    assert (content["fps"], content["num_frames"], content["num_samples"]) == (12.0, 4, 4)
    assert (content["num_references"], content["reference_fps"]) == (4, [12.0] * 3)
    assert content["format_version"] == 3
    assert content["metrics"][0]["backend"] == "mean colour, mean and deviation over time"
    assert read_result(tmp_path / "near") == near
    assert "| psnr_db |" in (tmp_path / "near" / "result.md").read_text()
    assert (tmp_path / "near" / "contact_sheet.png").stat().st_size > 0


def test_what_is_missing_is_named(dataset: Path, copies: Path, tmp_path: Path) -> None:
    plan = EvaluationPlan(num_samples=4, format=FORMAT)
    next(iter(copies.glob("*.mp4"))).unlink()
    with pytest.raises(EvaluationError, match=r"CLIP_ID\.mp4"):
        evaluate_videos(copies, [str(dataset)], tmp_path, plan, JUDGES)
    too_many = EvaluationPlan(num_samples=5, format=FORMAT)
    with pytest.raises(EvaluationError, match="4 of 6 clips"):
        evaluate_videos(copies, [str(dataset)], tmp_path, too_many, JUDGES)
    with pytest.raises(EvaluationError, match="no readable result"):
        read_result(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_run_is_judged_and_made_videos_are_left(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []

    def load(*arguments: Any) -> FrozenEncoders:
        loads.append(1)
        return load_encoders(*arguments)

    monkeypatch.setattr("training.generate.load_encoders", load)
    run, out = tmp_path / "run", tmp_path / "out"
    config = tiny_config(stages={"stiv": tiny_stage("stiv", num_steps=2)})
    prepare_run(config, [dataset], run)
    train_stage(config, "stiv", [dataset], run)
    plan = EvaluationPlan(task="ti2v", num_samples=3)
    first = evaluate_run(run, [str(dataset)], out, plan, JUDGES)
    videos = sorted((out / "videos").glob("*.mp4"))
    times = [video.stat().st_mtime_ns for video in videos]
    assert len(videos) == 3
    assert len(loads) == 1, "once for three videos"
    assert (first.solver, first.image_guidance_scale) == (config.sampler.solver, None)
    assert first.was_trained_on
    assert (first.num_frames, first.sampling_stride, first.fps) == (4, 2, 12.0)
    assert evaluate_run(run, [str(dataset)], out, plan, JUDGES) == first
    assert [video.stat().st_mtime_ns for video in videos] == times
    assert len(loads) == 1
    for wrong, message in (
        (replace(FORMAT, stride=1), "--stride 1, but stage stiv makes videos of stride 2"),
        (replace(FORMAT, stride=4), "--stride 4, but stage stiv makes videos of stride 2"),
        (replace(FORMAT, num_frames=5), "stage stiv makes 4 frames; give that many or fewer"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate_run(run, [str(dataset)], out, replace(plan, format=wrong), JUDGES)
    shorter = replace(plan, format=replace(FORMAT, num_frames=3))
    assert evaluate_run(run, [str(dataset)], out, shorter, JUDGES).num_frames == 3


@pytest.mark.slow
def test_views_need_no_caption_and_are_not_compared_with_one(tmp_path: Path) -> None:
    objects = write_dataset(tmp_path / "objects", [7, 7, 8], captions=())
    stage = tiny_stage("stiv", num_steps=2, num_frames=7, text_dropout_prob=1.0)
    config = tiny_config(
        stages={"views": stage}, data=DATA.model_copy(update={"sampling_stride": 1})
    )
    run = tmp_path / "run"
    prepare_run(config, [objects], run)
    train_stage(config, "views", [objects], run)
    plan = EvaluationPlan(task="multi_view", num_samples=3)
    judges = replace(JUDGES, similarity=NoTexts())
    found = evaluate_run(run, [str(objects)], tmp_path / "out", plan, judges)
    assert {m.name for m in found.metrics} == {"embedded_frechet_video", "psnr_db", "ssim"}
    assert not found.with_text
    assert any("without text" in reason for reason in found.skipped)


class NoTexts:
    """Fails where a text is looked at."""

    backend = "none"
    score_name = "none"

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        raise AssertionError

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError


def test_without_text_a_task_needs_given_frames(dataset: Path, tmp_path: Path) -> None:
    plan = EvaluationPlan(task="t2v", with_text=False, format=FORMAT)
    with pytest.raises(EvaluationError, match="made from text alone"):
        evaluate_videos(tmp_path, [str(dataset)], tmp_path, plan, JUDGES)


def test_fewer_clips_than_videos_are_taken_again_where_a_protocol_allows_it(
    dataset: Path, copies: Path, tmp_path: Path
) -> None:
    """10,000 videos of the 9,537 clips of UCF-101."""
    for path in list(copies.glob("*.mp4")):
        (copies / f"{path.stem}-1.mp4").write_bytes(path.read_bytes())
    plan = EvaluationPlan(num_samples=6, format=FORMAT, may_repeat=True)
    found = evaluate_videos(copies, [str(dataset)], tmp_path / "out", plan, JUDGES)
    assert (found.num_samples, found.num_references) == (6, 4)
    assert (found.metrics[0].num_samples, found.metrics[0].num_references) == (6, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "trained", "frames", "given"),
    [
        ("prediction", "first_four", 6, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("upsampling", "every_second", 4, [0, 2]),
        ("interpolation", "first_and_last", 4, [0, 3]),
    ],
)
def test_given_frames_are_those_of_the_clip_and_are_not_judged(
    task: Task, trained: str, frames: int, given: list[int], dataset: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    config = tiny_config(
        stages={"stiv": tiny_stage("stiv", num_steps=2, num_frames=frames, given=(trained,))}
    )
    prepare_run(config, [dataset], run)
    train_stage(config, "stiv", [dataset], run)
    judged = evaluate_run(
        run, [str(dataset)], out, EvaluationPlan(task=task, num_samples=3), JUDGES
    )
    assert (judged.suite, judged.num_frames) == (f"clips {task}", frames)
    # At stride 2, of clips of 24 frames a second; of an interpolation the recipe says the rate.
    assert judged.fps == 12.0
    (psnr,) = (metric for metric in judged.metrics if metric.name == "psnr_db")
    assert psnr.num_samples == 3 * 2
    wanted = replace(FORMAT, num_frames=frames)
    clips = {clip.clip_id: clip for clip in choose_clips(SampleIndex.open([dataset]), 3, wanted, 0)}
    files = list((out / "given").glob("*.mp4"))
    assert {file.stem for file in files} == set(clips)
    for file in files:
        real = read_clip(RangeReader(), clips[file.stem], wanted)
        found = decode_frames(file.read_bytes(), range(len(given)), real.shape[1:3])
        np.testing.assert_array_equal(found, real[given])


def test_a_task_that_leaves_no_frame_to_make_is_refused(
    dataset: Path, copies: Path, tmp_path: Path
) -> None:
    plan = EvaluationPlan(task="prediction", num_samples=4, format=FORMAT)
    with pytest.raises(EvaluationError, match="'first_four' of 4 latent frames leaves none"):
        evaluate_videos(copies, [str(dataset)], tmp_path, plan, JUDGES)
