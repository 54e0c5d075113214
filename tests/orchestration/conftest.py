"""One curated batch for all tests of the assets."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from orchestration import checks
from orchestration.assets import curation
from tests.orchestration.builders import BATCH, materialize, write_film

CURATION = [
    curation.source_videos,
    curation.scored_clips,
    curation.filtered_clips,
    curation.deduplicated_clips,
    curation.captioned_clips,
    curation.shards,
    curation.curation_report,
    checks.every_cut_clip_is_decided,
    checks.every_copy_has_its_original,
    checks.every_kept_clip_is_captioned,
    checks.every_kept_clip_is_in_a_shard,
    checks.every_shard_matches_its_hash,
    checks.no_clip_is_in_two_shards,
    checks.captions_pass_the_lints,
    checks.scores_are_distributed_as_before,
    *(check for check in checks.METADATA_CHECKS if len(check.check_key.asset_key.path) == 1),
]


@dataclass(frozen=True)
class Curated:
    """A home after the curation assets ran, and that run. Tests that change files copy the home first."""

    home: Path
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Generator[Curated]:
    home = tmp_path_factory.mktemp("home")
    write_film(home)
    # Not an ephemeral instance: that one complains of its closed database when the process ends.
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield Curated(home, instance, materialize(home, CURATION, instance, partition_key=BATCH))
