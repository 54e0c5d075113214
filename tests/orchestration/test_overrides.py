import pytest

from data_engine import recipes as data_recipes
from data_engine.config import DataEngineConfig
from orchestration.overrides import OverrideError, apply_overrides
from orchestration.recipe import resolve
from training import recipes as training_recipes


def test_overrides_change_only_what_they_name() -> None:
    config = data_recipes.demo()
    changed = apply_overrides(config, ["filters.min_motion=0.5", "filters.max_brisque=null"])
    assert changed.filters.min_motion == 0.5
    assert changed.filters.max_brisque is None
    assert changed.model_copy(update={"filters": config.filters}) == config


def test_a_stage_is_named_by_its_key() -> None:
    config = resolve(training_recipes.RECIPES, "demo_tiny", ["stages.t2v.num_steps=7"])
    assert config.stages["t2v"].num_steps == 7
    assert config.stages["t2i"] == training_recipes.demo_tiny().stages["t2i"]


def test_a_table_of_named_sections_is_given_as_a_whole() -> None:
    override = 'subsets={"sft": {"min_sharpness": "p60"}}'
    config = apply_overrides(DataEngineConfig(), [override])
    assert config.subsets["sft"].min_sharpness == "p60"
    again = apply_overrides(config, ["subsets.sft.min_motion=0.5"])
    assert again.subsets["sft"].model_fields_set == {"min_motion", "min_sharpness"}
    with pytest.raises(OverrideError, match=r"subsets.sft.min_sharp: Extra inputs"):
        apply_overrides(DataEngineConfig(), ['subsets={"sft": {"min_sharp": 1}}'])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "filters.min_motoin=1",
            r"--set filters.min_motoin: filters has no 'min_motoin'; near it: min_motion,",
        ),
        ("filters.min_motion_score=1", r"filters has no 'min_motion_score'; near it: min_motion"),
        ("filters.xyz=1", r"filters has no 'xyz'; valid: min_duration_s, max_duration_s"),
        ("filter.min_motion=1", r"the configuration has no 'filter'; near it: filters"),
        ("filters.min_motion", r"expected section.field=value"),
        ("filters.min_motion=fast", r"filters.min_motion: .*number.*got 'fast'"),
        ("filters=1", r"that is a section; valid: filters.min_duration_s"),
        ("shots.detector=magic", r"shots.detector: .*'adaptive'.*'content'.*got 'magic'"),
        ("shots.stride_s=99", r"stride_s is 99.0 and detector is .adaptive."),
        ("shards.crf.x=1", r"shards.crf has no 'x'"),
    ],
)
def test_a_wrong_override_names_the_choices(override: str, message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        apply_overrides(data_recipes.demo(), [override])


def test_an_unknown_recipe_names_the_recipes() -> None:
    with pytest.raises(OverrideError, match=r"no such recipe; valid: demo, stiv_256"):
        resolve(data_recipes.RECIPES, "dmeo", [])
