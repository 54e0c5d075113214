"""The configuration itself as a Dagster schema: what the launchpad completes, explains and refuses.

Every field is optional: what is left out stays as the recipe has it. Names, types and choices are refused in the
launchpad; what needs the whole configuration, such as limits that contradict each other, when the run starts.
"""

import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestration.overrides import ConfigT, merge_overrides

_SCALARS: dict[Any, Any] = {bool: bool, int: int, float: float, str: str}
_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def recipe_schema(
    recipes: Mapping[str, Callable[[], BaseModel]], default: str, model: type[BaseModel]
) -> dict[str, dg.Field]:
    """`recipe`, one of the names, and `overrides`, any fields of its configuration."""
    names = dg.Enum(f"{model.__name__}_recipe", [dg.EnumValue(name) for name in sorted(recipes)])
    return {
        "recipe": dg.Field(names, default_value=default, description="A named configuration."),
        "overrides": overrides_schema(model),
    }


def resolve_launched(
    recipes: Mapping[str, Callable[[], ConfigT]], launched: Mapping[str, Any]
) -> ConfigT:
    """The configuration that the launchpad names.

    Raises:
        OverrideError: a value is out of range, or values contradict each other.
    """
    return merge_overrides(recipes[launched["recipe"]](), launched.get("overrides", {}))


def overrides_schema(model: type[BaseModel], recipe: BaseModel | None = None) -> dg.Field:
    """Any fields of a configuration, nested as it is. With a `recipe`, its tables of named sections, such as its stages,
    take the names that it has and no others.
    """
    return dg.Field(
        _shape(model, model.__name__, recipe),
        is_required=False,
        description="Fields that are to differ from the recipe; the others may be left out.",
    )


def _shape(model: type[BaseModel], path: str, recipe: BaseModel | None = None) -> dg.Shape:
    return dg.Shape(
        {
            name: dg.Field(
                _type_of(field.annotation, f"{path}_{name}", getattr(recipe, name, None)),
                is_required=False,
                description=_describe(field),
            )
            for name, field in model.model_fields.items()
        }
    )


def _type_of(annotation: Any, path: str, in_recipe: Any = None) -> Any:
    """The Dagster type of an annotation; `path` names the types that need a name of their own."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if _is_section(annotation):
        return _shape(annotation, path, in_recipe)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(isinstance(choice, str) for choice in arguments):
        return dg.Enum(path, [dg.EnumValue(choice) for choice in arguments])
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        (inner,) = (a for a in arguments if a is not type(None))
        return dg.Noneable(_type_of(inner, path))
    if origin is tuple and len(set(arguments) - {...}) == 1:
        return dg.Array(_type_of(arguments[0], path))
    if in_recipe and origin is dict and _is_section(arguments[1]):
        names = {name: _type_of(arguments[1], path, value) for name, value in in_recipe.items()}
        return dg.Shape({name: dg.Field(kind, is_required=False) for name, kind in names.items()})
    if origin is dict and arguments[0] is str:
        return dg.Map(str, _type_of(arguments[1], path))
    return dg.Any


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a field holds fields of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _describe(field: FieldInfo) -> str:
    """The docstring of a field, then its limits, such as `(>= 1)`."""
    limits = [
        f"({sign} {getattr(limit, name)})"
        for limit in field.metadata
        for name, sign in _LIMITS.items()
        if hasattr(limit, name)
    ]
    return " ".join([*(field.description or "").split(), *limits])
