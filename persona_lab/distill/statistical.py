"""Histories in, memories out, without an LLM. Pure.

Profiles and reasons state what the ratings show, in words and numbers that a small model can copy
(M_s and M_l of the paper). No text names another movie than its own, or knows a later batch's
rating. A movie's summary and cast are not repeated: a prompt shows them beside the memory.
"""

from collections.abc import Iterable, Iterator, Sequence

from pydantic import PositiveInt

from persona_lab.component import component, neutral
from persona_lab.data import Cost, Scale
from persona_lab.distill.histories import History, Scope, UserMemories, rated_as
from persona_lab.distill.phrases import Phrases, Writer, voice
from persona_lab.distill.taste import Movies, Rated, Taste
from persona_lab.sources import Sources


@component
class Statistical:
    """Writes down what the ratings show; the paper's hierarchy (section 3.2) without its LLM.

    Attributes:
        batch_size: Rows after which the profile is written anew (paper, appendix A: at most 10).
        scope: Which ratings it is given (decision 3).
        phrases: The words.
        name: What reports call it.
    """

    batch_size: PositiveInt
    scope: Scope
    phrases: Phrases
    name: str = neutral()

    def distill(
        self, histories: Iterable[History], seed: int, sources: Sources
    ) -> Iterator[UserMemories]:
        """Distil each history of at least one row, in order; the seed chooses the wording."""
        writer, table, movies = Writer(self.phrases), None, None
        for history in histories:
            if movies is None or history.table is not table:
                table, movies = history.table, Movies(history.table, history.scale)
            taste, own = Taste(movies), voice(seed, history.user_id)
            rated = movies.rated[history.span]
            snapshots, interactions = [], []
            for start in range(0, len(rated), self.batch_size):
                for turn, movie in enumerate(rated[start : start + self.batch_size], start):
                    interactions.append(_interaction(movie, taste, writer, own, turn))
                    taste.add(movie)
                snapshots.append(writer.profile(taste.facts(), own))
            yield UserMemories(history.user_id, snapshots[-1], snapshots, interactions)

    def fingerprint(self, sources: Sources) -> str:
        """A constant."""
        return "statistical"

    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        """Nothing."""
        return Cost()


def _interaction(movie: Rated, taste: Taste, writer: Writer, voice: int, turn: int) -> str:
    """Why the user rated the movie so, from what was known of the user before.

    The turn goes on from text to text, so that neighbours are worded differently.
    """
    scale, last = taste.movies.scale, len(writer.feelings) - 1
    label = scale.labels[movie.place]
    facts = taste.reasons(movie) | taste.beside(movie) | {"label": label}
    directors = {"directors": list(movie.directors[:2])} if movie.directors else {}
    facts["movie"] = writer.part("movie", {"genres": movie.genres, **directors})
    share = (movie.rating - scale.low) / (scale.high - scale.low)
    facts["plain"] = writer.say(writer.feelings[round(share * last)], facts, voice, turn)
    reason = writer.say(writer.reason, facts, voice, turn)
    # In step with the other turns, the same wordings would always meet.
    beside = writer.say(writer.beside, facts, voice, turn + turn // 3)
    return f"{rated_as(movie.title, movie.year, label)} because {reason}. {beside}".rstrip()
