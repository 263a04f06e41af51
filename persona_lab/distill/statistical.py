"""Histories in, memories out, without an LLM. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import PositiveInt

from persona_lab.data import Cost
from persona_lab.distill.english import Voice
from persona_lab.distill.histories import History, Scope, UserMemories
from persona_lab.distill.profile import write_profile
from persona_lab.distill.reasons import write_interaction
from persona_lab.distill.taste import Rated, Taste, rated_movies
from persona_lab.sources import Sources


@dataclass(frozen=True)
class Statistical:
    """Writes down what the ratings show; the paper's hierarchy (section 3.2) without its LLM.

    Attributes:
        batch_size: Rows after which the profile is written anew (paper, appendix A: at most 10).
        scope: Which ratings it is given (decision 3).
        name: What reports call it.
    """

    batch_size: PositiveInt = 10
    scope: Scope = "training"
    name: str = field(default="statistical", metadata={"key": False})

    def distill(
        self, histories: Iterable[History], seed: int, sources: Sources
    ) -> Iterator[UserMemories]:
        """Distil each history, in order (see `Distiller`).

        Args:
            histories: At least one row each.
            seed: Chooses the wording, for each user anew.
            sources: Not used.
        """
        table, rated = None, []
        for history in histories:
            if history.table is not table:
                table = history.table
                rated = rated_movies(table)
            voice = Voice(seed, history.user_id)
            yield self._of_user(history.user_id, rated[history.span], voice)

    def fingerprint(self, sources: Sources) -> str:
        """A constant."""
        return "statistical"

    def estimate(self, sizes: Sequence[int]) -> Cost:
        """Nothing (see `Distiller`)."""
        return Cost()

    def _of_user(self, user_id: int, rated: Sequence[Rated], voice: Voice) -> UserMemories:
        taste = Taste()
        snapshots, interactions = [], []
        for start in range(0, len(rated), self.batch_size):
            for turn, movie in enumerate(rated[start : start + self.batch_size], start):
                interactions.append(write_interaction(movie, taste, voice, turn))
                taste.add(movie)
            snapshots.append(write_profile(taste, voice))
        return UserMemories(user_id, snapshots[-1], snapshots, interactions)
