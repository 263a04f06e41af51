"""conf/ and the docstrings of the classes that it names -> docs/configuration.md.

`python docs/configuration.py` writes the page anew; a test holds the committed one against `page`.
Reads the files of its own repository and imports none of the classes: it takes a second.
"""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
_OVERLAYS = ("setup", "row", "experiment")
# What a table shows of a value, and of the values of a field; more is behind a link.
_LONGEST = 40
_MOST_VALUES = 4
_HEAD = """\
# Configuration

Every group, option and field, made from `conf/` and the docstrings of the classes that it names;
`python docs/configuration.py` writes this page again.

A group is set as `group=option`, a field as `group.field=value` (None, True and False in the texts
are `null`, `true` and `false` there); `persona-lab <choices> --cfg job` shows what a command line
comes to. Later wins: defaults < setup < protocol < row < experiment < command line. "Chosen by" and
"set by" name who does so; a sweep chooses several. `slm` and `llm` take any option of `model`, and
`model` is by default the one that the role names. Fields below `hydra` are Hydra's own.
"""


class Field(NamedTuple):
    """A field of one option: its full name, its value and what it is."""

    name: str
    value: Any
    about: str


def page() -> str:
    """The page's text."""
    parts = [_HEAD, "## Fields of no group\n", _top_level()]
    chosen = _chosen()
    for group in (each for each in _groups() if each not in ("slm", "llm")):
        parts += [f"## {group}\n", _options(group, chosen)]
        if group in _components() and (fields := _fields(group)):
            parts.append(fields)
    return "\n".join(parts)


def configured() -> set[str]:
    """Every group and field, as a command line names them: `data`, `data.n_users`."""
    fields = {
        field.name
        for group in _components()
        for option in _names(group)
        for field in _leaves(_option(group, option), f"{group}.")
    }
    return {*_groups(), *_scalars(), *fields}


def _groups() -> dict[str, str]:
    """Every group, with the option that config.yaml chooses."""
    defaults = _load(CONF / "config.yaml")["defaults"]
    pairs = (pair for each in defaults if each != "_self_" for pair in each.items())
    return {group: str(option) for group, option in pairs if not group.startswith("override ")}


def _components() -> list[str]:
    """The groups whose options are objects; those of the others only change other groups."""
    found = [each for each in _groups() if each not in ("slm", "llm")]
    return [each for each in found if "_target_" in _option(each, _names(each)[0])]


def _scalars() -> dict[str, Any]:
    config = _load(CONF / "config.yaml")
    return {name: value for name, value in config.items() if name not in ("defaults", "hydra")}


def _top_level() -> str:
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(\w+):.* # (.+)$", text, re.MULTILINE))
    rows = [(f"`{name}`", f"`{_text(value)}`", said[name]) for name, value in _scalars().items()]
    return _table(("field", "default", "what it is"), rows)


def _options(group: str, chosen: Mapping[tuple[str, str], list[str]]) -> str:
    rows = []
    for name in _names(group):
        target = _option(group, name).get("_target_", "")
        about = _first_comment(group, name) or _docstring(target).split("\n\n")[0]
        by = ", ".join(chosen[group, name])
        rows.append((f"`{name}`", about, f"`{target}`" if target else "", by))
    return _table(("option", "what it is", "class", "chosen by"), rows)


def _fields(group: str) -> str:
    values: dict[str, dict[str, str]] = defaultdict(dict)
    about: dict[str, str] = {}
    for option in _names(group):
        for field in _leaves(_option(group, option), f"{group}."):
            values[field.name][option] = _text(field.value)
            about[field.name] = about.get(field.name) or field.about
    if not values:
        return ""
    # A component's own fields behind it, also those that only a later option has.
    first = list(dict.fromkeys(name.split(".")[1] for name in values))
    rows = [
        (f"`{name}`", _default(group, values[name]), about[name], _setters(name))
        for name in sorted(values, key=lambda name: first.index(name.split(".")[1]))
    ]
    return _table(("field", "default", "what it is", "set by"), rows)


def _default(group: str, by_option: Mapping[str, str]) -> str:
    if all(value == option for option, value in by_option.items()):
        return "the option's name"
    options: dict[str, list[str]] = defaultdict(list)
    for option, value in by_option.items():
        options[value].append(option)
    shown = {
        f"[YAML](../conf/{group}/{names[0]}.yaml)"
        if len(value) > _LONGEST or "\n" in value
        else f"`{value}`": names
        for value, names in options.items()
    }
    if len(options) == 1 and len(by_option) == len(_names(group)):
        return next(iter(shown))
    if len(options) > _MOST_VALUES:
        return "each option its own"
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in shown.items())


def _setters(field: str) -> str:
    by_value = _given().get(field, {})
    return "; ".join(f"{', '.join(_joined(by))}: `{value}`" for value, by in by_value.items())


