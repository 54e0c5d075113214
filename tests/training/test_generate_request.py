from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.builders import moving_square, tiny_config, tiny_stage
from training.camera_grid import CAMERAS, GAP_PX, LABEL_HEIGHT_PX, camera_grid
from training.clip_sampler import memory_advice
from training.config import DataConfig, TrainConfig
from training.errors import GenerateError
from training.generate_request import GenerateRequest, prompt_of, settings_of, task_of
from training.given_inputs import read_image
from training.long_video import long_frame_count
from training.recipes import RECIPES
from training.trained_shapes import TrainedShape, WantedShape, explain_shape, nearest_shape


def shaped() -> TrainConfig:
    stage = tiny_stage("t2v", num_frames=4, more_num_frames=(8,))
    data = DataConfig(height_px=32, width_px=48, more_sizes_px=((64, 32),))
    return tiny_config(stages={"t2v": stage}, data=data)


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (WantedShape(), (32, 48, 4)),
        (WantedShape(height_px=32, width_px=48), (32, 48, 4)),
        (WantedShape(height_px=1080, width_px=1920), (32, 48, 4)),
        (WantedShape(height_px=1920, width_px=1080), (64, 32, 4)),
        (WantedShape(num_frames=7), (32, 48, 8)),
        (WantedShape(height_px=60, width_px=30, num_frames=100), (64, 32, 8)),
    ],
)
def test_the_nearest_trained_shape_is_taken(
    wanted: WantedShape, taken: tuple[int, int, int]
) -> None:
    assert nearest_shape(shaped(), "t2v", wanted) == TrainedShape(*taken)


def test_another_shape_than_the_one_asked_for_is_explained() -> None:
    wanted = WantedShape(height_px=60, width_px=30, num_frames=8)
    line = explain_shape(shaped(), "t2v", wanted, TrainedShape(64, 32, 8))
    assert line == (
        "60x30 px asked for; stage t2v was trained at 32x48 px, 4 frames; 32x48 px, 8 frames; 64x32 px, 4 frames; "
        "64x32 px, 8 frames: the nearest, 64x32 px, 8 frames, is made"
    )
    exact = WantedShape(height_px=64, width_px=32)
    assert explain_shape(shaped(), "t2v", exact, TrainedShape(64, 32, 4)) is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (WantedShape(height_px=32), "height and width go together"),
        (WantedShape(height_px=32, width_px=0), "width is 0, it must be at least 1"),
        (WantedShape(num_frames=1), "num_frames is 1, it must be at least 2"),
    ],
)
def test_a_wrong_size_is_one_line(wanted: WantedShape, said: str) -> None:
    with pytest.raises(GenerateError, match=said):
        nearest_shape(shaped(), "t2v", wanted)


def test_settings_take_the_place_of_those_of_the_recipe() -> None:
    asked = GenerateRequest(
        solver="heun",
        num_sampling_steps=7,
        guidance_scheme="separate",
        guidance_scale=2.0,
        image_guidance_scale=3.0,
    )
    sampler, guidance = settings_of(tiny_config(), asked)
    assert (sampler.solver, sampler.num_sampling_steps) == ("heun", 7)
    assert (guidance.scheme, guidance.text_scale, guidance.image_scale) == ("separate", 2.0, 3.0)
    config = tiny_config()
    assert settings_of(config, GenerateRequest()) == (config.sampler, config.guidance)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_sampling_steps": 0}, "num_sampling_steps is 0, it must be at least 1"),
        ({"guidance_scale": -1.0}, r"guidance_scale is -1.0, it must be from 0 to 1e\+06"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan, it must be from 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf, it must be from 0"),
        ({"image_guidance_scale": float("nan")}, "image_guidance_scale is nan"),
        ({"image_guidance_scale": 2.0}, "read by the scheme separate only"),
        ({"fps": 0.0}, "fps is 0.0, it must be from 0.1 to 1000"),
        ({"fps": float("nan")}, "fps is nan, it must be from 0.1 to 1000"),
        ({"fps": float("inf")}, "fps is inf"),
    ],
)
def test_a_setting_out_of_range_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GenerateError, match=said):
        settings_of(tiny_config(), replace(GenerateRequest(), **changes))


def test_a_model_of_noise_has_one_solver() -> None:
    config = tiny_config()
    contract = config.model.contract.model_copy(update={"prediction": "noise"})
    noise = config.model_copy(
        update={"model": config.model.model_copy(update={"contract": contract})}
    )
    with pytest.raises(GenerateError, match="solver heun does not fit"):
        settings_of(noise, GenerateRequest(solver="heun"))


