"""A finished experiment -> its user agents, which recall, are prompted and rate (the paper's third
stage).

All agents live on one loaded base model; each user's ratings come from the user's own persona's
adapter. For a run's test rows they give the run's predictions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from persona_lab.errors import UserError
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.memory import Bank, Recalled, Table

Movie = int | str
"""An item_id, or a title as the data set spells it."""

# Position of a movie that comes after all of a history.
_LAST = 2**31


class Agents(Mapping[int, "UserAgent"]):
    """The user agents of a run, by user_id."""

    def __init__(self, experiment: Experiment, lab: Lab) -> None:
        """Find what the run made.

        Args:
            experiment: The run's.
            lab: Its places; with what is at hand alone, nothing is computed again.

        Raises:
            NotAtHand: The cache has lost a part of it.
        """
        self.experiment, self.lab = experiment, lab
        self.prepared = experiment.prepare(lab)
        for entry in self.prepared.entries.values():
            entry.require()
        self.tuning = experiment.tuning(lab, self.prepared)
        self.adapters = self.tuning.adapters()
        for entry in self.adapters.values():
            entry.require()

    def __getitem__(self, user_id: int) -> "UserAgent":
        if user_id not in self.tuning.plan.route:
            raise KeyError(f"user {user_id} is not one of the run's {len(self)} users")
        return UserAgent(self, user_id)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tuning.plan.route)

    def __len__(self) -> int:
        return len(self.tuning.plan.route)

    def rate(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rate many users' movies: the rows with prediction, expected_rating and response.

        Args:
            rows: user_id and item_id; as unseen movies, after all of the users' history.

        Returns:
            The same rows; `prediction` is NaN where the response has none.
        """
        # The truth is not known, and no prompt shows it.
        asked = rows.assign(rating=0, position=_LAST).reset_index(drop=True)
        examples = self.tuning.examples(asked, training=False)
        responses = self.tuning.answer(examples, self.adapters)
        answers = {
            "prediction": np.array([response.prediction for response in responses], dtype=float),
            "expected_rating": [response.expected_rating for response in responses],
            "response": [response.text for response in responses],
        }
        return pd.concat([rows.reset_index(drop=True), pd.DataFrame(answers)], axis=1)

    def item_id(self, movie: Movie) -> int:
        """The id of a movie given by id or title.

        Raises:
            UserError: There is no such movie, or several have the title.
        """
        movies = self.prepared.split.value.movies
        column = "title" if isinstance(movie, str) else "item_id"
        matches = movies.loc[movies[column] == movie, "item_id"]
        if len(matches) != 1:
            raise UserError(
                f"{len(matches)} movies have the {column} {movie!r}",
                "name one by its item_id in the data set",
            )
        return int(matches.iloc[0])

    @cached_property
    def bank(self) -> Bank:
        """What all agents recall from; what they remember later goes into the run's folder."""
        return Bank(
            self.prepared.memories.value,
            self.prepared.vectors.value,
            self.experiment.memory,
            self.experiment.protocol.recall_time,
            Table(self.lab.folder / "memories"),
        )


@dataclass(frozen=True)
class UserAgent:
    """One user's agent."""

    agents: Agents
    user_id: int

    @property
    def profile(self) -> str:
        """The user's short-term memory, in the first person."""
        profiles = self.agents.prepared.memories.value.profiles
        return str(profiles.set_index("user_id").loc[self.user_id, "profile"])

    @property
    def persona(self) -> int:
        """The user's persona, 0 the largest."""
        return self.agents.prepared.personas.value.of(self.user_id)

    def recall(self, movie: Movie) -> list[Recalled]:
        """What of the user's long-term memory comes to mind at a movie, most similar first."""
        row = {"user_id": self.user_id, "item_id": self.agents.item_id(movie), "position": _LAST}
        return self.agents.bank.recall_rows(pd.DataFrame([row]))[0]

    def rate(self, movies: Sequence[Movie]) -> pd.DataFrame:
        """How the user would rate movies.

        Args:
            movies: Item ids or titles.

        Returns:
            user_id, item_id, prediction (NaN where the response has none), expected_rating and
            response.
        """
        ids = [self.agents.item_id(movie) for movie in movies]
        return self.agents.rate(pd.DataFrame({"user_id": self.user_id, "item_id": ids}))
