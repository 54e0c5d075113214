import pytest
from pydantic import ValidationError

from tests.training.builders import tiny_config, tiny_stage
from training.config import EncoderConfig
from training.recipes import demo_tiny


def test_the_demo_runs_the_chain_on_two_workers() -> None:
    config = demo_tiny()
    assert [stage.task for stage in config.stages.values()] == ["t2i", "t2v", "stiv"]
    assert (config.num_workers, config.threads_per_worker, config.device) == (2, 1, "cpu")


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


def test_an_identity_with_a_validation_is_read_again() -> None:
    """It leaves out how often to validate, which has no default; a run could not be resumed."""
    validation = {"share": 0.5, "every_steps": 7, "batch_size": 2, "num_batches": 3}
    config = tiny_config(stages={"t2v": tiny_stage("t2v", validation=validation)})
    identity = config.identity()
    assert identity["stages"]["t2v"]["validation"] == {"share": 0.5}
    assert type(config).identity_of(identity) == identity


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
