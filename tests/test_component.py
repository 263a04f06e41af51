"""A component refuses what does not fit, and its description tells what a result depends on."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import pytest
from pydantic import Field, ValidationError

from persona_lab.cache import Cache
from persona_lab.component import component, describe, hash_file, neutral, neutral_fields


@component
class Inner:
    rate: float = 0.5


@component
class Component:
    name: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    workers: int = neutral(default=1)


@runtime_checkable
class Reads(Protocol):
    def read(self) -> str: ...


@component
class Reader:
    def read(self) -> str:
        return "read"


@component
class Checked:
    size: Annotated[int, Field(gt=0)]
    kind: Literal["round", "square"] = "round"
    parts: Sequence[str] = ()
    reader: Reads = Reader()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": "3"}, "size"),
        ({"size": True}, "size"),
        ({"size": 1, "kind": "oval"}, "kind"),
        ({"size": 1, "parts": "ab"}, "parts"),
        ({"size": 1, "reader": Inner()}, "reader"),
        ({"size": 1, "siez": 2}, "siez"),
        ({}, "size"),
    ],
)
def test_a_component_refuses_what_does_not_fit(values: dict[str, Any], field: str):
    with pytest.raises(ValidationError) as caught:
        Checked(**values)
    assert caught.value.errors()[0]["loc"][0] == field


def test_a_component_keeps_what_fits_and_is_frozen():
    made = Checked(1, parts=["a", "b"])
    assert (made.size, made.parts, made.reader.read()) == (1, ["a", "b"], "read")
    with pytest.raises(FrozenInstanceError):
        made.size = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_neutral_fields_are_named():
    assert neutral_fields(Component) == {"workers"}
    assert neutral_fields(Inner) == set()


def test_the_source_of_a_class_of_somebody_else_is_part_of_its_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    described = []
    for n, rate in enumerate((1, 2)):
        text = f"from dataclasses import dataclass\n@dataclass\nclass Own:\n    rate = {rate}\n"
        (tmp_path / "own_module.py").write_text(text + "#" * n)
        sys.modules.pop("own_module", None)
        importlib.invalidate_caches()
        described.append(describe(importlib.import_module("own_module").Own()))
    assert described[0]["class"] == described[1]["class"] == "own_module.Own"
    assert described[0] != described[1]
    assert "source" not in describe(Cache(tmp_path))


def test_describe_names_the_class_and_leaves_out_neutral_fields():
    assert describe({"path": Path("a/b"), "component": Component()}) == {
        "path": "a/b",
        "component": {
            "class": f"{__name__}.Component",
            "source": hash_file(Path(__file__)),
            "name": "a",
            "sizes": [1, 2],
            "inner": {
                "class": f"{__name__}.Inner",
                "source": hash_file(Path(__file__)),
                "rate": 0.5,
            },
        },
    }


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "builtins.object"),
        ({1, 2}, "builtins.set"),
        (Component, "builtins.type"),
        (describe, "builtins.function"),
        ({1: "low"}, "the key 1 of a mapping"),
    ],
)
def test_describe_refuses_what_has_no_stable_text(value: Any, name: str):
    with pytest.raises(TypeError, match=name):
        describe({"deep": [value]})
