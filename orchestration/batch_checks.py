"""Which batches training must not see: those that failed a check that blocks, on their shards or on the way there.

Dagster keeps one state of a check, whatever batch it was last executed on; the history tells of each batch.
"""

from collections.abc import Collection, Generator

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as COMPLETED,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG

from orchestration.assets import curation

_PAGE = 500


def failed_batches(instance: dg.DagsterInstance, batches: Collection[str]) -> dict[str, str]:
    """Those of `batches` whose last result of a blocking check is bad, each with the name of that check.

    Raises:
        dg.Failure: a check failed when it was executed over all batches, which does not say of which.
    """
    failed: dict[str, str] = {}
    for key in blocking_checks():
        for batch, passed in _last_results(instance, key, batches).items():
            if not passed:
                failed.setdefault(batch, key.name)
    return failed


def blocking_checks() -> list[dg.AssetCheckKey]:
    """Of the curation assets."""
    # They know the training assets, which ask here when they run.
    from orchestration import checks

    assets = dg.load_assets_from_modules([curation])
    keys = {asset.key for asset in assets if isinstance(asset, dg.AssetsDefinition)}
    specs = [
        spec
        for found in dg.load_asset_checks_from_modules([checks])
        for spec in found.check_specs
        if spec.blocking and spec.asset_key in keys
    ]
    return [spec.key for spec in specs]


def _last_results(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, batches: Collection[str]
) -> dict[str, bool]:
    """Of the batches that it was ever executed on: whether the last time it passed."""
    last: dict[str, bool] = {}
    for batch, passed in _history(instance, key):
        if batch is not None:
            last.setdefault(batch, passed)
        elif passed or last.keys() >= set(batches):
            break
        else:
            raise dg.Failure(
                f"{key.name} failed over all batches, and its result does not name those at fault; mend what it "
                "says and execute it again, or materialise `shards` of each batch again",
                allow_retries=False,
            )
        if last.keys() >= set(batches):
            break
    return {batch: last[batch] for batch in batches if batch in last}


def _history(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> Generator[tuple[str | None, bool]]:
    """The results of a check with their batch, the last first; None where it was executed over all."""
    cursor: int | None = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        key, limit=_PAGE, cursor=cursor, status=COMPLETED
    ):
        runs = instance.get_runs(dg.RunsFilter(run_ids=list({r.run_id for r in records})))
        batches = {run.run_id: run.tags.get(PARTITION_NAME_TAG) for run in runs}
        for record in records:
            assert record.evaluation is not None, "it is completed"
            yield batches.get(record.run_id), record.evaluation.passed
        cursor = records[-1].id
