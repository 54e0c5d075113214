"""The curation assets on a small real film, in this process."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterResourceFunctionError

from data_engine.clip_pages import page_of
from data_engine.schema import ClipRecord, ClipStatus, Rejection
from data_engine.tables import DatasetPaths, made_from, read_clips, write_clips
from orchestration import checks
from orchestration.assets import curation
from orchestration.metadata import MAX_METADATA_BYTES
from orchestration.resources import Workspace
from tests.orchestration.builders import BATCH, materialize, metadata_of, new_instance
from tests.orchestration.conftest import CURATION, Curated

SHARD = "shard-16x9-2to5s-144p-000000.tar"
CLIP_TABLES = ["filtered_clips", "deduplicated_clips", "captioned_clips", "shards"]

# In a step, in the launchpad, and while the configuration is put together.
WAYS_TO_FAIL = (dg.Failure, dg.DagsterInvalidConfigError, DagsterResourceFunctionError)

needs_ray = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]


def rewrite(table: Path, clips: list[ClipRecord]) -> None:
    write_clips(table, clips, made_from(table))


class TestCurated:
    """What one run leaves behind."""

    pytestmark = needs_ray

    def test_every_check_passes(self, curated: Curated) -> None:
        evaluations = curated.result.get_asset_check_evaluations()
        assert len(evaluations) == len(CURATION) - 7
        assert {e.check_name: e.passed for e in evaluations} == {
            "every_cut_clip_is_decided": True,
            "every_copy_has_its_original": True,
            "every_kept_clip_is_captioned": True,
            "every_kept_clip_is_in_a_shard": True,
            "every_shard_matches_its_hash": True,
            "no_clip_is_in_two_shards": True,
            "captions_pass_the_lints": True,
            "scores_are_distributed_as_before": True,
            "metadata_names_no_place_and_no_secret": True,
        }

    def test_sources_are_counted(self, curated: Curated) -> None:
        shown = metadata_of(curated.result, "source_videos")
        assert (shown["sources_read"], shown["sources_quarantined"]) == (1, 0)
        assert shown["source_hours"] == pytest.approx(6 / 3600, abs=1e-4)
        assert "film.mp4" in shown["report"]

    @pytest.mark.parametrize("asset", CLIP_TABLES)
    def test_the_counts_add_up(self, curated: Curated, asset: str) -> None:
        shown = metadata_of(curated.result, asset)
        assert (shown["clips_cut"], shown["clips_kept"], shown["clips_rejected"]) == (3, 2, 1)
        assert shown["clips_failed"] == 0
        assert shown["kept_hours"] == pytest.approx(4 / 3600, abs=1e-4)

    def test_scores_are_shown_before_any_decision(self, curated: Curated) -> None:
        shown = metadata_of(curated.result, "scored_clips")
        assert (shown["clips_cut"], shown["clips_failed"]) == (3, 0)
        assert "![score histograms](data:image/png;base64," in shown["report"]

    @pytest.mark.parametrize("asset", ["source_videos", "scored_clips", *CLIP_TABLES])
    def test_a_materialisation_stays_small(self, curated: Curated, asset: str) -> None:
        (event,) = curated.result.asset_materializations_for_node(asset)
        assert len(dg.serialize_value(event)) < MAX_METADATA_BYTES

    def test_each_stage_shows_its_speed_and_what_it_held(self, curated: Curated) -> None:
        speeds = {
            "source_videos": "probe_sources_per_s",
            "scored_clips": "cut_video_s_per_s",
            "captioned_clips": "caption_clips_per_s",
            "shards": "encode_video_s_per_s",
        }
        for asset, speed in speeds.items():
            shown = metadata_of(curated.result, asset)
            assert shown[speed] > 0
            assert shown["step_core_seconds"] >= shown["step_seconds"] > 0

    def test_every_clip_can_be_reached_by_its_id(self, curated: Curated) -> None:
        shown = metadata_of(curated.result, "shards")
        pages = curated.home / shown["lineage_of_all_clips"]
        assert pages.exists()
        for clip in read_clips(Workspace(root=str(curated.home)).dataset(BATCH).filtered_clips):
            name, _, place = page_of(clip.clip_id).partition("#")
            assert f'id="{place}"' in (pages.parent / name).read_text()

    def test_rows_are_those_of_the_table(self, curated: Curated) -> None:
        rows = [metadata_of(curated.result, a)["dagster/row_count"] for a in CLIP_TABLES]
        assert rows == [3, 2, 2, 2]

    @pytest.mark.parametrize("asset", CLIP_TABLES)
    def test_the_report_has_pictures_and_stays_small(self, curated: Curated, asset: str) -> None:
        report = metadata_of(curated.result, asset)["report"]
        assert "![funnel](data:image/png;base64," in report
        assert "![kept clips](data:image/jpeg;base64," in report
        assert "![rejected clips](data:image/jpeg;base64," in report
        assert len(report) < MAX_METADATA_BYTES

    def test_the_report_shows_the_data_card_and_the_clips_at_the_limits(
        self, curated: Curated
    ) -> None:
        shown = metadata_of(curated.result, "curation_report")
        assert "## Sources and licences" in shown["report"]
        assert "## Nearest to motion >= 0.003" in shown["report"]
        assert shown["page"] == f"datasets/{BATCH}/report/index.html"
        assert shown["score_seconds"] > 0
        assert len(shown["report"]) < MAX_METADATA_BYTES

    def test_the_columns_of_the_table_are_shown(self, curated: Curated) -> None:
        (event,) = curated.result.asset_materializations_for_node("filtered_clips")
        schema = event.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchemaMetadataValue)
        assert ("clip_id", "string") in [(c.name, c.type) for c in schema.schema.columns]

    def test_captions_are_shown(self, curated: Curated) -> None:
        assert "## Captions" in metadata_of(curated.result, "captioned_clips")["report"]

    @pytest.mark.parametrize("asset", ["source_videos", "scored_clips", *CLIP_TABLES])
    def test_paths_are_the_same_on_every_machine(self, curated: Curated, asset: str) -> None:
        shown = metadata_of(curated.result, asset)
        assert shown["dagster/uri"].startswith(f"datasets/{BATCH}/")
        assert str(curated.home) not in str(shown)

    def test_the_effective_configuration_is_shown(self, curated: Curated) -> None:
        shown = metadata_of(curated.result, "scored_clips")
        assert shown["config"]["filters"]["min_motion"] == 0.003

    def test_again_is_quick_and_gives_the_same_data_version(self, curated: Curated) -> None:
        again = materialize(curated.home, CURATION, curated.instance, partition_key=BATCH)
        before, after = (
            (result.asset_materializations_for_node("shards")[0].tags or {})["dagster/data_version"]
            for result in (curated.result, again)
        )
        assert before == after


class TestChecks:
    """Damage that the checks must find."""

    pytestmark = needs_ray

    @pytest.fixture
    def paths(self, curated: Curated, tmp_path: Path) -> DatasetPaths:
        shutil.copytree(curated.home, tmp_path / "home")
        return Workspace(root=str(tmp_path / "home")).dataset(BATCH)

    def check(
        self, paths: DatasetPaths, check: dg.AssetChecksDefinition
    ) -> dg.AssetCheckEvaluation:
        with dg.DagsterInstance.ephemeral() as instance:
            result = materialize(
                paths.root.parents[1],
                [*CURATION],
                instance,
                selection=dg.AssetSelection.checks(check),
                raise_on_error=False,
            )
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation

    def test_a_damaged_shard_is_found(self, paths: DatasetPaths) -> None:
        shard = paths.shards / SHARD
        data = bytearray(shard.read_bytes())
        data[600] ^= 1
        shard.write_bytes(data)
        found = self.check(paths, checks.every_shard_matches_its_hash)
        assert not found.passed
        assert f"datasets/{BATCH}/shards/{SHARD}" in (found.description or "")

    def test_an_absent_shard_is_found(self, paths: DatasetPaths) -> None:
        (paths.shards / SHARD).unlink()
        assert not self.check(paths, checks.every_shard_matches_its_hash).passed

    def test_a_clip_that_was_never_decided_is_found(self, paths: DatasetPaths) -> None:
        rewrite(paths.filtered_clips, read_clips(paths.filtered_clips)[1:])
        assert not self.check(paths, checks.every_cut_clip_is_decided).passed

    def test_a_copy_without_original_is_found(self, paths: DatasetPaths) -> None:
        clips = read_clips(paths.deduplicated_clips)
        orphan = replace(clips[0], rejected_by=Rejection.DUPLICATE, duplicate_of="nobody")
        rewrite(paths.deduplicated_clips, [orphan, *clips[1:]])
        assert not self.check(paths, checks.every_copy_has_its_original).passed

    def test_a_clip_that_was_never_captioned_is_found(self, paths: DatasetPaths) -> None:
        rewrite(paths.captioned_clips, read_clips(paths.captioned_clips)[1:])
        found = self.check(paths, checks.every_kept_clip_is_captioned)
        assert not found.passed
        assert found.metadata["clips_lost"].value == 1

    def test_a_kept_clip_in_no_shard_is_found(self, paths: DatasetPaths) -> None:
        manifest = paths.shards / "manifest.json"
        kept = next(c for c in read_clips(paths.sharded_clips) if c.status is ClipStatus.KEPT)
        manifest.write_text(manifest.read_text().replace(kept.clip_id, "0" * 20))
        assert not self.check(paths, checks.every_kept_clip_is_in_a_shard).passed

    def test_a_clip_of_two_batches_is_found(self, paths: DatasetPaths) -> None:
        shutil.copytree(paths.root, paths.root.with_name("copy"))
        found = self.check(paths, checks.no_clip_is_in_two_shards)
        assert not found.passed
        assert f"datasets/copy/shards/{SHARD} and in datasets/{BATCH}/" in (found.description or "")

    def test_a_caption_that_is_chatter_is_found(self, paths: DatasetPaths) -> None:
        first, *others = read_clips(paths.captioned_clips)
        caption = replace(first.captions[0], text="I am sorry, but I cannot describe this video.")
        rewrite(paths.captioned_clips, [replace(first, captions=(caption,)), *others])
        found = self.check(paths, checks.captions_pass_the_lints)
        assert not found.passed
        assert found.metadata["captions_at_fault"].value == 1

    def test_a_failed_clip_is_counted_and_not_lost(self, paths: DatasetPaths) -> None:
        first, *others = read_clips(paths.captioned_clips)
        rewrite(paths.captioned_clips, [replace(first, error="crashed"), *others])
        found = self.check(paths, checks.every_kept_clip_is_captioned)
        assert found.passed
        assert found.metadata["clips_failed"].value == 1


@pytest.mark.slow  # the assets import Ray Data
class TestMistakes:
    """What a user gets wrong is said in one line, before Ray has anything to do."""

    def failure(self, home: Path, recipe: Mapping[str, Any]) -> str:
        """What ends the run that probes a batch with such a configuration."""
        with (
            new_instance(home / "dagster") as instance,
            pytest.raises(WAYS_TO_FAIL) as raised,
        ):
            materialize(
                home,
                [curation.source_videos],
                instance,
                partition_key=BATCH,
                run_config={"resources": {"engine": {"config": recipe}}},
            )
        failed = raised.value.__cause__ or raised.value
        return str(getattr(failed, "description", None) or failed)

    def test_an_unknown_field_is_named_with_the_valid_ones(self, tmp_path: Path) -> None:
        said = self.failure(tmp_path, {"overrides": {"filters": {"min_speed": 1}}})
        assert "min_speed" in said
        assert "min_motion" in said

    def test_a_value_out_of_range_is_named(self, tmp_path: Path) -> None:
        said = self.failure(tmp_path, {"overrides": {"shots": {"max_clip_s": -1.0}}})
        assert "shots.max_clip_s: Input should be greater than 0, got -1" in said

    def test_an_unknown_recipe_is_named(self, tmp_path: Path) -> None:
        assert "nope" in self.failure(tmp_path, {"recipe": "nope"})

    def test_a_batch_without_videos_is_named(self, tmp_path: Path) -> None:
        assert f"sources/{BATCH}" in self.failure(tmp_path, {})
