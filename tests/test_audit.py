"""The audit of the whole flow: none under strict, what leaks under paper, planted canaries."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from persona_lab.cache import Cache, Entry
from persona_lab.component import component
from persona_lab.compose import configure
from persona_lab.data import Cost, Scale
from persona_lab.distill import Statistical
from persona_lab.distill.titles import natural_title
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model.loggers import NoLogger
from persona_lab.sources import Sources
from persona_lab.tuning import Prepared

TEST = "changes with the test ratings"
TEST_TITLE = "names a title of a test row"


@component
class Paid(Statistical):
    """Takes calls of an LLM, by its own word."""

    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        return Cost(calls=len(sizes))


@cache
def experiment(*overrides: str) -> Experiment:
    return configure("experiment=smoke", *overrides).experiment


def paid(*overrides: str) -> Experiment:
    one = experiment(*overrides)
    return dataclasses.replace(one, distiller=Paid(**vars(one.distiller)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("audit")
    return Lab(Sources(folder), Cache(folder / "store"), folder, NoLogger())


@pytest.fixture(scope="module")
def prepared(lab: Lab) -> Prepared:
    return experiment().prepare(lab)


def findings(lab: Lab, one: Experiment, prepared: Prepared) -> list[dict[str, Any]]:
    """What the audit says, of prepared stages that hold something else than their keys tell."""
    return one.auditing(one.tuning(lab, prepared)).compute().findings


def found(lab: Lab, one: Experiment, prepared: Prepared | None = None) -> set[tuple[str, str]]:
    """The lab and kinds of leaks that the audit reports."""
    records = findings(lab, one, prepared or one.prepare(lab))
    assert all((each["checked"] > 0) != bool(each["note"]) for each in records)
    return {(each["place"], each["what"]) for each in records if each["found"]}


def holding(entry: Entry[Any], value: Any) -> Entry[Any]:
    """The same entry with another value, in memory only."""
    other = copy.copy(entry)
    vars(other)["value"] = value
    return other


def planted(prepared: Prepared, part: str, **columns: Any) -> Prepared:
    """The prepared stages with the first row of one of the memories' tables changed."""
    memories = prepared.memories.value
    table = getattr(memories, part).copy()
    for name, value in columns.items():
        table.loc[0, name] = value
    changed = dataclasses.replace(memories, **{part: table})
    entry = holding(prepared.memories, changed)
    return dataclasses.replace(prepared, memories=entry)


def titles(prepared: Prepared, part: str = "train") -> list[str]:
    """Titles of the first user's training or test rows, the first row's first."""
    rows = getattr(prepared.split.value, part)
    movies = prepared.split.value.movies.set_index("item_id")
    own = rows.loc[rows["user_id"] == rows["user_id"].iloc[0], "item_id"]
    return [f"{natural_title(movies.title[i])} ({int(movies.year[i])})" for i in own]


@pytest.mark.parametrize("one", [experiment, paid])
def test_strict_leaks_nothing(lab, prepared, one: Callable[..., Experiment]):
    assert found(lab, one(), prepared) == set()


def test_what_an_llm_wrote_is_said_to_be_unchecked_and_not_called_clean(lab, prepared):
    changed = planted(prepared, "profiles", profile="I gave my last movie 5.")
    records = findings(lab, paid(), changed)
    unchecked = {(each["place"], each["what"]) for each in records if not each["checked"]}
    assert unchecked == {("profile", TEST), ("memory", TEST)}
    assert all("LLM" in each["note"] for each in records if not each["checked"])
    (prompt,) = [each for each in records if each["place"] == "prompt"]
    assert prompt["what"] == f"{TEST}, but for what an LLM wrote"


@pytest.mark.parametrize("override", ["distiller.scope=all", "protocol.item_mean=all"])
def test_what_an_llm_is_given_is_checked(lab, override):
    assert ("distiller", TEST) in found(lab, paid(override))


