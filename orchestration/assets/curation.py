"""From the videos of a source batch to training shards: one asset for each step of the data engine.

What a step needs is imported when it runs: the code server and the daemon load the definitions too, and
must not pay for Ray, OpenCV and the models.
"""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from data_engine.config import DataEngineConfig
from data_engine.tables import DatasetPaths, load_clips, made_from, read_clips
from orchestration.code_versions import code_version
from orchestration.costs import StepCost, step_cost
from orchestration.links import file_link
from orchestration.metadata import Shown, fitted
from orchestration.partitions import source_batches
from orchestration.ray_jobs import JobRequest
from orchestration.reporting import (
    AGAIN,
    clip_metadata,
    clips_after,
    column_schema,
    log_progress,
    report_metadata,
    score_metadata,
    shard_metadata,
    source_metadata,
    stage_speeds,
)
from orchestration.resources import RayResource, Workspace

GROUP = "curation"

Engine = dg.ResourceParam[DataEngineConfig]
"""The configuration of the data engine for this run (`orchestration.configuration.engine`)."""

_HANDLED = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
WHEN_OUT_OF_DATE = dg.AutomationCondition.eager() | (
    dg.AutomationCondition.code_version_changed().since(_HANDLED)
    & ~dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_in_progress()
)
"""For the sensor `flow_to_shards`: new sources, new results of the step before, or new code of this step."""

NEW_SOURCES = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(days=30), warn_window=timedelta(days=7)
)
"""Of where batches come in and where they end: what is trained on should not stay as it is for ever."""

_asset = partial(
    dg.asset,
    automation_condition=WHEN_OUT_OF_DATE,
    partitions_def=source_batches,
    group_name=GROUP,
    owners=["team:data"],
    # At most one run at a time holds it (dagster.yaml): two would share the same cores.
    pool="ray",
    retry_policy=AGAIN,
)


