import pytest
import torch
from pydantic import ValidationError

from modeling.config import PRESETS, STIVConfig, preset
from modeling.stiv import STIV
from tests.modeling.builders import small_config

PUBLISHED = {"XL": (28, 1152, 18), "XXL": (38, 1536, 24), "M": (46, 3072, 48)}


def _full(name: str, *, temporal_attention: bool = True) -> STIVConfig:
    return preset(
        name,
        latent_channels=8,
        text_width=1280,
        pooled_text_width=1280,
        temporal_attention=temporal_attention,
    )


def test_the_preset_names_are_frozen() -> None:
    assert tuple(PRESETS) == ("tiny", "small", "XL", "XXL", "M")


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_those_of_table_1(name: str) -> None:
    config = _full(name)
    assert (config.depth, config.hidden_size, config.num_heads) == PUBLISHED[name]
    assert config.head_width == 64


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("temporal", "per_block"), [(True, 20), (False, 16)])
def test_block_parameters_follow_the_published_formula(
    name: str, temporal: bool, per_block: int
) -> None:
    config = _full(name, temporal_attention=temporal)
    with torch.device("meta"):
        model = STIV(config)
    expected = (6 + per_block * config.depth) * config.hidden_size**2
    assert abs(model.num_block_parameters / expected - 1) < 0.01


def test_the_tiny_preset_has_a_few_million_parameters() -> None:
    config = preset("tiny", latent_channels=16, text_width=384, pooled_text_width=384)
    with torch.device("meta"):
        assert 5e6 < STIV(config).num_parameters < 15e6


def test_an_unknown_preset_names_the_choices() -> None:
    with pytest.raises(ValueError, match="'huge'; choose one of tiny, small, XL, XXL, M"):
        preset("huge", latent_channels=4, text_width=8, pooled_text_width=8)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_layers"):
        small_config(num_layers=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "multiple of 4"),
        ({"frequency_width": 7}, "must be even"),
        ({"depth": 0}, "greater than 0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(**changes)


def test_a_config_survives_json() -> None:
    config = small_config()
    assert STIVConfig.model_validate_json(config.model_dump_json()) == config
