"""What must hold: no clip is lost on the way, no shard is damaged, every stage learned something.

Each check can also be run by itself from the UI. Those on data block: what follows does not run on bad data.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from data_engine.schema import MANIFEST_NAME, ClipRecord, ClipStatus, ShardManifest
from data_engine.tables import DatasetPaths, load_clips, read_clips, read_table
from orchestration.assets.curation import (
    Engine,
    captioned_clips,
    curation_report,
    deduplicated_clips,
    filtered_clips,
    scored_clips,
    shards,
    source_videos,
)
from orchestration.assets.training import TRAINING
from orchestration.private_parts import private_parts
from orchestration.reporting import clear_failures, clips_after
from orchestration.resources import Workspace

MAX_DRIFT = 0.2
"""Largest difference of two cumulative distributions of a score that is taken for the same footage."""
_MATERIALIZATIONS = 20


@dg.asset_check(asset=filtered_clips, blocking=True)
def every_cut_clip_is_decided(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """Kept + rejected + failed clips are the clips that were cut, no more and no fewer."""
    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.filtered_clips.exists()]
        clips = [clip for d in datasets for clip in clips_after(d.filtered_clips)]
        num_lost = sum(len(_ids(d.scored_clips) ^ _ids(d.filtered_clips)) for d in datasets)
        return _adds_up(datasets, clips, num_lost)


@dg.asset_check(asset=deduplicated_clips, blocking=True)
def every_copy_has_its_original(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """Each clip that was dropped as a copy names a clip that is kept, and no clip was lost.

    A clip of another data set (`duplicates.also`) is not looked for.
    """
    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.deduplicated_clips.exists()]
        clips = [c for d in datasets for c in clips_after(d.filtered_clips, d.deduplicated_clips)]
        kept = {clip.clip_id for clip in clips if clip.status is ClipStatus.KEPT}
        named = [c.duplicate_of for c in clips if c.duplicate_of is not None]
        orphans = [name for name in named if "/" not in name and name not in kept]
        num_lost = sum(_num_lost(d.filtered_clips, d.deduplicated_clips) for d in datasets)
        return _adds_up(datasets, clips, num_lost + len(orphans))


@dg.asset_check(asset=captioned_clips, blocking=True)
def every_kept_clip_is_captioned(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """Kept + rejected + failed clips are the clips that were cut, and each that was kept came to captioning."""
    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.captioned_clips.exists()]
        tables = [(d.filtered_clips, d.deduplicated_clips, d.captioned_clips) for d in datasets]
        clips = [clip for paths in tables for clip in clips_after(*paths)]
        num_lost = sum(_num_lost(d.deduplicated_clips, d.captioned_clips) for d in datasets)
        return _adds_up(datasets, clips, num_lost)


@dg.asset_check(asset=shards, blocking=True)
def every_kept_clip_is_in_a_shard(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """Kept + rejected + failed clips are the clips that were cut, and the manifest lists all that were kept."""
    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.sharded_clips.exists()]
        clips = [clip for d in datasets for clip in load_clips(d)]
        listed = {s.clip_id for d in datasets for e in _manifest(d).shards for s in e.samples}
        kept = {clip.clip_id for clip in clips if clip.status is ClipStatus.KEPT}
        return _adds_up(datasets, clips, num_lost=len(listed ^ kept))


@dg.asset_check(asset=shards, blocking=True)
def every_shard_matches_its_hash(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """Every tar that a manifest lists is there and has the SHA-256 that the manifest says."""
    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.sharded_clips.exists()]
        entries = [
            (d.shards / entry.name, entry.sha256) for d in datasets for entry in _manifest(d).shards
        ]
    damaged = [workspace.relative(path) for path, sha256 in entries if _sha256(path) != sha256]
    return dg.AssetCheckResult(
        passed=not damaged,
        description=f"damaged or absent: {', '.join(damaged)}" if damaged else None,
        metadata={"shards": len(entries), "shards_damaged": len(damaged)},
    )


@dg.asset_check(asset=shards, blocking=True)
def no_clip_is_in_two_shards(
    context: dg.AssetCheckExecutionContext, workspace: Workspace
) -> dg.AssetCheckResult:
    """No clip of this batch is in a second shard, of this batch or of another: it would be learned twice."""
    with clear_failures():
        mine = {d.root for d in _datasets(context, workspace)}
        places: dict[str, list[str]] = {}
        for paths in workspace.finished_datasets():
            for entry in _manifest(paths).shards:
                for sample in entry.samples:
                    place = workspace.relative(paths.shards / entry.name)
                    places.setdefault(sample.clip_id, []).append(place)
        listed = {
            s.clip_id
            for d in workspace.finished_datasets()
            if d.root in mine
            for e in _manifest(d).shards
            for s in e.samples
        }
    twice = {clip: places[clip] for clip in listed if len(places[clip]) > 1}
    first = next(iter(twice.items()), None)
    return dg.AssetCheckResult(
        passed=not twice,
        description=f"{first[0]} is in {' and in '.join(first[1])}" if first else None,
        metadata={"clips": len(listed), "clips_twice": len(twice)},
    )


@dg.asset_check(asset=captioned_clips)
def captions_pass_the_lints(
    context: dg.AssetCheckExecutionContext, engine: Engine, workspace: Workspace
) -> dg.AssetCheckResult:
    """No first caption of a kept clip is a refusal, chatter, a repetition, or too short or too long."""
    from data_engine.captioning.lints import lint

    with clear_failures():
        datasets = [d for d in _datasets(context, workspace) if d.captioned_clips.exists()]
        clips = [c for d in datasets for c in read_clips(d.captioned_clips)]
    captions = [c.captions[0] for c in clips if c.captions and c.status is ClipStatus.KEPT]
    found = [f for c in captions if (f := lint(c.text, engine.captions.lints, c.prompt))]
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"for example {found[0].fault}: {found[0].detail}" if found else None,
        metadata={"captions": len(captions), "captions_at_fault": len(found)},
    )


@dg.asset_check(asset=scored_clips)
def scores_are_distributed_as_before(
    context: dg.AssetCheckExecutionContext,
) -> dg.AssetCheckResult:
    """No score of this batch is distributed unlike that of the batch before it: other footage, or a broken scorer.

    Judged against the newest other batch; against itself as it was before where there is no other.
    """
    from data_engine.drift import deciles_from, drift

    records = _materializations(context, scored_clips.key)
    partition = _partition(context) or (records[0].partition_key if records else None)
    mine = _materializations(context, scored_clips.key, partition)
    others = [record for record in records if record.partition_key != partition]
    before = others or mine[1:]
    if not mine or not before:
        return dg.AssetCheckResult(passed=True, description="there is nothing before it")
    against = before[0].partition_key
    moved = drift(deciles_from(_deciles(before[0])), deciles_from(_deciles(mine[0])))
    far = [d for d in moved if d.distance > max(MAX_DRIFT, d.by_chance)]
    unlike = ", ".join(f"{d.score} by {d.distance:.2f}" for d in far)
    return dg.AssetCheckResult(
        passed=not far,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"against {against}: {unlike}" if far else None,
        metadata={
            "against": str(against),
            **{f"{d.score}_drift": round(d.distance, 3) for d in moved},
        },
    )


def _metadata_check(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=key, name="metadata_names_no_place_and_no_secret")
    def metadata_names_no_place_and_no_secret(
        context: dg.AssetCheckExecutionContext,
    ) -> dg.AssetCheckResult:
        """What the asset shows is the same on every machine, and no key or password of its environment."""
        records = _materializations(context, key, _partition(context))
        newest = records[0].asset_materialization if records else None
        found = private_parts(newest.metadata, os.environ) if newest else []
        return dg.AssetCheckResult(passed=not found, description=", ".join(found[:10]) or None)

    return metadata_names_no_place_and_no_secret


def _loss_check(recipe: str, stage: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=dg.AssetKey([recipe, stage]), name="loss_fell")
    def loss_fell(
        context: dg.AssetCheckExecutionContext, workspace: Workspace
    ) -> dg.AssetCheckResult:
        """The last tenth of the steps has a lower mean loss than the first, and so have clips that are held out.

        Without a `validation` of the stage there are none: then the loss of training alone decides, and the result says so.
        """
        from training.run_directory import RunDirectory
        from training.step_lines import read_steps

        key = dg.AssetKey([recipe, stage])
        with clear_failures():
            run = RunDirectory(
                latest_run_dir(context.op_execution_context.instance, workspace, key)
            )
            directory = run.stage(stage)
            result = directory.result()
            assert result is not None, "the stage was materialised"
            held_out = [line["loss"] for line in read_steps(directory.validation)]
            is_asked = run.load_config().stages[stage].validation is not None
        return judge_losses((result.first_loss, result.last_loss), held_out, is_asked=is_asked)

    return loss_fell


def judge_losses(
    training: tuple[float, float], held_out: Sequence[float], *, is_asked: bool
) -> dg.AssetCheckResult:
    """Whether they fell: of the first and last tenth of the steps, and of each validation where there are two."""
    change = {"change": round(training[1] / training[0] - 1, 4)}
    judged_by = "the loss on clips that are trained on, and on held-out ones"
    if len(held_out) > 1:
        change["validation_change"] = round(held_out[-1] / held_out[0] - 1, 4)
    elif is_asked:
        judged_by = "the loss on clips that are trained on alone: validation ran once, and needs `every_steps` below half of the steps to show a fall"
    else:
        judged_by = "the loss on clips that are trained on alone: the stage has no `validation`, so no clips are held out"
    return dg.AssetCheckResult(
        passed=all(c < 0 for c in change.values()),
        description=f"judged by {judged_by}",
        metadata={**change, "held_out": len(held_out) > 1},
    )


def latest_run_dir(instance: dg.DagsterInstance, workspace: Workspace, key: dg.AssetKey) -> Path:
    """The folder of the run that a stage was last materialised in.

    Raises:
        dg.Failure: it never was.
    """
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"{key.to_user_string()} was not materialised yet; materialise it first")
    return workspace.home / str(event.asset_materialization.metadata["dagster/uri"].value)


LOSS_CHECKS = [_loss_check(assets.name, stage) for assets in TRAINING for stage in assets.stages]


METADATA_CHECKS = [
    _metadata_check(asset.key)
    for asset in (
        *(source_videos, scored_clips, filtered_clips, deduplicated_clips, captioned_clips),
        *(shards, curation_report),
        *(a for r in TRAINING for a in (r.latents, *r.stages.values(), *r.samples, *r.evaluations)),
    )
]


def _materializations(
    context: dg.AssetCheckExecutionContext, key: dg.AssetKey, partition: str | None = None
) -> Sequence[dg.EventLogRecord]:
    """The last ones of an asset, or of one batch of it, the newest first."""
    chosen = dg.AssetRecordsFilter(
        asset_key=key, asset_partitions=[partition] if partition else None
    )
    instance = context.op_execution_context.instance
    return instance.fetch_materializations(chosen, limit=_MATERIALIZATIONS).records


def _deciles(record: dg.EventLogRecord) -> Any:
    shown = record.asset_materialization
    found = shown.metadata.get("score_deciles") if shown else None
    return {} if found is None else found.value


def _partition(context: dg.AssetCheckExecutionContext) -> str | None:
    """The batch of this run; None where a check is run by itself."""
    run = context.op_execution_context
    return run.partition_key if run.has_partition_key else None


def _datasets(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> list[DatasetPaths]:
    """The data set of the batch of this run; all of them where a check is run by itself."""
    partition = _partition(context)
    return [workspace.dataset(partition)] if partition else workspace.datasets()


def _adds_up(
    datasets: list[DatasetPaths], clips: list[ClipRecord], num_lost: int
) -> dg.AssetCheckResult:
    from data_engine.report import count_cut

    num_cut = sum(map(count_cut, datasets))
    counts = Counter(clip.status for clip in clips)
    kept, rejected, failed = (
        counts[status] for status in (ClipStatus.KEPT, ClipStatus.REJECTED, ClipStatus.FAILED)
    )
    return dg.AssetCheckResult(
        passed=kept + rejected + failed == num_cut and not num_lost,
        description=f"{kept} kept + {rejected} rejected + {failed} failed, {num_cut} cut, {num_lost} lost",
        metadata={
            "clips_cut": num_cut,
            "clips_kept": kept,
            "clips_rejected": rejected,
            "clips_failed": failed,
            "clips_lost": num_lost,
        },
    )


def _num_lost(before: Path, after: Path) -> int:
    """Clips that one table kept and the next does not have, or the other way round."""
    kept = {clip.clip_id for clip in read_clips(before) if clip.status is ClipStatus.KEPT}
    return len(kept ^ {clip.clip_id for clip in read_clips(after)})


def _ids(table: Path) -> set[str]:
    return {row["clip_id"] for row in read_table(table, columns=["clip_id"])}


def _manifest(paths: DatasetPaths) -> ShardManifest:
    return ShardManifest.from_json((paths.shards / MANIFEST_NAME).read_bytes())


def _sha256(path: Path) -> str | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
