"""The jobs, and what starts by itself: a new source batch is curated; switched on, what follows from it too."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg

from data_engine.errors import SourceError, UnreadableSourceError
from data_engine.sources.storage import is_url
from orchestration.assets.curation import GROUP as CURATION
from orchestration.assets.training import TRAINING, Evaluated, RecipeAssets
from orchestration.configuration import training_key
from orchestration.partitions import source_batches
from orchestration.resources import SOURCES_VARIABLE, Workspace
from training.config import TrainConfig

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


def _nightly(recipe: RecipeAssets) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"evaluate_{recipe.name}_nightly",
        job_name=f"evaluate_{recipe.name}",
        cron_schedule="0 3 * * *",
        description="Off until it is switched on. Judges every stage that was finished since it was last judged.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, workspace: Workspace
    ) -> list[dg.RunRequest] | dg.SkipReason:
        configs = _runs_of(recipe, workspace)
        due = {run: _unjudged(recipe, run, config) for run, config in configs.items()}
        if not any(due.values()):
            return dg.SkipReason(
                f"none of the {len(due)} runs of {recipe.name} has finished a stage since it was last judged"
            )
        return [
            dg.RunRequest(
                run_key=f"{context.scheduled_execution_time:%Y-%m-%d} {run.name}",
                asset_selection=[dg.AssetKey([recipe.name, f"{s}_evaluation"]) for s in stages],
                run_config=_config_of(recipe, run, configs[run]),
            )
            for run, stages in due.items()
            if stages
        ]

    return nightly


def _runs_of(recipe: RecipeAssets, workspace: Workspace) -> dict[Path, TrainConfig]:
    """The folders of the runs that were made from a recipe, whoever started them, each with its settings."""
    found: dict[Path, TrainConfig] = {}
    for path in sorted(workspace.run("").glob("*/config.json")):
        try:
            config = TrainConfig.model_validate(json.loads(path.read_bytes())["train"])
        except (ValueError, KeyError):
            # Of another version, or damaged: it cannot be judged either.
            continue
        if config.name == recipe.name:
            found[path.parent] = config
    return found


def _unjudged(recipe: RecipeAssets, run: Path, config: TrainConfig) -> list[str]:
    """The stages of a run that are finished, but not judged by each of their tasks since."""

    def is_due(stage: str) -> bool:
        finished = run / stage / "result.json"
        judged = [
            run / stage / "evaluation" / plan["task"] / "result.json"
            for plan in Evaluated().plans(config, stage)
        ]
        return finished.exists() and not all(
            path.exists() and path.stat().st_mtime >= finished.stat().st_mtime for path in judged
        )

    return [stage for stage in recipe.stages if stage in config.stages and is_due(stage)]


def _config_of(recipe: RecipeAssets, run: Path, config: TrainConfig) -> dict[str, Any]:
    """What the launchpad would say of a run: its folder, and the settings that it was trained with."""
    launched = {"run": run.name, "overrides": config.model_dump(mode="json")}
    return {"resources": {training_key(recipe.name): {"config": launched}}}


evaluate_nightly = [_nightly(recipe) for recipe in TRAINING]


@dg.sensor(
    job=curate,
    # A bucket is paid by the listing.
    minimum_interval_seconds=60 if is_url(os.environ.get(SOURCES_VARIABLE, "")) else 10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_source_batches(
    context: dg.SensorEvaluationContext, workspace: Workspace
) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each new folder of videos or manifest in the place of the sources, and curates it.

    A batch is taken once two looks in a row found it the same, since it may still be being copied. One that has changed
    since is curated again, which costs what is new.
    """
    known = set(source_batches.get_partition_keys(dynamic_partitions_store=context.instance))
    before = _Seen.from_cursor(context.cursor)
    try:
        batches = workspace.batches()
    except (SourceError, UnreadableSourceError) as error:
        raise dg.Failure(str(error)) from error
    now = _Seen(last={b.name: b.fingerprint for b in batches}, taken=dict(before.taken))
    settled = [b for b in batches if before.last.get(b.name) == b.fingerprint]
    changed = [b for b in settled if now.taken.get(b.name) != b.fingerprint]
    now.taken.update((b.name, b.fingerprint) for b in changed)
    # A partition that somebody added by hand is theirs to start, until its videos change.
    due = [b for b in changed if b.name not in known or b.name in before.taken]
    if not due:
        context.update_cursor(now.to_cursor())
        return dg.SkipReason(
            f"{len(batches)} batches, {len(batches) - len(settled)} still changing"
        )
    new = [b.name for b in due if b.name not in known]
    return dg.SensorResult(
        dynamic_partitions_requests=[source_batches.build_add_request(new)] if new else None,
        run_requests=[
            dg.RunRequest(run_key=f"{b.name} {b.fingerprint}", partition_key=b.name) for b in due
        ],
        cursor=now.to_cursor(),
    )


@dataclass(frozen=True)
class _Seen:
    """What the sensor remembers, by batch: the fingerprint of the last look, and the one that was taken."""

    last: dict[str, str]
    taken: dict[str, str]

    @classmethod
    def from_cursor(cls, cursor: str | None) -> Self:
        return cls(**json.loads(cursor)) if cursor else cls({}, {})

    def to_cursor(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


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
