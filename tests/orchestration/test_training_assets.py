"""The training assets on the curated film: a few steps of each stage, one asset after the other, then samples."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration import checks
from orchestration.assets import curation
from orchestration.assets.training import TRAINING
from orchestration.configuration import training, training_key
from orchestration.metadata import MAX_METADATA_BYTES
from orchestration.resources import RayResource, Workspace
from tests.orchestration.builders import FEW_STEPS, materialize, metadata_of, new_instance
from tests.orchestration.conftest import Curated

RECIPE = "demo_tiny"
DEMO = next(recipe for recipe in TRAINING if recipe.name == RECIPE)
STAGES = ("t2i", "t2v", "stiv")
needs_ray = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Six processes of torch start one after the other.
    pytest.mark.timeout(1200),
    # Ray warns of its own deprecations, in its own code.
    pytest.mark.filterwarnings("default"),
]


def launch(
    home: Path,
    instance: dg.DagsterInstance,
    selection: dg.AssetSelection | None = None,
    ops: Mapping[str, Any] | None = None,
    ray: RayResource | None = None,
    **config: Any,
) -> dg.ExecuteInProcessResult:
    """A run of the assets of the recipe; `config` is what the launchpad would say of it."""
    key = training_key(RECIPE)
    found = [*checks.LOSS_CHECKS, *checks.METADATA_CHECKS]
    own_checks = [c for c in found if c.check_key.asset_key.path[0] == RECIPE]
    return materialize(
        home,
        [
            curation.shards,
            DEMO.latents,
            *DEMO.stages.values(),
            *DEMO.samples,
            *DEMO.evaluations,
            *own_checks,
        ],
        instance,
        ray=ray,
        more_resources={key: training(RECIPE)},
        selection=selection
        or dg.AssetSelection.groups(DEMO.group) - dg.AssetSelection.assets(*DEMO.evaluations),
        run_config={"resources": {key: {"config": config}}, "ops": ops or {}},
    )


def shown_of(result: dg.ExecuteInProcessResult, name: str) -> Mapping[str, Any]:
    return metadata_of(result, f"{RECIPE}__{name}")


def version_of(result: dg.ExecuteInProcessResult, name: str) -> str:
    (event,) = result.asset_materializations_for_node(f"{RECIPE}__{name}")
    return (event.tags or {})["dagster/data_version"]


@pytest.fixture(scope="module")
def trained(curated: Curated) -> dg.ExecuteInProcessResult:
    return launch(
        curated.home, curated.instance, overrides=FEW_STEPS, run="few_steps", latents="small"
    )


class TestTrained:
    """What one run of all assets of a recipe leaves behind."""

    pytestmark = needs_ray

    def test_every_clip_is_a_latent(
        self, curated: Curated, trained: dg.ExecuteInProcessResult
    ) -> None:
        shown = shown_of(trained, "latent_shards")
        kept = metadata_of(curated.result, "shards")["clips_kept"]
        assert (shown["clips_encoded"], shown["clips_failed"]) == (kept, 0)
        assert shown["dagster/uri"] == "latents/small"
        assert (curated.home / "latents/small/latents.json").exists()

    @pytest.mark.parametrize("stage", STAGES)
    def test_each_stage_is_an_asset_of_one_run(
        self, curated: Curated, trained: dg.ExecuteInProcessResult, stage: str
    ) -> None:
        shown = shown_of(trained, stage)
        assert (shown["dagster/uri"], shown["steps"]) == ("runs/few_steps", 4)
        assert shown["first_loss"] > 0
        assert shown["report"].count("![loss curve](data:image/png;base64,") == 1
        assert len(shown["report"]) < MAX_METADATA_BYTES
        assert str(curated.home) not in str({k: v for k, v in shown.items() if k != "config"})
        assert (curated.home / "runs/few_steps" / stage / "result.json").exists()

    def test_the_loss_is_observed_while_it_falls(
        self, curated: Curated, trained: dg.ExecuteInProcessResult
    ) -> None:
        key = dg.AssetKey([RECIPE, "t2v"])
        found = curated.instance.fetch_observations(key, limit=100).records
        names = {n for r in found if r.asset_observation for n in r.asset_observation.metadata}
        wanted = {"loss", "learning_rate", "tokens_per_s", "mfu"}
        assert {"step", *(f"running_{name}" for name in wanted)} <= names
        assert any(name.startswith("running_loss_t0.") for name in names)

    def test_no_metadata_names_a_place(self, trained: dg.ExecuteInProcessResult) -> None:
        found = [e for e in trained.get_asset_check_evaluations() if e.check_name != "loss_fell"]
        assert len(found) == 1 + 2 * len(STAGES)
        assert [e.description for e in found if not e.passed] == []

    def test_every_stage_is_checked(self, trained: dg.ExecuteInProcessResult) -> None:
        found = [e for e in trained.get_asset_check_evaluations() if e.check_name == "loss_fell"]
        assert {e.asset_key.path[-1] for e in found} == set(STAGES)
        for evaluation in found:
            change = evaluation.metadata["change"].value
            # Four steps need not help; what is asked is that the answer fits the numbers.
            assert evaluation.passed == (isinstance(change, float) and change < 0)

    @pytest.mark.parametrize(("stage", "count"), [("t2i", 2), ("t2v", 2), ("stiv", 3)])
    def test_each_stage_shows_what_it_samples(
        self, curated: Curated, trained: dg.ExecuteInProcessResult, stage: str, count: int
    ) -> None:
        shown = shown_of(trained, f"{stage}_samples")
        assert shown["samples"] == count
        assert shown["report"].count("(data:image/jpeg;base64,") == count
        assert ("given_psnr_db" in shown) == (stage == "stiv")
        assert len(shown["report"]) < MAX_METADATA_BYTES
        assert str(curated.home) not in str(shown)

    def test_stages_are_judged_by_the_tasks_that_they_can_do(
        self, curated: Curated, trained: dg.ExecuteInProcessResult
    ) -> None:
        names = [f"{stage}_evaluation" for stage in ("t2i", "stiv")]
        judged = launch(
            curated.home,
            curated.instance,
            dg.AssetSelection.assets(*([RECIPE, name] for name in names)),
            ops={f"{RECIPE}__{name}": {"config": {"num_samples": 2}} for name in names},
            overrides=FEW_STEPS,
            run="few_steps",
            latents="small",
        )
        images, videos = (shown_of(judged, name) for name in names)
        assert images["t2i_embedded_frechet_video"] > 0
        assert videos["ti2v_psnr_db"] > 0
        assert (images["videos"], videos["videos"]) == (2, 4)
        assert videos["report"].count("(data:image/jpeg;base64,") == 2
        assert "| ssim |" in videos["report"]
        assert len(videos["report"]) < MAX_METADATA_BYTES

    def test_a_finished_stage_is_not_trained_again(
        self, curated: Curated, trained: dg.ExecuteInProcessResult
    ) -> None:
        """So what follows from it stays up to date."""
        result = curated.home / "runs/few_steps/t2i/result.json"
        before = result.stat().st_mtime_ns
        again = launch(
            curated.home,
            curated.instance,
            dg.AssetSelection.assets([RECIPE, "t2i"]),
            overrides=FEW_STEPS,
            run="few_steps",
            latents="small",
        )
        assert result.stat().st_mtime_ns == before
        versions = {version_of(run, "t2i") for run in (trained, again)}
        assert len(versions) == 1
        assert version_of(trained, "t2v") not in versions


class TestMistakes:
    """What a user gets wrong is said in one line."""

    @pytest.fixture
    def instance(self, tmp_path: Path) -> Generator[dg.DagsterInstance]:
        with new_instance(tmp_path / "dagster") as instance:
            yield instance

    def test_a_check_needs_a_stage(self, tmp_path: Path, instance: dg.DagsterInstance) -> None:
        with pytest.raises(dg.Failure, match="t2i was not materialised yet"):
            checks.latest_run_dir(
                instance, Workspace(root=str(tmp_path)), dg.AssetKey([RECIPE, "t2i"])
            )

    @pytest.mark.slow  # starts Ray
    @pytest.mark.ray
    def test_latents_need_shards(self, tmp_path: Path, instance: dg.DagsterInstance) -> None:
        with pytest.raises(dg.Failure) as raised:
            launch(tmp_path, instance, dg.AssetSelection.assets([RECIPE, "latent_shards"]))
        assert "materialise `shards` first" in (raised.value.description or "")

    def test_an_unknown_field_is_refused_before_the_run(
        self, tmp_path: Path, instance: dg.DagsterInstance
    ) -> None:
        with pytest.raises(dg.DagsterInvalidConfigError, match="num_stepz"):
            launch(tmp_path, instance, overrides={"stages": {"t2v": {"num_stepz": 1}}})
