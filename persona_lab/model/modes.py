"""Training rows and personas -> which adapter trains on which rows and rates which users.

A mode (decision 12) is a grouping of users, a cap on rows and a start. Pure.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from persona_lab.component import component, neutral
from persona_lab.errors import UserError
from persona_lab.personas import Personas


@dataclass(frozen=True)
class Plan:
    """Who trains on what, and who rates whom.

    Attributes:
        rows: adapter name -> its training rows, in the order of training.
        route: user_id -> name of the adapter that rates the user's movies, None for the base.
        starts: adapter name -> name of the adapter that it goes on from; one that is not named
            here is trained afresh.
        crossed: Adapters that rate all users' movies as well, for the matrix of adapters and users.
    """

    rows: dict[str, pd.DataFrame]
    route: dict[int, str | None]
    starts: dict[str, str] = field(default_factory=dict)
    crossed: tuple[str, ...] = ()


@runtime_checkable
class Grouping(Protocol):
    """Which users share an adapter."""

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """One row per user, users of the adapter that is trained first before the others.

        user_id; part: number of the group of users whose rows are capped together and whose size is
        compared with others'; adapter: name of the one that trains on the user's rows and rates the
        user, None for the frozen model.
        """
        ...


@component
class NoOne:
    """The frozen base model rates everyone."""

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """No adapter for anyone."""
        return _parts(personas).assign(adapter=None)


@component
class Everyone:
    """One adapter for all users."""

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """The adapter `single`."""
        return _parts(personas).assign(adapter="single")


@component
class ByPersona:
    """One adapter per persona (the paper's theta_persona)."""

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """The adapters `persona_0`, `persona_1`, ..."""
        return _named(_parts(personas), "persona", by="part")


@component
class AtRandom:
    """One adapter per group of random users, as many in each as in a persona.

    The persona claim's control: the same adapters, sizes and steps, without the personas.
    """

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """The adapters `random_persona_0`, ...: users' personas shuffled among them."""
        table = personas.assignment
        shuffled = np.random.default_rng(seed).permutation(table["persona"])
        parts = _parts(replace(personas, assignment=table.assign(persona=shuffled)))
        return _named(parts, "random_persona", by="part")


@component
class ByUser:
    """One adapter per user, on those of its rows that its persona's adapter would have."""

    def groups(self, personas: Personas, seed: int) -> pd.DataFrame:
        """The adapters `user_<user_id>`."""
        return _named(_parts(personas).sort_values("user_id"), "user", by="user_id")


def _parts(personas: Personas) -> pd.DataFrame:
    parts = personas.assignment.rename(columns={"persona": "part"})
    return parts.sort_values("part", kind="stable")


def _named(parts: pd.DataFrame, name: str, by: str) -> pd.DataFrame:
    return parts.assign(adapter=[f"{name}_{number}" for number in parts[by]])


@runtime_checkable
class Start(Protocol):
    """What adapters begin with. Every `Mode` is one: its adapters are trained first."""

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The adapters to go on from: each user's by `Plan.route`."""
        ...


@component
class Fresh:
    """Adapters begin with weights of their own."""

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """None to go on from."""
        return Plan({}, dict.fromkeys(personas.assignment["user_id"]))


@component
class Mode:
    """How users share adapters.

    Attributes:
        name: Name in results.
        grouping: Which users share an adapter.
        cap: Rows that an adapter trains on: `all` of its users', or as many as the `largest` or
            the `smallest` persona has, the same share of each user's.
        start: What an adapter begins with.
        rows_per_user: Training rows drawn of each user before all else; None: all.
        max_rows: Cap on each persona's rows; None: none.
        on_empty: `error`, or `base`: who would get an adapter without rows is rated by the frozen
            model.
        matrix: Whether each persona's adapter also rates the users of all others, for `matrix` of
            the result; for the groupings with an adapter per persona. It rates that many times
            more.
    """

    name: str
    grouping: Grouping
    cap: Literal["all", "largest", "smallest"]
    start: Start
    rows_per_user: PositiveInt | None
    max_rows: PositiveInt | None
    on_empty: Literal["error", "base"]
    matrix: bool = neutral()

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """Divide training rows (user_id, item_id, ...) among adapters.

        Raises:
            UserError: An adapter has no training rows and `on_empty` is `error`, none has any, or
                there is no one adapter to go on from.
        """
        users = personas.assignment["user_id"]
        groups = self.grouping.groups(personas, seed).set_index("user_id")
        adapters = groups["adapter"].dropna()
        if adapters.empty:
            return Plan({}, dict.fromkeys(users))
        parts = self._parts(rows, groups["part"], seed)
        limits = self._limits(parts)
        pooled = pd.concat(parts)
        owners = pooled["user_id"].map(adapters)
        sets = {name: pooled[owners == name] for name in adapters.unique()}
        for limit in limits:
            sets = {name: take_share(own, limit) for name, own in sets.items()}
        empty = [name for name, own in sets.items() if own.empty]
        if empty and (self.on_empty == "error" or len(empty) == len(sets)):
            raise UserError(
                f"{empty[0].replace('_', ' ')} has no training rows",
                "lower personas.n_personas, raise adapter.max_rows, or let the base rate its "
                "users: adapter.on_empty=base",
            )
        sets = {name: own for name, own in sets.items() if name not in empty}
        first = self.start.plan(rows, personas, seed)
        starts = dict(first.starts)
        for name in sets:
            # An adapter goes on from what rates all of its users there.
            before, *others = {first.route.get(user) for user in adapters.index[adapters == name]}
            if others or name in first.rows:
                raise UserError(
                    f"adapter.start has no one adapter for {name} to go on from, of a name of its "
                    "own",
                    "let it begin afresh, or after adapters of larger groups of users",
                )
            if before is not None:
                starts[name] = before
        one_per_part = adapters.nunique() == groups["part"].nunique()
        return Plan(
            first.rows | sets,
            {user: name if (name := adapters.get(user)) in sets else None for user in users},
            starts,
            tuple(sets) if self.matrix and one_per_part else (),
        )

    def _parts(self, rows: pd.DataFrame, part_of: pd.Series, seed: int) -> list[pd.DataFrame]:
        """Each part's rows after the caps, each user's in a seeded random order.

        The order of a user's rows depends on the seed and the user alone, so that a smaller draw
        is always the beginning of a larger one.
        """
        drawn = []
        for user, own in rows.groupby("user_id", sort=True):
            order = np.random.default_rng([seed, int(str(user))]).permutation(len(own))
            drawn.append(own.iloc[order[: self.rows_per_user]])
        shuffled = pd.concat(drawn) if drawn else rows
        places = shuffled["user_id"].map(part_of)
        parts = [shuffled[places == part] for part in sorted(part_of.unique())]
        return [
            part if self.max_rows is None else take_share(part, self.max_rows) for part in parts
        ]

    def _limits(self, parts: list[pd.DataFrame]) -> list[int]:
        """Rows of an adapter, one cut after the other: the smallest share is of the largest."""
        if self.cap == "all":
            return []
        sizes = [len(part) for part in parts if len(part) or self.on_empty == "error"]
        largest, smallest = max(sizes, default=0), min(sizes, default=0)
        if self.cap == "smallest" and sizes and not smallest:
            raise UserError(
                f"the smallest persona has no training rows, so {self.name} has none",
                "lower personas.n_personas, or leave it out: adapter.on_empty=base",
            )
        return [largest] if self.cap == "largest" else [largest, smallest]


def take_share(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first rows of every user, the same share of each, `n` in all (largest remainder)."""
    n = min(n, len(rows))
    counts = rows.groupby("user_id", sort=True).size()
    exact = counts * n / max(len(rows), 1)
    quota = exact.floordiv(1).astype(int)
    # Stable, so that users with equal remainders come in the order of their ids.
    by_remainder = (exact - quota).sort_values(ascending=False, kind="stable").index
    quota[by_remainder[: n - int(quota.sum())]] += 1
    return rows[rows.groupby("user_id").cumcount() < rows["user_id"].map(quota.to_dict())]
