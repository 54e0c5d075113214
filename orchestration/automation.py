"""The jobs, and what starts by itself: a new source batch is curated; switched on, what follows from it too."""

import time
from pathlib import Path

import dagster as dg

from orchestration.assets.curation import GROUP as CURATION
from orchestration.assets.training import TRAINING
from orchestration.partitions import source_batches
from orchestration.resources import Workspace

SETTLED_S = 5.0
"""A batch with a file that changed less than this ago is still being copied: it has to wait."""

curate = dg.define_asset_job(
    "curate",
    selection=dg.AssetSelection.groups(CURATION),
    description="From the videos of one source batch to its shards.",
)

train_progressive = [
    dg.define_asset_job(
        f"train_progressive_{recipe.name}",
        selection=dg.AssetSelection.groups(recipe.group)
        - dg.AssetSelection.assets(*recipe.evaluations),
        description=f"From the shards of every batch to every stage of {recipe.name}, and samples of each.",
    )
    for recipe in TRAINING
]


evaluate = [
    dg.define_asset_job(
        f"evaluate_{recipe.name}",
        selection=dg.AssetSelection.assets(*recipe.evaluations),
        description=f"Every stage of {recipe.name} against real clips. What is trained stays as it is.",
    )
    for recipe in TRAINING
]

evaluate_nightly = [
    dg.ScheduleDefinition(
        name=f"{job.name}_nightly",
        job=job,
        cron_schedule="0 3 * * *",
        description="Off until it is switched on. Videos that the same weights made are judged again, not made again.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    for job in evaluate
]


@dg.sensor(
    job=curate,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_source_batches(
    context: dg.SensorEvaluationContext, workspace: Workspace
) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each new folder of videos below `sources`, and curates it.

    More videos in a folder that is known already are not noticed: materialise its partition again.
    """
    known = set(source_batches.get_partition_keys(dynamic_partitions_store=context.instance))
    new = [b for b in workspace.batches() if b not in known and _is_settled(workspace.source(b))]
    if not new:
        return dg.SkipReason(f"no new folder of videos; {len(known)} known")
    return dg.SensorResult(
        dynamic_partitions_requests=[source_batches.build_add_request(new)],
        run_requests=[dg.RunRequest(run_key=batch, partition_key=batch) for batch in new],
    )


flow_to_shards = dg.AutomationConditionSensorDefinition(
    "flow_to_shards",
    target=dg.AssetSelection.groups(CURATION)
    | dg.AssetSelection.assets(*(recipe.latents for recipe in TRAINING)),
    description=(
        "Materialises what is out of date from new sources to latents, by itself. Off until it is switched on: it also "
        "acts when the code of a step changes."
    ),
    default_status=dg.DefaultSensorStatus.STOPPED,
)


def _is_settled(folder: Path) -> bool:
    # Of the inode, not of the content: a copy may keep the latter's time.
    changed_s = max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))
    return time.time() - changed_s > SETTLED_S
