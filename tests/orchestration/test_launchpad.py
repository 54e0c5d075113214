"""What the launchpad offers and refuses: the configuration itself."""

from typing import Any

import dagster as dg
import pytest
from dagster._config import validate_config

from data_engine.config import DataEngineConfig
from data_engine.recipes import RECIPES, demo
from orchestration.launchpad import overrides_schema, recipe_schema, resolve_launched
from orchestration.overrides import OverrideError
from training.config import TrainConfig
from training.recipes import RECIPES as TRAINING_RECIPES

SCHEMA = recipe_schema(RECIPES, "demo", DataEngineConfig)


def complaints(launched: dict[str, Any]) -> list[str]:
    found = validate_config(dg.Shape(SCHEMA), launched)
    return [error.message for error in found.errors or []]


@pytest.mark.parametrize(
    "overrides",
    [
        {"filters": {"min_motion": 0.01, "max_brisque": None}},
        {"filters": {"min_motion": "p10"}},
        {"shots": {"detector": "content"}, "shards": {"duration_edges_s": [2.0, 4.0]}},
        {"subsets": {"sft": {"min_motion": 0.1}}},
        {"captions": {"captioners": ["template"], "num_frames": 2}},
    ],
)
def test_fields_of_the_configuration_are_taken(overrides: dict[str, Any]) -> None:
    launched = {"recipe": "demo", "overrides": overrides}
    assert complaints(launched) == []
    assert resolve_launched(RECIPES, launched) != demo()


def test_nothing_gives_the_recipe() -> None:
    assert resolve_launched(RECIPES, {"recipe": "demo"}) == demo()


@pytest.mark.parametrize(
    ("launched", "said"),
    [
        ({"recipe": "nope"}, "nope"),
        ({"overrides": {"filters": {"min_speed": 1}}}, 'unexpected config entry "min_speed"'),
        ({"overrides": {"shots": {"detector": "magic"}}}, "magic"),
        ({"overrides": {"shots": {"max_clip_s": "long"}}}, "long"),
        ({"overrides": {"scores": {"frame_scorers": "brisque"}}}, "scores:frame_scorers"),
    ],
)
def test_what_is_no_field_or_no_choice_is_refused(launched: dict[str, Any], said: str) -> None:
    assert said in " ".join(complaints(launched))


def test_a_value_out_of_range_is_refused_at_the_start() -> None:
    launched = {"recipe": "demo", "overrides": {"shots": {"max_clip_s": -1.0}}}
    with pytest.raises(OverrideError, match=r"shots.max_clip_s: .* greater than 0, got -1"):
        resolve_launched(RECIPES, launched)


def test_stages_are_those_of_the_recipe() -> None:
    schema = overrides_schema(TrainConfig, TRAINING_RECIPES["demo_tiny"]()).config_type
    good = {"stages": {"t2i": {"num_steps": 4}, "stiv": {"optimizer": {"name": "adamw"}}}}
    assert validate_config(schema, good).success
    found = validate_config(schema, {"stages": {"t2x": {"num_steps": 4}}})
    assert 'unexpected config entry "t2x"' in str(found.errors)
    assert "t2v" in str(found.errors)


@pytest.mark.parametrize("model", [DataEngineConfig, TrainConfig])
def test_every_field_is_there_and_says_what_it_is(model: type[Any]) -> None:
    section = overrides_schema(model).config_type
    assert list(getattr(section, "fields")) == list(model.model_fields)  # noqa: B009  (Dagster leaves it untyped)


def test_the_docstring_and_the_limit_are_shown() -> None:
    shots = overrides_schema(DataEngineConfig).config_type.fields["shots"].config_type  # pyright: ignore  # Dagster leaves it untyped
    assert shots.fields["max_clip_s"].description == (  # pyright: ignore  # the same
        "Longer shots are split into equal clips no longer than this. (> 0)"
    )
