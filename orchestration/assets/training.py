"""From the shards of every batch to models: for each recipe its latents, one asset for each stage, its samples and
its evaluation.

The keys are [recipe, stage]. A stage depends on the latents and on the stages that its weights come from; a recipe that
is added to `TRAINED` gets its assets here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from orchestration.assets.curation import shards
from orchestration.batch_checks import failed_batches
from orchestration.code_versions import code_version
from orchestration.configuration import Launched, training_key
from orchestration.costs import StepCost, step_cost
from orchestration.data_versions import latents_version, stage_version
from orchestration.metadata import Shown, fitted
from orchestration.ray_jobs import JobRequest
from orchestration.reporting import AGAIN, log_progress
from orchestration.resources import RayResource, Workspace
from orchestration.training_reports import (
    evaluation_metadata,
    latent_metadata,
    observe_training,
    sample_metadata,
    stage_metadata,
)
from training.config import TrainConfig
from training.recipes import RECIPES

TRAINED = ("demo_tiny", "stiv_tiny_96", "stiv_xl_512")
"""The recipes that are assets."""

NUM_PROMPTS = 4

_asset = partial(
    dg.asset,
    owners=["team:training"],
    # At most one run at a time holds it (dagster.yaml): two would share the same cores.
    pool="ray",
    retry_policy=AGAIN,
)

WHEN_CHECKED = (
    # A batch that failed has no shards, and must not keep the others waiting.
    dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
    # Passed or not: what did not pass is left out, and must not keep the others waiting either.
    & dg.AutomationCondition.all_deps_match(
        dg.AutomationCondition.all_checks_match(
            dg.AutomationCondition.check_passed() | dg.AutomationCondition.check_failed(),
            blocking_only=True,
        )
    )
)
"""For the sensor `flow_to_shards`: new shards, once their checks have said what they are worth."""


@dataclass(frozen=True)
class RecipeAssets:
    """The assets of one recipe."""

    name: str
    latents: dg.AssetsDefinition
    stages: Mapping[str, dg.AssetsDefinition]
    samples: Sequence[dg.AssetsDefinition]
    evaluations: Sequence[dg.AssetsDefinition]

    @property
    def group(self) -> str:
        return f"train_{self.name}"


def recipe_assets(name: str) -> RecipeAssets:
    """The assets of a recipe of the trainer."""
    config, group = RECIPES[name](), f"train_{name}"
    latents = _latents(name, group)
    stages = {stage: _stage(name, group, config, stage) for stage in config.stages}
    samples = [_samples(name, group, config, stage) for stage in config.stages]
    evaluations = [_evaluation(name, group, config, stage) for stage in config.stages]
    return RecipeAssets(name, latents, stages, samples, evaluations)


def _latents(recipe: str, group: str) -> dg.AssetsDefinition:
    @_asset(
        name="latent_shards",
        key_prefix=recipe,
        group_name=group,
        deps=[dg.AssetDep(shards, partition_mapping=dg.AllPartitionMapping())],
        automation_condition=WHEN_CHECKED,
        # Sources come in all the time; what was encoded a week ago misses them.
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7)),
        kinds={"pytorch", "webdataset", "ray"},
        tags={"recipe": recipe, "data": "latents"},
        code_version=code_version("latents"),
        required_resource_keys=_resources(recipe),
    )
    def latent_shards(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """The clips of every batch and their captions as the frozen encoders see them: training decodes nothing.

        Clips that are encoded already are not encoded again, so a new batch costs only its own clips.
        """
        launched, workspace, ray = _given(context, recipe)
        datasets, left_out = _good_datasets(context, workspace)
        out = workspace.latents(launched.latents)
        with step_cost() as cost:
            arguments = {**launched.arguments, "datasets": datasets, "out": str(out)}
            request = JobRequest("encode", arguments, place=str(out))
            result = ray.work(context, workspace, request, log_progress(context))
            version = latents_version(_latent_folders(launched, workspace))
        shown = {**latent_metadata(result), "batches_left_out": left_out}
        return _result(shown, cost, workspace.relative(out), version)

    return latent_shards


def _stage(recipe: str, group: str, config: TrainConfig, stage: str) -> dg.AssetsDefinition:
    starts = config.starts_of(stage)

    @_asset(
        name=stage,
        key_prefix=recipe,
        group_name=group,
        deps=[dg.AssetKey([recipe, name]) for name in ("latent_shards", *starts)],
        kinds={"pytorch", "ray"},
        tags={"recipe": recipe, "data": "weights", "task": config.stages[stage].task},
        code_version=code_version("train"),
        description=_describe(config, stage, starts),
        required_resource_keys=_resources(recipe),
    )
    def trained(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        launched, workspace, ray = _given(context, recipe)
        run = workspace.run(launched.run)
        with step_cost() as cost:
            latents = [str(path) for path in _latent_folders(launched, workspace)]
            arguments = {**launched.arguments, "datasets": latents, "run": str(run), "stage": stage}
            request = JobRequest("train", arguments, place=str(run))
            ray.work(context, workspace, request, observe_training(context, run))
            shown = dict(stage_metadata(run, stage))
            version = stage_version(run, stage)
        shown |= cost.price("train", shown["train_seconds"])
        shown["config"] = launched.config.model_dump(mode="json")
        return _result(shown, cost, workspace.relative(run), version)

    return trained


def _samples(recipe: str, group: str, config: TrainConfig, stage: str) -> dg.AssetsDefinition:
    @_asset(
        name=f"{stage}_samples",
        key_prefix=recipe,
        group_name=group,
        deps=[dg.AssetKey([recipe, stage])],
        kinds={"pytorch", "video"},
        tags={"recipe": recipe, "data": "samples", "task": config.stages[stage].task},
        code_version=code_version("sample"),
        description=f"What the averaged weights of {stage} make of captions of the data set, and of a first frame.",
        required_resource_keys=_resources(recipe),
    )
    def samples(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from data_engine.report import typical_clips

        launched, workspace, ray = _given(context, recipe)
        run = workspace.run(launched.run)
        with step_cost() as cost:
            clips = typical_clips(workspace.finished_datasets(), NUM_PROMPTS)
            arguments = {
                "run": str(run),
                "stage": stage,
                "datasets": [str(path) for path in _latent_folders(launched, workspace)],
                "prompts": [clip.main_text for clip, _ in clips],
                "first_frame": _keep(run / "first_frame.jpg", clips[0][1]),
            }
            request = JobRequest("sample", arguments, place=str(run))
            result = ray.work(context, workspace, request, log_progress(context))
            shown = sample_metadata(result)
        return _result(shown, cost, workspace.relative(run / stage / "previews"))

    return samples


class Evaluated(dg.Config):
    """How a stage is judged."""

    num_samples: int = Field(
        default=16, ge=2, description="Videos of each task. Distances of few videos are biased."
    )
    num_sampling_steps: int | None = Field(
        default=None, ge=1, description="Default: of the recipe."
    )
    guidance_scale: float | None = Field(default=None, ge=0, description="Default: of the recipe.")

    def plans(self, config: TrainConfig, stage: str) -> list[dict[str, Any]]:
        """One for each task of the stage: text alone, and the first frame where the stage was trained to keep it.

        By clips held out from training where there are some.
        """
        settings = config.stages[stage]
        tasks = ["t2i" if settings.task == "t2i" else "t2v"]
        if settings.task == "stiv" and "first" in settings.given:
            tasks.append("ti2v")
        sampling = {
            "num_sampling_steps": self.num_sampling_steps,
            "guidance_scale": self.guidance_scale,
        }
        held_out = all(config.stages[name].validation for name in config.needed_for(stage))
        same = {"num_samples": self.num_samples, "sampling": sampling, "held_out": held_out}
        return [{"task": task, **same} for task in tasks]


def _evaluation(recipe: str, group: str, config: TrainConfig, stage: str) -> dg.AssetsDefinition:
    @_asset(
        name=f"{stage}_evaluation",
        key_prefix=recipe,
        group_name=group,
        deps=[dg.AssetKey([recipe, stage])],
        kinds={"pytorch", "json"},
        tags={"recipe": recipe, "data": "metrics", "task": config.stages[stage].task},
        code_version=code_version("evaluate"),
        description=f"Videos of {stage} against real clips: distances, likeness of text, and of frames to a given one.",
        required_resource_keys=_resources(recipe),
    )
    def evaluation(
        context: dg.AssetExecutionContext, config: Evaluated
    ) -> dg.MaterializeResult[Any]:
        launched, workspace, ray = _given(context, recipe)
        run = workspace.run(launched.run)
        with step_cost() as cost:
            arguments = {
                "run": str(run),
                "stage": stage,
                "datasets": [str(paths.root) for paths in workspace.finished_datasets()],
                "plans": config.plans(launched.config, stage),
            }
            request = JobRequest("evaluate", arguments, place=str(run))
            result = ray.work(context, workspace, request, log_progress(context))
            shown = evaluation_metadata(result)
        return _result(shown, cost, workspace.relative(run / stage / "evaluation"))

    return evaluation


def _resources(recipe: str) -> set[str]:
    return {"workspace", "ray", training_key(recipe)}


def _given(
    context: dg.AssetExecutionContext, recipe: str
) -> tuple[Launched, Workspace, RayResource]:
    """The resources of `_resources`; their names follow from the recipe, so they cannot be parameters."""
    found = context.resources
    return getattr(found, training_key(recipe)), found.workspace, found.ray


def _good_datasets(
    context: dg.AssetExecutionContext, workspace: Workspace
) -> tuple[list[str], dict[str, str]]:
    """The data sets to encode, and the batches that are left out with the check that each failed."""
    datasets = {paths.root.name: str(paths.root) for paths in workspace.finished_datasets()}
    failed = failed_batches(context.instance, datasets)
    for batch, check in failed.items():
        context.log.warning(f"{batch} is left out: it failed {check}")
    if not datasets.keys() - failed.keys():
        raise dg.Failure(
            f"no batch has shards that passed their checks ({failed or 'there are none'}); "
            "materialise `shards` first",
            allow_retries=False,
        )
    return [root for batch, root in datasets.items() if batch not in failed], failed


def _latent_folders(launched: Launched, workspace: Workspace) -> list[Path]:
    """Every folder of latents that is there; the plan of a stage says what it lacks."""
    from training import encode

    folders = encode.latent_folders(launched.config, workspace.latents(launched.latents))
    found = [folder for folder in folders if (folder / "latents.json").exists()]
    if not found:
        raise dg.Failure(
            f"there are no latents in {launched.latents}; materialise them first",
            allow_retries=False,
        )
    return found


def _result(
    shown: Shown, cost: StepCost, uri: str, version: str | None = None
) -> dg.MaterializeResult[Any]:
    """Without a version of its own, that of an asset follows from its code and from what it is made of."""
    return dg.MaterializeResult(
        data_version=None if version is None else dg.DataVersion(version),
        metadata=fitted({**shown, **cost.metadata(), "dagster/uri": uri}),
    )


def _keep(path: Path, data: bytes) -> str:
    from data_engine.tables import write_atomically

    with write_atomically(path) as file:
        file.write(data)
    return str(path)


def _describe(config: TrainConfig, stage: str, starts: Sequence[str]) -> str:
    settings = config.stages[stage]
    sizes = ", ".join(f"{h}x{w}" for h, w in config.data_of(stage).sizes)
    origin = " and ".join(starts) or "fresh weights"
    return (
        f"{settings.task} on {settings.num_frames} frames of {sizes} px: {settings.num_steps} steps of "
        f"{settings.batch_size} clips, from {origin}. Finished, it is kept; interrupted, it goes on from its latest "
        "checkpoint."
    )


TRAINING = [recipe_assets(name) for name in TRAINED]
