"""A named recipe with overrides: the same words on the command line and in the Dagster launchpad."""

from collections.abc import Callable, Iterable, Mapping

from orchestration.overrides import ConfigT, OverrideError, apply_overrides


def resolve(
    recipes: Mapping[str, Callable[[], ConfigT]],
    name: str,
    overrides: Iterable[str],
    *,
    option: str = "--recipe",
) -> ConfigT:
    """The configuration of a recipe after its overrides.

    Raises:
        OverrideError: there is no such recipe or field, or a value does not fit.
    """
    if name not in recipes:
        raise OverrideError(
            f"{option} {name}: no such {option.removeprefix('--')}; valid: {', '.join(sorted(recipes))}"
        )
    return apply_overrides(recipes[name](), overrides)
