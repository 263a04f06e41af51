"""Who trains on what, by hand-worked and random personas."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from configured import configured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona_lab.component import describe
from persona_lab.errors import UserError
from persona_lab.model import Mode
from persona_lab.model.modes import take_share
from persona_lab.personas import Personas

MakePersonas = Callable[[dict[int, int]], Personas]
MODES = [
    "none",
    "persona",
    "random_persona",
    "per_user",
    "single_max",
    "single_min",
    "single_full",
]

# user -> (persona, training rows): personas of 12, 7 and 3 rows.
TOY = {10: (0, 6), 11: (0, 4), 12: (0, 2), 20: (1, 5), 21: (1, 2), 30: (2, 3)}


@cache
def plain(name: str) -> Mode:
    # The paper's setup caps the rows.
    return configured(f"adapter={name}", max_rows=None)


def mode(name: str, **fields: Any) -> Mode:
    return replace(plain(name), **fields)


def rows_of(counts: dict[int, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(user, 1000 * user + n) for user, count in counts.items() for n in range(count)],
        columns=["user_id", "item_id"],
        dtype="int64",
    )


def taken_of(rows: pd.DataFrame) -> dict[Any, Any]:
    return rows["user_id"].value_counts().sort_index().to_dict()


def pairs(rows: pd.DataFrame) -> set[tuple[int, int]]:
    return set(rows[["user_id", "item_id"]].itertuples(index=False, name=None))


@pytest.fixture
def toy(make_personas: MakePersonas) -> tuple[pd.DataFrame, Personas]:
    rows = rows_of({user: count for user, (_, count) in TOY.items()})
    # The rows of a split are in the order of time; what is drawn must not lean on theirs.
    shuffled = rows.sample(frac=1, random_state=1)
    return shuffled, make_personas({user: persona for user, (persona, _) in TOY.items()})


def test_no_adapter_routes_everyone_to_the_base(toy: tuple[pd.DataFrame, Personas]) -> None:
    plan = mode("none").plan(*toy, 0)
    assert plan.rows == plan.starts == {}
    assert plan.route == dict.fromkeys(TOY)


def test_each_persona_has_its_own_adapter(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    plan = mode("persona").plan(rows, personas, 0)
    assert {name: taken_of(part) for name, part in plan.rows.items()} == {
        "persona_0": {10: 6, 11: 4, 12: 2},
        "persona_1": {20: 5, 21: 2},
        "persona_2": {30: 3},
    }
    assert plan.route == {user: f"persona_{persona}" for user, (persona, _) in TOY.items()}


@pytest.mark.parametrize("name", ["persona", "random_persona", "per_user", "single_full"])
def test_a_matrix_crosses_the_adapters_of_personas(
    name: str, toy: tuple[pd.DataFrame, Personas]
) -> None:
    crossing, plain = (mode(name, matrix=matrix).plan(*toy, 0) for matrix in (True, False))
    assert crossing.crossed == (tuple(crossing.rows) if name.endswith("persona") else ())
    assert plain.crossed == ()
    assert (crossing.route, crossing.rows.keys()) == (plain.route, plain.rows.keys())
    assert describe(mode(name, matrix=True)) == describe(mode(name))


def test_random_personas_have_the_personas_sizes_and_their_users_rows(
    make_personas: MakePersonas,
) -> None:
    persona_of = {user: min(user // 5, 2) for user in range(30)}
    rows, personas = rows_of(dict.fromkeys(persona_of, 3)), make_personas(persona_of)
    plans = [mode("random_persona").plan(rows, personas, seed) for seed in (0, 0, 1)]
    assert plans[0].route == plans[1].route != plans[2].route
    for plan in plans:
        groups = {name: {u for u in plan.route if plan.route[u] == name} for name in plan.rows}
        assert {name: len(users) for name, users in groups.items()} == {
            "random_persona_0": 5,
            "random_persona_1": 5,
            "random_persona_2": 20,
        }
        assert plan.route.keys() == persona_of.keys()
        for name, users in groups.items():
            assert pairs(plan.rows[name]) == pairs(rows[rows["user_id"].isin(users)])
            # Five of thirty at random: that they are a persona's own is next to impossible.
            assert len({persona_of[user] for user in users}) > 1
    # The run's personas stay what they are: predictions are told apart by them.
    assert dict(zip(*personas.assignment.to_dict("list").values(), strict=True)) == persona_of


def test_each_user_has_its_own_adapter_on_what_its_persona_would_train_on(
    toy: tuple[pd.DataFrame, Personas],
) -> None:
    rows, personas = toy
    fields: dict[str, Any] = {"rows_per_user": 5, "max_rows": 6}
    plan = mode("per_user", **fields).plan(rows, personas, 0)
    assert plan.route == {user: f"user_{user}" for user in TOY}
    by_persona = mode("persona", **fields).plan(rows, personas, 0)
    assert {user: pairs(plan.rows[f"user_{user}"]) for user in TOY} == {
        user: {pair for pair in pairs(by_persona.rows[f"persona_{persona}"]) if pair[0] == user}
        for user, (persona, _) in TOY.items()
    }
    without = rows[rows["user_id"] != 21]
    with pytest.raises(UserError, match="user 21 has no training rows"):
        mode("per_user").plan(without, personas, 0)
    plan = mode("per_user", on_empty="base").plan(without, personas, 0)
    assert plan.route[21] is None
    assert plan.rows.keys() == {f"user_{user}" for user in TOY if user != 21}


def test_sizes_of_the_single_adapters(toy: tuple[pd.DataFrame, Personas]) -> None:
    largest, smallest = (mode(name).plan(*toy, 0) for name in ("single_max", "single_min"))
    # 12 of 22 rows: exactly 3.27, 2.18, 1.09, 2.73, 1.09, 1.64; largest remainders 20, 30.
    assert taken_of(largest.rows["single"]) == {10: 3, 11: 2, 12: 1, 20: 3, 21: 1, 30: 2}
    # 3 of those 12: exactly .75, .5, .25, .75, .25, .5; remainders 10, 20, then 11 before 30.
    assert taken_of(smallest.rows["single"]) == {10: 1, 11: 1, 20: 1}
    assert largest.route == smallest.route == dict.fromkeys(TOY, "single")


def test_one_adapter_may_have_all_rows(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    plan = mode("single_full").plan(rows, personas, 0)
    assert pairs(plan.rows["single"]) == pairs(rows)
    capped = mode("single_full", rows_per_user=3, max_rows=4).plan(rows, personas, 0)
    assert len(capped.rows["single"]) == 4 + 4 + 3
    assert plan.route == dict.fromkeys(TOY, "single")


def test_caps_come_before_all_else(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    per_user = mode("persona", rows_per_user=3).plan(rows, personas, 0)
    assert [len(part) for part in per_user.rows.values()] == [8, 5, 3]
    both = mode("persona", rows_per_user=3, max_rows=4).plan(rows, personas, 0)
    assert [len(part) for part in both.rows.values()] == [4, 4, 3]
    # 4 of the 8 rows 3, 3, 2.
    assert taken_of(both.rows["persona_0"]) == {10: 2, 11: 1, 12: 1}
    for name, part in both.rows.items():
        assert pairs(part) < pairs(per_user.rows[name]) or len(part) == 3
    largest = mode("single_max", rows_per_user=3, max_rows=4).plan(rows, personas, 0).rows["single"]
    smallest = (
        mode("single_min", rows_per_user=3, max_rows=4).plan(rows, personas, 0).rows["single"]
    )
    assert (len(largest), len(smallest)) == (4, 3)
    assert pairs(largest) < set().union(*(pairs(part) for part in both.rows.values()))


def test_a_persona_without_rows(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    rows = rows[rows["user_id"] != 30]
    with pytest.raises(UserError, match="persona 2 has no training rows"):
        mode("persona").plan(rows, personas, 0)
    with pytest.raises(UserError, match="smallest persona has no training rows"):
        mode("single_min").plan(rows, personas, 0)
    plan = mode("persona", on_empty="base").plan(rows, personas, 0)
    assert list(plan.rows) == ["persona_0", "persona_1"]
    assert plan.route[30] is None
    assert plan.route[21] == "persona_1"
    smallest = mode("single_min", on_empty="base").plan(rows, personas, 0)
    assert len(smallest.rows["single"]) == 7
    assert smallest.route[30] == "single"


@pytest.mark.parametrize("name", ["single_max", "single_min", "single_full", "persona"])
def test_no_rows_at_all_is_the_users_error(toy: tuple[pd.DataFrame, Personas], name: str) -> None:
    rows, personas = toy
    with pytest.raises(UserError, match="no training rows"):
        mode(name, on_empty="base").plan(rows[:0], personas, 0)


@st.composite
def populations(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, int]]:
    """Rows per user, and personas of which each has a user with rows."""
    n_personas = draw(st.integers(1, 4))
    extra = draw(st.lists(st.integers(0, n_personas - 1), max_size=8))
    persona_of = dict(enumerate([*range(n_personas), *extra]))
    counts = {user: draw(st.integers(1, 12)) for user in persona_of}
    return counts, persona_of


# The fixture only builds; it has no state that examples could share.
PURE = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PURE
@given(populations(), st.integers(0, 3), st.none() | st.integers(1, 20))
def test_rules_of_the_sizes(
    make_personas: MakePersonas,
    population: tuple[dict[int, int], dict[int, int]],
    seed: int,
    max_rows: int | None,
) -> None:
    counts, persona_of = population
    rows, personas = rows_of(counts), make_personas(persona_of)
    by_persona = mode("persona", max_rows=max_rows).plan(rows, personas, seed)
    sizes = []
    for persona in range(len(personas.centers)):
        own = rows[rows["user_id"].map(persona_of) == persona]
        part = by_persona.rows[f"persona_{persona}"]
        assert len(part) == min(len(own), max_rows or len(own))
        # With no cap exactly the persona's rows, and never another's.
        assert pairs(part) <= pairs(own)
        assert not part.duplicated().any()
        sizes.append(len(part))
    largest = mode("single_max", max_rows=max_rows).plan(rows, personas, seed).rows["single"]
    smallest = mode("single_min", max_rows=max_rows).plan(rows, personas, seed).rows["single"]
    assert (len(largest), len(smallest)) == (max(sizes), min(sizes))
    pooled = pd.concat(list(by_persona.rows.values()))
    assert pairs(smallest) <= pairs(largest) <= pairs(pooled)
    shares(largest, pooled)
    shares(smallest, largest)
    # Each user's part of min is the beginning of the user's part of max.
    for user, part in smallest.groupby("user_id"):
        whole = largest.loc[largest["user_id"] == user, "item_id"].tolist()
        assert whole[: len(part)] == part["item_id"].tolist()


def shares(part: pd.DataFrame, whole: pd.DataFrame) -> None:
    """Every user gives the same share, rounded down or up."""
    taken = part["user_id"].value_counts()
    for user, count in whole["user_id"].value_counts().items():
        exact = count * len(part) / len(whole)
        assert np.floor(exact) <= taken.get(user, 0) <= np.ceil(exact)


def test_all_is_a_share() -> None:
    rows = rows_of({1: 3, 2: 5})
    assert pairs(take_share(rows, 8)) == pairs(rows)
    assert take_share(rows, 0).empty


@pytest.mark.parametrize("name", [name for name in MODES if name != "none"])
def test_draws_depend_on_the_seed_alone(toy: tuple[pd.DataFrame, Personas], name: str) -> None:
    def draw(seed: int) -> dict[str, list[int]]:
        plan = mode(name, rows_per_user=2).plan(*toy, seed)
        return {name: part["item_id"].tolist() for name, part in plan.rows.items()}

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_a_users_rows_do_not_depend_on_other_users(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    two = mode("persona", rows_per_user=2, on_empty="base")
    whole = two.plan(rows, personas, 0).rows["persona_0"]
    part = two.plan(rows[rows["user_id"].isin([10, 12])], personas, 0).rows["persona_0"]
    assert pairs(part) == {pair for pair in pairs(whole) if pair[0] != 11}


@pytest.mark.parametrize("name", MODES)
def test_a_mode_is_called_as_its_option(name: str) -> None:
    assert mode(name, rows_per_user=3, max_rows=9, on_empty="base", matrix=True).name == name


def test_personas_may_be_cut_to_the_size_of_the_smallest(
    toy: tuple[pd.DataFrame, Personas],
) -> None:
    plans = {cap: mode("persona", cap=cap).plan(*toy, 0) for cap in ("all", "largest", "smallest")}
    sizes = {cap: [len(part) for part in plan.rows.values()] for cap, plan in plans.items()}
    assert sizes == {"all": [12, 7, 3], "largest": [12, 7, 3], "smallest": [3, 3, 3]}


def test_an_adapter_goes_on_from_the_one_that_rates_its_users_in_another_mode(
    toy: tuple[pd.DataFrame, Personas],
) -> None:
    shared = mode("single_max")
    plan = mode("persona", start=shared, matrix=True).plan(*toy, 0)
    assert plan.starts == dict.fromkeys(["persona_0", "persona_1", "persona_2"], "single")
    # What is gone on from is trained first, on the rows of its own mode.
    assert list(plan.rows) == ["single", "persona_0", "persona_1", "persona_2"]
    assert plan.rows["single"].equals(shared.plan(*toy, 0).rows["single"])
    fresh = mode("persona", matrix=True).plan(*toy, 0)
    assert (plan.route, plan.crossed) == (fresh.route, fresh.crossed)
    # A start may have one of its own.
    users = mode("per_user", start=mode("persona", start=shared)).plan(*toy, 0)
    assert users.starts == {
        **plan.starts,
        **{f"user_{user}": f"persona_{persona}" for user, (persona, _) in TOY.items()},
    }
    assert list(users.rows) == [*plan.rows, *(f"user_{user}" for user in TOY)]


def test_who_has_nothing_to_go_on_from_begins_afresh(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    rows = rows[rows["user_id"] != 30]
    options: dict[str, Any] = {"on_empty": "base"}
    plan = mode("per_user", start=mode("persona", **options), **options).plan(rows, personas, 0)
    assert "user_30" not in plan.rows
    assert mode("persona", start=mode("none")).plan(*toy, 0).starts == {}


@pytest.mark.parametrize(("name", "start"), [("single_max", "persona"), ("persona", "persona")])
def test_a_start_without_one_adapter_for_all_users_is_the_users_error(
    toy: tuple[pd.DataFrame, Personas], name: str, start: str
) -> None:
    with pytest.raises(UserError, match=r"adapter\.start has no one adapter for"):
        mode(name, start=mode(start)).plan(*toy, 0)
