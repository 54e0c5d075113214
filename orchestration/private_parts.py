"""What of metadata should not be seen: places on a machine, and secrets of its environment."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

_SECRET = re.compile(r"(?i)key|token|secret|password|credential")
_MIN_SECRET = 8
_PICTURE = re.compile(r"data:image/\w+;base64,[A-Za-z0-9+/=]+")
"""Its bytes hold slashes, and nothing that one could read."""
_PLACE = re.compile(
    r"""(?<![\w./:~%-])     # Not within a URL, a relative path or a word.
        (?: /[\w.+@~-]+(?:/[\w.+@~-]+)+ | ~/[\w.+@-]+ | [A-Za-z]:\\[\w.+@-]+ | file://[^\s"']+ )""",
    re.VERBOSE,
)


def private_parts(
    metadata: Mapping[str, dg.MetadataValue[Any]], environment: Mapping[str, str]
) -> list[str]:
    """Of each absolute path, and each value of a variable that is named like a secret, where it is and what it is.

    A secret is called by its name alone.
    """
    secrets = {
        value: name
        for name, value in environment.items()
        if _SECRET.search(name) and len(value) >= _MIN_SECRET
    }
    found: dict[str, None] = {}
    for name, value in metadata.items():
        for text in _texts(value.value):
            plain = _PICTURE.sub("", text)
            found.update((f"{name}: {place}", None) for place in _PLACE.findall(plain))
            found.update(
                (f"{name}: the value of {secrets[secret]}", None)
                for secret in secrets
                if secret in text
            )
    return list(found)


def _texts(value: Any) -> Iterator[str]:
    """All strings in plain values, tables and schemas."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, dg.TableRecord):
        yield from _texts(value.data)
    elif isinstance(value, list | tuple) and not isinstance(value, dg.TableSchema):
        for inner in value:
            yield from _texts(inner)
    else:
        yield str(value)