@_asset(
    kinds={"video", "ray"},
    tags={"data": "video"},
    code_version=code_version("probe"),
    freshness_policy=NEW_SOURCES,
)
def source_videos(
    context: dg.AssetExecutionContext,
    engine: Engine,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """The videos of a batch that can be read, with size, length and codec.

    A batch is a folder or a manifest below `sources`. What cannot be read goes to a quarantine table, with the reason.
    """
    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        source = workspace.source(context.partition_key)
        request = _request("probe_sources", engine, paths, source=source)
        ray.work(context, workspace, request, log_progress(context))
        shown = source_metadata(paths) | stage_speeds(paths, "probe")
    return _result(engine, workspace, paths.sources, shown, cost)


@_asset(
    deps=[source_videos],
    kinds={"opencv", "ray", "parquet"},
    tags={"data": "clips"},
    code_version=code_version("score"),
)
def scored_clips(
    context: dg.AssetExecutionContext,
    engine: Engine,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """Every clip that was cut from the sources, with its scores.

    No decision is taken here: a changed threshold needs no second decoding.
    """
    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        request = _request("score_clips", engine, paths)
        ray.work(context, workspace, request, log_progress(context))
        shown = score_metadata(engine, read_clips(paths.scored_clips))
        shown |= stage_speeds(paths, "cut", "score")
    return _result(engine, workspace, paths.scored_clips, shown, cost)


@_asset(
    deps=[scored_clips],
    kinds={"parquet"},
    tags={"data": "clips"},
    code_version=code_version("decide"),
)
def filtered_clips(
    context: dg.AssetExecutionContext, engine: Engine, workspace: Workspace
) -> dg.MaterializeResult[Any]:
    """Every clip with the decision of the filters: kept, or rejected with the first reason that applies."""
    from data_engine.pipeline import filter_clips

    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        filter_clips(engine, paths)
        shown = clip_metadata(paths, clips_after(paths.filtered_clips))
    return _result(engine, workspace, paths.filtered_clips, shown, cost)


@_asset(
    deps=[filtered_clips],
    kinds={"faiss", "parquet"},
    tags={"data": "clips"},
    code_version=code_version("decide"),
)
def deduplicated_clips(
    context: dg.AssetExecutionContext, engine: Engine, workspace: Workspace
) -> dg.MaterializeResult[Any]:
    """The clips that the filters kept; of near-duplicates the best is kept, and each copy names it."""
    from data_engine.pipeline import deduplicate_clips

    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        deduplicate_clips(engine, paths)
        shown = clip_metadata(paths, clips_after(paths.filtered_clips, paths.deduplicated_clips))
    return _result(engine, workspace, paths.deduplicated_clips, shown, cost)


@_asset(
    deps=[deduplicated_clips],
    kinds={"onnx", "ray", "parquet"},
    tags={"data": "captions"},
    code_version=code_version("caption"),
)
def captioned_clips(
    context: dg.AssetExecutionContext,
    engine: Engine,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """The clips that were kept, each with a caption and a score of how well it fits the frames."""
    paths = workspace.dataset(context.partition_key)
    tables = (paths.filtered_clips, paths.deduplicated_clips, paths.captioned_clips)
    with step_cost() as cost:
        request = _request("caption_clips", engine, paths)
        ray.work(context, workspace, request, log_progress(context))
        shown = clip_metadata(paths, clips_after(*tables)) | stage_speeds(paths, "caption")
    return _result(engine, workspace, paths.captioned_clips, shown, cost)


@_asset(
    deps=[captioned_clips],
    kinds={"webdataset", "ray"},
    tags={"data": "shards"},
    code_version=code_version("shard"),
    freshness_policy=NEW_SOURCES,
)
def shards(
    context: dg.AssetExecutionContext,
    engine: Engine,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """WebDataset tars of the captioned clips, ready to train on, and a manifest with their hashes."""
    from data_engine.clip_pages import write_clip_pages

    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        request = _request("write_shards", engine, paths)
        ray.work(context, workspace, request, log_progress(context))
        write_clip_pages(paths)
        shown = clip_metadata(paths, load_clips(paths)) | stage_speeds(paths, "encode", "shard")
        shown |= shard_metadata(paths, workspace.relative(paths.clip_pages))
    return _result(engine, workspace, paths.sharded_clips, shown, cost)


@_asset(
    deps=[shards],
    kinds={"html", "markdown"},
    tags={"data": "report"},
    code_version=code_version("report"),
)
def curation_report(
    context: dg.AssetExecutionContext, engine: Engine, workspace: Workspace
) -> dg.MaterializeResult[Any]:
    """The data card of a batch, and one HTML page with everything that was counted, measured and seen."""
    from data_engine.report import write_report

    paths = workspace.dataset(context.partition_key)
    with step_cost() as cost:
        page = write_report(engine, paths)
        shown = report_metadata(engine, paths)
    shown["page"] = file_link(workspace.relative(page))
    return _result(engine, workspace, paths.sharded_clips, shown, cost)


def _request(work: str, engine: DataEngineConfig, paths: DatasetPaths, **more: str) -> JobRequest:
    dataset = str(paths.root)
    arguments = {"config": engine.model_dump(mode="json"), "dataset": dataset, **more}
    return JobRequest(work, arguments, place=dataset)


def _result(
    engine: DataEngineConfig, workspace: Workspace, table: Path, shown: Shown, cost: StepCost
) -> dg.MaterializeResult[Any]:
    """The fingerprint of a table is its data version: the same again leaves what follows up to date."""
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made_from(table)),
        metadata=fitted(
            {
                **shown,
                **cost.metadata(),
                "dagster/row_count": pq.read_metadata(table).num_rows,
                "dagster/column_schema": column_schema(table),
                "config": engine.model_dump(mode="json"),
                "dagster/uri": workspace.relative(table),
            }
        ),
    )
