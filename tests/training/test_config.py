import pytest
from pydantic import ValidationError

from tests.training.builders import tiny_config, tiny_stage
from training.config import EncoderConfig, TrainConfig
from training.recipes import RECIPES, demo_tiny, stiv_xl_256


def test_recipe_names_are_frozen() -> None:
    assert set(RECIPES) == {"demo_tiny", "stiv_xl_256"}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name: str) -> None:
    config = RECIPES[name]()
    assert config.name == name
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_the_demo_runs_the_chain_on_two_workers() -> None:
    config = demo_tiny()
    assert [stage.task for stage in config.stages.values()] == ["t2i", "t2v", "stiv"]
    assert (config.num_workers, config.threads_per_worker, config.device) == (2, 1, "cpu")


def test_the_paper_recipe_keeps_the_papers_numbers() -> None:
    config = stiv_xl_256()
    image, video = config.stages["t2i"], config.stages["stiv"]
    assert (config.model.depth, config.model.hidden_size, config.model.num_heads) == (28, 1152, 18)
    assert (image.batch_size, image.num_steps, video.batch_size, video.num_steps) == (
        4096,
        400_000,
        1024,
        400_000,
    )
    assert (video.num_frames, config.data.sampling_stride, video.mask_ratio) == (20, 3, 0.5)
    assert (video.text_dropout_prob, video.image_dropout_prob, video.ema_decay) == (
        0.1,
        0.08,
        0.9999,
    )
    optimizer = video.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.max_grad_norm) == (
        2e-4,
        1000,
        1.0,
    )
    assert config.guidance.text_scale == 7.5


def test_an_image_stage_has_no_time_in_its_network() -> None:
    config = demo_tiny()
    assert config.model_of("t2i").temporal_patch == 1
    assert not config.model_of("t2i").temporal_attention
    assert config.model_of("t2v") == config.model


def test_where_a_run_happens_is_no_part_of_its_identity() -> None:
    config = tiny_config()
    moved = config.model_copy(update={"num_workers": 2, "threads_per_worker": 8})
    assert moved.identity() == config.identity()
    assert config.model_copy(update={"seed": 1}).identity() != config.identity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {}}, "at least 1 item"),
        ({"stages": {"t2v": tiny_stage("t2v"), "t2i": tiny_stage("t2i")}}, "the order is t2i"),
        ({"stages": {"a/b": tiny_stage("t2i")}}, "names a folder"),
        ({"num_workers": 3}, "must be a multiple of num_workers 3"),
        ({"data": {"height_px": 40, "width_px": 48}}, "multiple of 16 px"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_a_contradiction_is_refused_when_the_config_is_made(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_config(**changes)


def test_an_image_stage_takes_one_frame() -> None:
    with pytest.raises(ValidationError, match="t2i takes exactly 1"):
        tiny_stage("t2i", num_frames=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": "patch_pca", "conv": {"width": 32}}, "encoders.conv is set but autoenc"),
        ({"autoencoder": "conv", "kl": {"tile_px": 64}}, "encoders.kl is set but autoencoder is"),
        ({"autoencoder": "kl"}, "needs autoencoder_model"),
    ],
)
def test_settings_of_another_autoencoder_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderConfig.model_validate({"text_encoder": "minilm", **changes})
