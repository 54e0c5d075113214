"""The Dagster UI as a person uses it: a batch is curated by clicking, and its funnel is looked at.

Two environment variables make the pictures of docs/ui.md: STIV_UI_PICTURES is the folder for them, and STIV_UI_BATCH
a folder of videos to take instead of the film that the test makes.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.orchestration.builders import BATCH, write_film
from tests.orchestration.dagster_ui import Page, chromium, dagster_dev, find_browser

CURATION_S = 1500.0


@pytest.mark.ui
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_batch_is_curated_by_clicking(tmp_path: Path) -> None:
    found = find_browser()
    if found is None and "CI" not in os.environ:
        pytest.skip("needs chromium and chromedriver (`make browser`); required where CI is set")
    assert found, "CI is set, so Chromium and chromedriver must be installed (`make browser`)"
    home = tmp_path / "home"
    with dagster_dev(home) as server, chromium(*found, tmp_path / "profile") as page:
        page.open(f"{server.url}/locations/orchestration.definitions/asset-groups/curation/lineage")
        page.see("scored_clips")
        page.click("Materialize all")
        page.click("Add a partition")
        page.type("name", batch_name())
        page.click("Save")
        page.see("Launch 1 run")
        # Only now, since the sensor would add the partition of a folder that it finds before.
        put_videos(home)
        page.click("Launch 1 run")
        assert server.wait_for_runs(CURATION_S) == ["SUCCESS"], server.log_tail()

        page.open(f"{server.url}/locations/orchestration.definitions/asset-groups/curation/lineage")
        page.see("deduplicated_clips")
        picture(page, "lineage")
        page.open(f"{server.url}/assets/shards?view=checks")
        page.see("every_shard_matches_its_hash")
        page.see("Passed")
        page.open(f"{server.url}/assets/filtered_clips")
        page.see("clips_kept")
        picture(page, "asset")
        page.click("[Show Markdown]")
        assert page.picture_width_px("funnel") > 100
        assert page.picture_width_px("kept clips") > 100
        picture(page, "report")


def batch_name() -> str:
    given = os.environ.get("STIV_UI_BATCH")
    return Path(given).name if given else BATCH


def put_videos(home: Path) -> None:
    given = os.environ.get("STIV_UI_BATCH")
    if given:
        shutil.copytree(given, home / "sources" / batch_name())
    else:
        write_film(home)


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("STIV_UI_PICTURES")
    if folder:
        page.save(Path(folder) / f"ui-{name}.png")
