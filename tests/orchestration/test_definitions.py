"""What Dagster is told about the project, without running any of it."""

import ast
import inspect
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from orchestration import definitions
from orchestration.assets.training import TRAINING
from orchestration.definitions import defs

MAX_BODY_LINES = 20
ASSETS = {
    "source_videos": "curation",
    "scored_clips": "curation",
    "filtered_clips": "curation",
    "deduplicated_clips": "curation",
    "captioned_clips": "curation",
    "shards": "curation",
    "curation_report": "curation",
    **{
        f"{recipe.name}/{name}": recipe.group
        for recipe in TRAINING
        for stage in recipe.stages
        for name in ("latent_shards", stage, f"{stage}_samples", f"{stage}_evaluation")
    },
}


def spec(asset: str) -> dg.AssetSpec:
    key = dg.AssetKey(asset.split("/"))
    return defs.resolve_assets_def(key).get_asset_spec(key)


def test_the_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_assets_and_their_groups_are_these() -> None:
    found = {s.key.to_user_string(): s.group_name for s in defs.resolve_all_asset_specs()}
    assert found == ASSETS


@pytest.mark.parametrize("asset", ASSETS)
def test_an_asset_says_what_it_is_and_whose_it_is(asset: str) -> None:
    found = spec(asset)
    assert found.description
    assert found.owners
    assert found.code_version
    assert 1 <= len(found.kinds) <= 3
    own = {name: value for name, value in found.tags.items() if not name.startswith("dagster/")}
    assert own["data"]
    assert own.get("recipe") == (asset.partition("/")[0] if "/" in asset else None)


def test_what_new_sources_should_come_to_says_when_it_is_too_old() -> None:
    policies = {asset: policy for asset in ASSETS if (policy := spec(asset).freshness_policy)}
    days = {asset: _fail_days(policy) for asset, policy in policies.items()}
    latents = {f"{recipe.name}/latent_shards": 7 for recipe in TRAINING}
    assert days == {"source_videos": 30, "shards": 30, **latents}


def _fail_days(policy: object) -> int:
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    return policy.fail_window.to_timedelta().days


@pytest.mark.parametrize("asset", ASSETS)
def test_an_asset_body_is_short(asset: str) -> None:
    function = defs.resolve_assets_def(asset.split("/")).op.compute_fn.decorated_fn  # pyright: ignore  # Dagster types the function it decorated as one of several kinds
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    after_docstring = tree.body[1]
    assert (tree.end_lineno or 0) - after_docstring.lineno + 1 <= MAX_BODY_LINES


@pytest.mark.parametrize("asset", ASSETS)
def test_runs_on_the_same_cores_wait_for_each_other(asset: str) -> None:
    assert defs.resolve_assets_def(asset.split("/")).op.pool == "ray"


def test_stages_start_from_latents_of_every_batch_and_from_each_other() -> None:
    (dependency,) = spec("stiv_xl_512/latent_shards").deps
    assert dependency.asset_key == dg.AssetKey("shards")
    assert isinstance(dependency.partition_mapping, dg.AllPartitionMapping)
    from_both = [d.asset_key.path[-1] for d in spec("stiv_xl_512/t2v_512").deps]
    assert sorted(from_both) == ["latent_shards", "t2i_512", "t2v_256"]


def test_checks_on_data_block_what_follows() -> None:
    blocking = {
        check.name: check.blocking
        for checks in defs.asset_checks or ()
        if isinstance(checks, dg.AssetChecksDefinition)
        for check in checks.check_specs
    }
    assert blocking == {
        "every_cut_clip_is_decided": True,
        "every_copy_has_its_original": True,
        "every_kept_clip_is_captioned": True,
        "captions_pass_the_lints": False,
        "scores_are_distributed_as_before": False,
        "no_clip_is_in_two_shards": True,
        "metadata_names_no_place_and_no_secret": False,
        "every_kept_clip_is_in_a_shard": True,
        "every_shard_matches_its_hash": True,
        "loss_fell": False,
    }


@pytest.mark.slow
def test_loading_the_definitions_pays_for_no_heavy_library() -> None:
    heavy = ["ray", "torch", "cv2", "matplotlib", "onnxruntime"]
    code = (
        "import sys, orchestration.definitions; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    root = Path(definitions.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_instance_config_is_valid_and_runs_one_at_a_time(tmp_path: Path) -> None:
    shutil.copy(Path(definitions.__file__).with_name("dagster.yaml"), tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.global_op_concurrency_default_limit == 1
