"""From the shards of every batch to a model, and from there to videos."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from orchestration.assets.curation import shards
from orchestration.reporting import (
    clear_failures,
    latent_metadata,
    log_encoding,
    observe_training,
    sample_metadata,
    training_metadata,
)
from orchestration.resources import RayResource, Workspace

if TYPE_CHECKING:
    from training.config import TrainConfig

GROUP = "training"

_asset = partial(
    dg.asset,
    group_name=GROUP,
    owners=["team:training"],
    # At most one run at a time holds it (dagster.yaml): two would share the same cores.
    pool="ray",
    code_version="1",
)


class EncodingRecipe(dg.Config):
    """The run whose encoders make the latents, what to change in it, and which folder they get."""

    recipe: str = Field(default="demo_tiny", description="A recipe of the trainer, by name.")
    overrides: list[str] = Field(
        default=[], description="Changes as `section.field=value`, e.g. `stages.t2i.num_steps=50`."
    )
    latents: str = Field(
        default="demo_tiny",
        description="Folder below `latents`. It holds one encoding: other encoders or sizes need another name.",
    )

    def resolve(self) -> "TrainConfig":
        from orchestration.recipe import resolve
        from training.recipes import RECIPES

        return resolve(RECIPES, self.recipe, self.overrides)


class TrainingRecipe(EncodingRecipe):
    """Which run to make, what to change in it, on which latents, and which folder it gets."""

    run: str = Field(
        default="demo_tiny",
        description="Folder below `runs`. It holds one run: other settings or data need another name.",
    )


class SampleConfig(dg.Config):
    """What to show, and the noise to start from."""

    prompt: str = Field(
        default="",
        description="If empty: the caption of a clip of median motion, of the source that gave most clips.",
    )
    seed: int = Field(default=0, description="Another seed gives another video.")


@_asset(
    deps=[dg.AssetDep(shards, partition_mapping=dg.AllPartitionMapping())],
    automation_condition=dg.AutomationCondition.eager(),
    # Sources come in all the time; what was encoded a week ago misses them.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7)),
    kinds={"pytorch", "webdataset", "ray"},
)
def latent_shards(
    context: dg.AssetExecutionContext,
    config: EncodingRecipe,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """The clips of every batch and their captions as the frozen encoders of a run see them: training decodes nothing.

    Clips that are encoded already are not encoded again, so a new batch costs only its own clips.
    """
    from training.encode import encode
    from training.streaming.shards import fingerprint_of

    with clear_failures():
        train = config.resolve()
        datasets = [paths.root for paths in workspace.finished_datasets()]
        if not datasets:
            raise dg.Failure("no batch has shards yet; materialise `shards` first")
        result = encode(
            train, datasets, workspace.latents(config.latents), on_progress=log_encoding(context)
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(fingerprint_of(str(result.out), memory=None)),
        metadata={
            **latent_metadata(result),
            "batches": len(datasets),
            "config": train.model_dump(mode="json"),
            "dagster/uri": workspace.relative(result.out),
        },
    )


@_asset(deps=[latent_shards], kinds={"pytorch", "ray"})
def training_run(
    context: dg.AssetExecutionContext,
    config: TrainingRecipe,
    workspace: Workspace,
    ray: RayResource,
) -> dg.MaterializeResult[Any]:
    """STIV, trained stage by stage on the latents of every batch: images, then videos, then videos from an image.

    Finished stages are kept, and an interrupted one goes on from its latest checkpoint.
    """
    from training.launch import fit

    with clear_failures():
        train = config.resolve()
        latents, run_dir = workspace.latents(config.latents), workspace.run(config.run)
        result = fit(train, [latents], run_dir, resume=True, on_progress=observe_training(context))
    return dg.MaterializeResult(
        metadata={
            **training_metadata(result),
            "config": train.model_dump(mode="json"),
            "dagster/uri": workspace.relative(run_dir),
        }
    )


@_asset(deps=[training_run], kinds={"pytorch", "video"})
def samples(
    context: dg.AssetExecutionContext, config: SampleConfig, workspace: Workspace
) -> dg.MaterializeResult[Any]:
    """Two videos from the latest run: one from a prompt alone, one from a prompt and a first frame.

    The first frame is that of the kept clip with the median motion.
    """
    from data_engine.report import typical_clip
    from data_engine.tables import write_atomically
    from training.generate import generate

    run_dir = latest_run_dir(context.instance, workspace)
    folder, image = run_dir / "samples", run_dir / "first_frame.jpg"
    with clear_failures():
        clip, jpeg = typical_clip(workspace.finished_datasets())
        with write_atomically(image) as file:
            file.write(jpeg)
        prompt, seed = config.prompt or clip.main_text, config.seed
        context.log.info(f"prompt: {prompt}")
        from_text = generate(run_dir, prompt, folder / "text_to_video.mp4", seed=seed)
        out = folder / "image_to_video.mp4"
        from_image = generate(run_dir, prompt, out, image_path=image, seed=seed)
    shown = sample_metadata(from_text, from_image)
    return dg.MaterializeResult(metadata={**shown, "dagster/uri": workspace.relative(folder)})


def latest_run_dir(instance: dg.DagsterInstance, workspace: Workspace) -> Path:
    """The folder of the run that was materialised last.

    Raises:
        dg.Failure: none was.
    """
    event = instance.get_latest_materialization_event(dg.AssetKey("training_run"))
    if event is None or event.asset_materialization is None:
        raise dg.Failure("no training_run was materialised yet; materialise it first")
    return workspace.home / str(event.asset_materialization.metadata["dagster/uri"].value)
