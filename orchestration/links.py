"""Addresses of what lies in files, so that one can click on it in the Dagster UI."""

import re
from urllib.parse import quote

import dagster as dg

FILES_VARIABLE = "STIV_FILES_URL"
"""Where the home folder is served, such as http://127.0.0.1:3001 (`orchestration.file_server`)."""
TENSORBOARD_VARIABLE = "STIV_TENSORBOARD_URL"
"""Where TensorBoard shows the folder of the runs."""


def file_link(relative: str) -> dg.UrlMetadataValue | dg.PathMetadataValue:
    """To a file below the home folder; its path alone where nobody serves it."""
    place = dg.EnvVar(FILES_VARIABLE).get_value()
    if not place:
        return dg.MetadataValue.path(relative)
    return dg.MetadataValue.url(f"{place.rstrip('/')}/{quote(relative)}")


def tensorboard_link(run: str, stage: str) -> dg.MetadataValue[str]:
    """To the curves of a stage; the command that shows them where no TensorBoard runs."""
    place = dg.EnvVar(TENSORBOARD_VARIABLE).get_value()
    if not place:
        return dg.MetadataValue.text(f"tensorboard --logdir runs/{run}/{stage}/tensorboard")
    chosen = quote(f"^{re.escape(run)}/{re.escape(stage)}/", safe="")
    return dg.MetadataValue.url(f"{place.rstrip('/')}/?runFilter={chosen}#timeseries")
