"""The root of the Dagster project: what `dagster dev -m orchestration.definitions` loads."""

import dagster as dg

from orchestration import checks
from orchestration.assets import curation
from orchestration.assets.training import TRAINING
from orchestration.automation import (
    curate,
    evaluate,
    evaluate_nightly,
    flow_to_shards,
    new_source_batches,
    train_progressive,
)
from orchestration.configuration import engine, training, training_key
from orchestration.resources import RayResource, Workspace

_training_assets = [
    asset for r in TRAINING for asset in (r.latents, *r.stages.values(), *r.samples, *r.evaluations)
]

defs = dg.Definitions(
    assets=[*dg.load_assets_from_modules([curation]), *_training_assets],
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=[curate, *train_progressive, *evaluate],
    schedules=evaluate_nightly,
    sensors=[new_source_batches, flow_to_shards],
    resources={
        "workspace": Workspace(),
        "ray": RayResource(),
        "engine": engine,
        **{training_key(recipe.name): training(recipe.name) for recipe in TRAINING},
    },
    # One process for a run, so that Ray starts once; its work happens in processes of its own anyway.
    executor=dg.in_process_executor,
)
