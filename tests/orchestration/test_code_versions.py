"""That a change of code marks what it changes, and that no module was forgotten."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

import orchestration
from orchestration.assets.training import TRAINING
from orchestration.code_versions import DECIDES_NOTHING, MODULES, code_version, hash_files
from orchestration.definitions import defs

ROOT = Path(orchestration.__file__).parents[1]
PACKAGES = ("data_engine", "modeling", "training")
ASSIGNED = {pattern for patterns in MODULES.values() for pattern in patterns}


def found_by(patterns: set[str]) -> set[str]:
    return {p.relative_to(ROOT).as_posix() for pattern in patterns for p in ROOT.glob(pattern)}


def test_every_module_belongs_to_a_step_or_is_said_to_decide_nothing() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    left = modules - found_by(ASSIGNED)
    assert {name for name in left if not any(fnmatch(name, p) for p in DECIDES_NOTHING)} == set()


@pytest.mark.parametrize("pattern", sorted({*ASSIGNED, *DECIDES_NOTHING} - {"*/__init__.py"}))
def test_every_pattern_finds_a_file(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


@pytest.mark.parametrize(
    ("step", "module"),
    [
        ("score", "data_engine/transnet.py"),
        ("score", "data_engine/workers.py"),
        ("caption", "data_engine/hub_models.py"),
        ("latents", "modeling/conv_autoencoder.py"),
        ("train", "modeling/blocks.py"),
        ("train", "training/adafactor.py"),
        ("evaluate", "training/evaluation/metrics.py"),
    ],
)
def test_changed_code_gives_another_version(tmp_path: Path, step: str, module: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    assert hash_files(tmp_path, MODULES[step]) == code_version(step)
    (tmp_path / module).write_text((ROOT / module).read_text() + "\nCHANGED = True\n")
    assert hash_files(tmp_path, MODULES[step]) != code_version(step)


def test_training_assets_have_the_version_of_their_code() -> None:
    recipe = TRAINING[0]
    steps = {
        "latents": recipe.latents,
        "train": recipe.stages["t2i"],
        "sample": recipe.samples[0],
        "evaluate": recipe.evaluations[0],
    }
    for step, asset in steps.items():
        spec = defs.resolve_assets_def(asset.key).get_asset_spec(asset.key)
        assert spec.code_version == code_version(step)