@pytest.mark.parametrize("one", [experiment, paid])
@pytest.mark.parametrize(
    ("part", "column", "place"),
    [
        ("profiles", "profile", "profile"),
        ("snapshots", "profile", "profile"),
        ("interactions", "text", "memory"),
    ],
)
def test_a_title_of_a_test_row_is_found(
    lab, prepared, one: Callable[..., Experiment], part, column, place
):
    text = f"I shall see {titles(prepared, 'test')[0]} tomorrow."
    leaks = found(lab, one(), planted(prepared, part, **{column: text}))
    assert (place, TEST_TITLE) in leaks
    assert not {each for each in leaks if "history" in each[1]}


def test_texts_about_movies_are_not_asked_for_again(lab, prepared):
    class Silent:
        def read(self, movies: Any, sources: Sources) -> Any:
            raise AssertionError("asked")

        def fingerprint(self, sources: Sources) -> str:
            return "silent"

    split = prepared.split.value
    told = dataclasses.replace(split, movies=split.movies.assign(summary="Boats off a coast."))
    texts = dataclasses.replace(prepared, split=holding(prepared.split, told))
    one = dataclasses.replace(experiment(), movie_info=Silent())
    assert found(lab, one, texts) == set()


def test_what_leaks_under_paper_is_named(lab):
    leaks = found(lab, experiment("protocol=paper"))
    assert leaks >= {
        ("item mean", TEST),
        ("item mean", "changes with the ratings of training rows"),
        ("trait", TEST),
        ("retrieval", "a training row recalls what came after it"),
        ("prompt", TEST),
    }


@pytest.mark.parametrize(
    ("override", "leak"),
    [
        ("protocol.item_mean=all", ("item mean", TEST)),
        ("protocol.item_mean=training", ("item mean", "changes with the ratings of training rows")),
        ("protocol.traits=all", ("trait", TEST)),
        ("protocol.recall_time=any", ("retrieval", "a training row recalls what came after it")),
        ("distiller.scope=all", ("distiller", TEST)),
        ("distiller.scope=all", ("profile", TEST)),
    ],
)
def test_each_field_that_leaks_is_found_alone(lab, override, leak):
    assert leak in found(lab, experiment(override))


def test_a_canary_in_a_profile_is_found(lab, prepared):
    text = "I gave my last movie 5."
    leaks = found(lab, experiment(), planted(prepared, "profiles", profile=text))
    assert {("profile", TEST), ("prompt", TEST)} <= leaks


def test_a_canary_in_a_trait_is_found(lab, prepared):
    before = int(prepared.memories.value.profiles["conformity"].iloc[0])
    leaks = found(lab, experiment(), planted(prepared, "profiles", conformity=(before + 1) % 3))
    assert {("trait", TEST), ("prompt", TEST)} <= leaks


def test_a_canary_in_a_memory_is_found(lab, prepared):
    leaks = found(lab, experiment(), planted(prepared, "interactions", text="Later I gave a 5."))
    assert ("memory", TEST) in leaks


def test_a_memory_of_a_test_row_is_found(lab, prepared):
    test = prepared.split.value.test.iloc[0]
    row = {"user_id": test["user_id"], "item_id": test["item_id"]}
    leaks = found(lab, experiment(), planted(prepared, "interactions", **row))
    assert ("memory", "is of a test row") in leaks


def test_a_title_in_a_profile_is_found(lab, prepared):
    changed = planted(prepared, "profiles", profile=f"I loved {titles(prepared)[0]}.")
    leaks = found(lab, experiment(), changed)
    assert ("profile", "names a title of the user's history") in leaks


def test_another_title_in_a_memory_is_found_and_its_own_is_not(lab, prepared):
    own, another = titles(prepared)[:2]
    what = ("memory", "names another title of the user's history")
    changed = planted(prepared, "interactions", text=f"I rated {own} as 4.")
    assert what not in found(lab, experiment(), changed)
    changed = planted(prepared, "interactions", text=f"I rated it as I rated {another}.")
    assert what in found(lab, experiment(), changed)


def test_a_mean_that_holds_a_label_is_found(lab, prepared):
    split = prepared.split.value
    movies = split.movies.copy()
    movies.loc[movies["item_id"] == split.test["item_id"].iloc[0], "mean"] = 4.99
    entry = holding(prepared.split, dataclasses.replace(split, movies=movies))
    leaks = found(lab, experiment(), dataclasses.replace(prepared, split=entry))
    assert ("item mean", TEST) in leaks
