"""The root of the Dagster project: what `dagster dev -m orchestration.definitions` loads."""

import dagster as dg

from orchestration import checks
from orchestration.assets import curation, training
from orchestration.automation import curate, flow_to_shards, new_source_batches, train
from orchestration.configuration import engine
from orchestration.resources import RayResource, Workspace

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([curation, training]),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=[curate, train],
    sensors=[new_source_batches, flow_to_shards],
    resources={"workspace": Workspace(), "ray": RayResource(), "engine": engine},
    # One process for a run, so that Ray starts once; its work happens in processes of its own anyway.
    executor=dg.in_process_executor,
)