def test_a_class_is_known_or_costs_one_line() -> None:
    ucf101 = RECIPES["class_to_video_tiny_48"]()
    assert prompt_of(ucf101, GenerateRequest(class_name="YoYo"), "t2v") == "YoYo"
    assert prompt_of(ucf101, GenerateRequest(prompt="YoYo"), "t2v") == "YoYo"
    with pytest.raises(
        GenerateError, match=r"none of the 101 classes .* did you mean PlayingGuitar"
    ):
        prompt_of(ucf101, GenerateRequest(class_name="playing guitar"), "t2v")
    with pytest.raises(GenerateError, match="was trained on texts"):
        prompt_of(tiny_config(), GenerateRequest(class_name="YoYo"), "t2v")
    with pytest.raises(GenerateError, match="both a prompt and a class"):
        prompt_of(ucf101, GenerateRequest(prompt="x", class_name="YoYo"), "t2v")


def test_views_and_long_videos_take_what_they_need() -> None:
    image, film = Path("o.png"), Path("v.mp4")
    config = tiny_config()
    assert task_of(config, GenerateRequest(task="multi_view", image=image)) == "multi_view"
    assert task_of(config, GenerateRequest(task="long", image=image)) == "long"
    with pytest.raises(GenerateError, match="task multi_view takes an image, but nothing"):
        task_of(config, GenerateRequest(task="multi_view"))
    with pytest.raises(GenerateError, match="but a video is given"):
        task_of(config, GenerateRequest(task="long", video=film))
    with pytest.raises(GenerateError, match="takes no prompt"):
        prompt_of(tiny_config(), GenerateRequest(prompt="a cup"), "multi_view")


def test_the_task_follows_from_the_stage_that_is_named() -> None:
    views = tiny_stage("stiv", num_frames=7, text_dropout_prob=1.0)
    config = tiny_config(stages={"t2i": tiny_stage("t2i"), "views": views})
    assert task_of(config, GenerateRequest(stage="t2i")) == "t2i"
    assert task_of(config, GenerateRequest(stage="views", image=Path("o.png"))) == "multi_view"
    assert task_of(config, GenerateRequest(stage="views")) == "t2v"


def test_the_count_of_a_long_video_is_that_of_the_paper() -> None:
    assert long_frame_count(20, 20, strict_join=False) == 380
    assert long_frame_count(20, 20, strict_join=True) == 362


def test_the_cameras_are_those_of_the_paper() -> None:
    assert [camera.elevation_deg for camera in CAMERAS] == [30, -20, 30, -20, 30, -20]
    assert [camera.azimuth_deg for camera in CAMERAS] == [30, 90, 150, 210, 270, 330]


def test_the_camera_grid_has_a_row_for_each_elevation() -> None:
    frames = np.stack([np.full((40, 60, 3), 30 * n, np.uint8) for n in range(7)])
    sheet = np.asarray(camera_grid(frames))
    assert sheet.shape == (2 * (LABEL_HEIGHT_PX + 40 + GAP_PX) - GAP_PX, 4 * 64 - GAP_PX, 3)
    top, bottom = LABEL_HEIGHT_PX + 20, 2 * LABEL_HEIGHT_PX + GAP_PX + 60
    shown = [[int(sheet[y, x * 64 + 30, 0]) // 30 for x in range(4)] for y in (top, bottom)]
    # White, where no view is: below the given one.
    assert shown == [[0, 1, 3, 5], [255 // 30, 2, 4, 6]]


def test_too_little_memory_is_one_line() -> None:
    # 2^50 bytes are refused by any machine.
    with (
        pytest.raises(
            GenerateError, match="this machine has too little memory for a clip; be small"
        ),
        memory_advice("a clip", "be small"),
    ):
        torch.empty(2**50, dtype=torch.uint8)
    with (
        pytest.raises(GenerateError, match="the GPU has too little memory"),
        memory_advice("x", "y"),
    ):
        raise torch.OutOfMemoryError
    # As the arrays of numpy and Pillow say it.
    with (
        pytest.raises(GenerateError, match="this machine has too little memory for a clip; small"),
        memory_advice("a clip", "small"),
    ):
        np.empty(2**50, dtype=np.uint8)
    with pytest.raises(RuntimeError, match="another"), memory_advice("x", "y"):
        raise RuntimeError("another")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_too_little_memory_of_a_gpu_is_one_line() -> None:
    with (
        pytest.raises(GenerateError, match="the GPU has too little memory"),
        memory_advice("x", "y"),
    ):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".tif"])
def test_a_corrupt_image_is_one_line(tmp_path: Path, suffix: str) -> None:
    """Every cut and many a damage of a file: it is read, or refused in one line."""
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(moving_square(1, 5)[0]).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] = rng.integers(256)
        broken.append(bytes(damaged))
    said: list[str] = []
    for data in broken:
        path.write_bytes(data)
        try:
            assert read_image(path, (32, 48)).shape == (32, 48, 3)
        except GenerateError as error:
            said.append(str(error))
    assert len(said) >= 5
    assert all("cannot be read as an image" in line and "\n" not in line for line in said)
