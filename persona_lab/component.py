"""What a YAML node becomes: a frozen dataclass whose values are checked, and its description.

`@component` makes one; `describe` says what a stored result depends on. Reads a source file where
a class is not ours. Defaults stand in conf/ alone.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")

_RULES = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


def neutral(**options: Any) -> Any:
    """A field that cannot change a result: a path, a device, a name. It is no part of a key."""
    return field(metadata={"key": False}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, neutral))
def component(kind: type[T]) -> type[T]:
    """Make a frozen dataclass that refuses fields and values that it is not declared for.

    Raises:
        pydantic.ValidationError: When one is made of a value that does not fit.
    """
    return dataclass(frozen=True, config=_RULES)(kind)  # pyright: ignore[reportReturnType]


def neutral_fields(kind: type) -> set[str]:
    """Names of a class's fields that are no part of a key; none of a class without fields."""
    declared = fields(kind) if is_dataclass(kind) else ()
    return {each.name for each in declared if not each.metadata.get("key", True)}


def describe(value: Any) -> Any:
    """JSON-able description of what a result depends on.

    A dataclass becomes its class path and fields, without its `neutral` ones, and, where the class
    is not one of ours, whose stages have a VERSION, the hash of its module's source; tuples become
    lists, paths text, and whole floats integers (a YAML's `1` and `1.0` are one value).

    Raises:
        TypeError: For any other type, which it names: it has no stable description.
    """
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return int(value) if value.is_integer() else value
        case Path():
            return value.as_posix()
        case list() | tuple():
            return [describe(item) for item in value]
        case Mapping():
            if odd := [key for key in value if not isinstance(key, str)]:
                raise TypeError(f"the key {odd[0]!r} of a mapping is not text")
            return {key: describe(item) for key, item in value.items()}
    kind = type(value)
    path = f"{kind.__module__}.{kind.__qualname__}"
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(
            f"{path} has no description for a key: make it a component, or its field neutral"
        )
    names = [each.name for each in fields(value) if each.name not in neutral_fields(kind)]
    own = {name: describe(getattr(value, name)) for name in names}
    return {"class": path, **_source(kind), **own}


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _source(kind: type) -> dict[str, str]:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__.split(".")[0] == __package__ or file is None:
        return {}
    return {"source": hash_file(Path(file))}