@cache
def _given() -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Field -> value -> the overlays that give it."""
    found: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for overlay in _OVERLAYS:
        for name in _names(overlay):
            for field in _leaves(_option(overlay, name)):
                found[field.name][_text(field.value)].append((overlay, name))
    return found


def _chosen() -> dict[tuple[str, str], list[str]]:
    """(group, option) -> who chooses it."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for overlay in _OVERLAYS:
        for name in _names(overlay):
            for key, option in _choices(_load(CONF / overlay / f"{name}.yaml")):
                role = f" as {key}" if key in ("slm", "llm") else ""
                found["model" if role else key, option, role].append((overlay, name))
    chosen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for group, option in _groups().items():
        chosen[group, option].append("default")
    for (group, option, role), overlays in found.items():
        chosen[group, option] += [f"{each}{role}" for each in _joined(overlays)]
    return chosen


def _choices(overlay: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for each in overlay.get("defaults", []):
        for key, option in each.items():
            yield key.removeprefix("override /"), option
    swept = overlay.get("hydra", {}).get("sweeper", {}).get("params", {})
    for group, options in swept.items():
        for option in _names(group) if options == "glob(*)" else options.split(","):
            yield group, option


def _joined(overlays: Iterable[tuple[str, str]]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for overlay, name in overlays:
        names[overlay].append(name)
    return [f"{overlay}={','.join(each)}" for overlay, each in names.items()]


@cache
def _names(group: str) -> list[str]:
    names = (file.stem for file in (CONF / group).glob("*.yaml"))
    # r2 before r10.
    return sorted(names, key=lambda name: (name.rstrip("0123456789"), len(name), name))


@cache
def _load(file: Path) -> dict[str, Any]:
    node = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(node, dict), file
    return {str(key): value for key, value in node.items()}


@cache
def _option(group: str, name: str) -> dict[str, Any]:
    """An option's fields, with those of the options that it starts from."""
    own = dict(_load(CONF / group / f"{name}.yaml"))
    bases = [
        base
        for base in own.pop("defaults", [])
        if base != "_self_" and not str(base).startswith("{'override")
    ]
    node = OmegaConf.to_container(OmegaConf.merge(*(_base(group, base) for base in bases), own))
    assert isinstance(node, dict), name
    return {str(key): value for key, value in node.items()}


def _base(group: str, base: str | dict[str, str]) -> dict[str, Any]:
    """What an option starts from: one of its group or `/group/option@place`; or `part: option`."""
    if isinstance(base, dict):
        ((part, option),) = base.items()
        part, _, place = part.partition("@")
        group, place = f"{group}/{part}", part if not place else place.replace("_here_", "")
    else:
        option, _, place = base.partition("@")
        if option.startswith("/"):
            group, _, option = option.removeprefix("/").rpartition("/")
    node = _option(group, option)
    for key in reversed(place.split(".") if place else []):
        node = {key: node}
    return node


def _leaves(node: Mapping[str, Any], path: str = "", inherited: str = "") -> Iterator[Field]:
    """The fields of a node, depth first; a component within is itself a field, then its own."""
    said = _attributes(node["_target_"]) if "_target_" in node else {}
    for key, value in node.items():
        name, about = f"{path}{key}", said.get(key, inherited)
        if isinstance(value, dict):
            if "_target_" in value:
                yield Field(name, value["_target_"].rpartition(".")[2], about)
            yield from _leaves(value, f"{name}.", about)
        elif key != "_target_":
            yield Field(name, value, about)


@cache
def _attributes(target: str) -> dict[str, str]:
    """The entries of a class's and its bases' "Attributes:", each on one line."""
    bases = [base.id for base in _class(target).bases if isinstance(base, ast.Name)]
    room = target.rpartition(".")[0]
    said = {name: text for base in bases for name, text in _attributes(f"{room}.{base}").items()}
    section = re.search(r"^Attributes:\n((?: .*\n?|\n)+)", _docstring(target), re.MULTILINE)
    entries = re.split(r"^ {4}(?=\w)", section[1], flags=re.MULTILINE)[1:] if section else []
    pairs = (entry.partition(":") for entry in entries)
    return said | {name: " ".join(text.split()) for name, _, text in pairs}


def _docstring(target: str) -> str:
    return ast.get_docstring(_class(target)) or ""


@cache
def _class(target: str) -> ast.ClassDef:
    """A class, found in the room that its dotted path names; an empty one if it is not there."""
    *room, name = target.split(".")
    place = ROOT.joinpath(*room)
    for file in (place.with_suffix(".py"), *sorted(place.glob("*.py"))):
        if file.is_file():
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return node
    return ast.ClassDef(name, [], [], [], [])


def _first_comment(group: str, name: str) -> str:
    """What a YAML file says of itself before its first field, without the command lines."""
    lines = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comments = (line.removeprefix("#").strip() for line in lines[:end])
    no_prose = ("@package", "persona-lab", "python ", "OPENAI_API_KEY=")
    return " ".join(comment for comment in comments if not comment.startswith(no_prose))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table without the columns that are empty in every row."""
    filled = [n for n in range(len(head)) if any(row[n] for row in rows)]
    lines = [[head[n] for n in filled], ["---"] * len(filled)]
    lines += [[row[n].replace("|", "\\|") for n in filled] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(page(), encoding="utf-8")
