"""The configuration of a run as resources: written once in the launchpad, read by every asset of the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from data_engine.config import DataEngineConfig
from data_engine.recipes import RECIPES as DATA_RECIPES
from orchestration.launchpad import overrides_schema, recipe_schema, resolve_launched
from orchestration.overrides import merge_overrides
from orchestration.reporting import clear_failures
from training.config import TrainConfig
from training.recipes import RECIPES as TRAINING_RECIPES


@dg.resource(
    config_schema=recipe_schema(DATA_RECIPES, "demo", DataEngineConfig),
    description="The configuration of the data engine: a recipe, and fields that differ from it.",
)
def engine(context: dg.InitResourceContext) -> DataEngineConfig:
    """What `stiv curate --recipe ... --set ...` takes."""
    with clear_failures():
        return resolve_launched(DATA_RECIPES, context.resource_config)


@dataclass(frozen=True)
class Launched:
    """A training run as the launchpad describes it."""

    config: TrainConfig
    run: str
    """Folder below `runs`."""
    latents: str
    """Folder below `latents`."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {"config": self.config.model_dump(mode="json")}


def training_key(recipe: str) -> str:
    """The name of the resource that configures a recipe."""
    return f"train_{recipe}"


def training(recipe: str) -> dg.ResourceDefinition:
    """What `stiv train --recipe RECIPE --set ...` takes, and the folders of the run."""

    @dg.resource(
        config_schema={
            "run": dg.Field(
                str,
                default_value=recipe,
                description="Folder below `runs`. It holds one run: other settings or data need another name.",
            ),
            "latents": dg.Field(
                str,
                default_value=recipe,
                description="Folder below `latents`. It holds one encoding: other encoders or sizes need another name.",
            ),
            "overrides": overrides_schema(TrainConfig, TRAINING_RECIPES[recipe]()),
        },
        description=f"The run {recipe}: its folders, and fields that differ from the recipe.",
    )
    def launched(context: dg.InitResourceContext) -> Launched:
        given = context.resource_config
        with clear_failures():
            config = merge_overrides(TRAINING_RECIPES[recipe](), given.get("overrides", {}))
        return Launched(config, given["run"], given["latents"])

    return launched
