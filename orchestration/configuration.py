"""The configuration of a run as resources: written once in the launchpad, read by every asset of the run."""

import dagster as dg

from data_engine.config import DataEngineConfig
from data_engine.recipes import RECIPES as DATA_RECIPES
from orchestration.launchpad import recipe_schema, resolve_launched
from orchestration.reporting import clear_failures


@dg.resource(
    config_schema=recipe_schema(DATA_RECIPES, "demo", DataEngineConfig),
    description="The configuration of the data engine: a recipe, and fields that differ from it.",
)
def engine(context: dg.InitResourceContext) -> DataEngineConfig:
    """What `stiv curate --recipe ... --set ...` takes."""
    with clear_failures():
        return resolve_launched(DATA_RECIPES, context.resource_config)
