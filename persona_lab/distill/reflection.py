"""Histories in, memories out, by an LLM that reflects on its own mistakes (paper, section 3.2).

Each batch of a user's ratings takes two calls. The first predicts them from the profile alone. The
second is shown the ratings beside these predictions; it explains each one (an enriched
interaction), says what the batch taught (an insight) and writes the profile anew. Pure: what
carries requests to an LLM and back is a `Chat`.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from persona_lab.component import component, neutral
from persona_lab.data import Cost, Scale
from persona_lab.distill.chat import TOKENS_PER_WORD, Chat, Conversation, Reply, Request
from persona_lab.distill.histories import History, Scope, UserMemories, rated_as, rated_so_many
from persona_lab.distill.prompts import Prompts
from persona_lab.distill.titles import Titles
from persona_lab.errors import UserError
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

ASKED_AGAIN = 3
"""How often a call is asked again while a part of its reply is not valid (decision 19)."""

# A row of a history: its columns' values by name.
Row = Mapping[str, Any]
# A part of a reply: its type, and what reads it or rejects it.
Part = tuple[Any, Callable[[Any], Any]]

# Of the JSON around a movie's rating or texts.
_TOKENS_OF_FORM = 10


class _Strict(BaseModel):
    # Servers that hold replies to a schema want every key named and no other allowed.
    model_config = ConfigDict(extra="forbid")


class Explained(_Strict):
    """Two texts on one movie: what it is, and why the user rated it so."""

    about: str
    because: str


@component
class Reflection:
    """Distils histories by self-reflection, users side by side.

    Attributes:
        chat: What answers.
        prompts: The words.
        batch_size: Ratings per batch (paper, appendix A: at most 10).
        max_words: Longer texts are asked for again (decision 19).
        temperature: Of sampling; at 0 a reply that is asked for again would come again.
        reflection: Whether ratings are predicted first and the profile is rewritten in the light
            of the mistakes; without, one pass extends it.
        enriched: Whether interactions are explained; without, they are plain lines with the rating.
        scope: Which ratings it is given (decision 3).
        usual_words: Words of a movie's description, a profile, an explanation and an insight:
            for the estimate alone.
        name: What reports call it.
    """

    chat: Chat
    prompts: Prompts
    batch_size: PositiveInt
    max_words: PositiveInt
    temperature: float
    reflection: bool
    enriched: bool
    scope: Scope
    usual_words: Mapping[str, int] = neutral()
    name: str = neutral()

    def distill(
        self, histories: Iterable[History], seed: int, sources: Sources
    ) -> Iterator[UserMemories]:
        """Distil each history of at least one row, all of them side by side.

        The seed is not used: a user's replies are the same for every draw of users, and paid once.

        Raises:
            UserError: The LLM cannot be reached or paid.
        """
        users = [_User(self, history) for history in histories]
        sizes = [len(user.history.rows) for user in users]
        cost = self.estimate(sizes, users[0].scale) if users else Cost()
        _log.info(
            "distilling %d users takes about %d calls, %d tokens in and %d out, money %.2f",
            *(len(users), cost.calls, cost.tokens_in, cost.tokens_out, cost.money),
        )
        yield from self.chat.converse([user.calls() for user in users], sources, cost.calls)

    def fingerprint(self, sources: Sources) -> Any:
        """What the texts depend on beside the fields."""
        return self.chat.fingerprint(sources)

    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        """Cost, were every reply valid and as long as `usual_words` says (see `Distiller`)."""
        words = Counter(self.usual_words)
        predicting = len(self.predicting(self.batch_size, scale).split())
        writing = len(self.writing(self.batch_size, scale).split())
        cost = Cost()
        for size in sizes:
            for start in range(0, size, self.batch_size):
                n = min(self.batch_size, size - start)
                shown = n * words["movie"] + (words["profile"] if start else 0)
                if self.reflection and start:
                    cost += self._call(predicting + shown, 0, n)
                written = words["profile"] + self.reflection * words["insight"]
                written += self.enriched * n * words["interaction"]
                cost += self._call(writing + shown, written, n)
        return cost

    def _call(self, words_in: int, words_out: int, movies: int) -> Cost:
        form = _TOKENS_OF_FORM * movies
        tokens_in = round(words_in * TOKENS_PER_WORD) + form
        tokens_out = round(words_out * TOKENS_PER_WORD) + form
        return Cost(1, tokens_in, tokens_out, self.chat.price(tokens_in, tokens_out))

    def predicting(self, movies: int, scale: Scale) -> str:
        """What a call is told that predicts so many ratings."""
        # Any number, as an example.
        form = dict.fromkeys(_names(movies), _number(scale.nearest(scale.middle)))
        return self.prompts.instruction(scale, form, self.prompts.predict)

    def writing(self, movies: int, scale: Scale) -> str:
        """What a call is told that explains so many ratings and writes the profile."""
        words = self.prompts
        form: dict[str, Any] = {}
        if self.enriched:
            form = {name: {"about": "...", "because": "..."} for name in _names(movies)}
        form |= {"insight": "..."} if self.reflection else {}
        return words.instruction(
            scale,
            form | {"profile": "..."},
            words.rated,
            words.explain if self.enriched else "",
            words.insight if self.reflection else "",
            words.rewrite if self.reflection else words.extend,
            words.profile.replace("{max_words}", str(self.max_words)),
        )


class _Rejected(Exception):
    """A part of a reply that will not do: why, and its text where only its titles are wrong."""


class _User:
    """One user's distillation, between one reply and the next."""

    def __init__(self, distiller: Reflection, history: History) -> None:
        self.distiller, self.history, self.scale = distiller, history, history.scale
        self.items = frozenset(history.rows["item_id"])
        self.titles = Titles.of(history.rows)
        self.counts: Counter[str] = Counter()
        self.cost = Cost()

    def calls(self) -> Conversation[UserMemories]:
        """Requests out, replies in, memories at the end."""
        profile = ""
        snapshots, interactions, insights = [], [], []
        rows: list[Any] = self.history.rows.astype(object).to_dict("records")
        size = self.distiller.batch_size
        for batch in (rows[start : start + size] for start in range(0, len(rows), size)):
            named = dict(zip(_names(len(batch)), batch, strict=True))
            predicted = {}
            # Without a profile there is nothing that a prediction could test.
            if self.distiller.reflection and profile:
                predicted = yield from self._predict(profile, named)
            written = yield from self._write(profile, named, predicted)
            for name, row in named.items():
                self.counts["interactions_plain"] += self.distiller.enriched and name not in written
                interactions.append(written.get(name) or f"{self._plain(row)}.")
            insights.append(written.get("insight", ""))
            self.counts["profiles_kept"] += "profile" not in written
            profile = written.get("profile", profile)
            snapshots.append(profile or rated_so_many(len(interactions)))
        counts = {name: n for name, n in self.counts.items() if n}
        return UserMemories(
            self.history.user_id,
            snapshots[-1],
            snapshots,
            interactions,
            insights,
            counts,
            self.cost,
        )

    def _predict(self, profile: str, rows: Mapping[str, Row]) -> Conversation[dict[str, float]]:
        """Ratings of unseen movies from the profile alone, by the movies' names in the form."""
        told = self.distiller.predicting(len(rows), self.scale)
        known = self.distiller.prompts.known(
            profile, [{**row, "rating": None} for row in rows.values()]
        )
        parts = dict.fromkeys(rows, (_rating_form(self.scale), self._rating))
        predicted = yield from self._ask("predict", told, known, parts)
        self.counts["predictions"] += len(predicted)
        self.counts["prediction_stars_off"] += sum(
            abs(predicted[name] - row["rating"]) for name, row in rows.items() if name in predicted
        )
        return predicted

    def _write(
        self, profile: str, rows: Mapping[str, Row], predicted: Mapping[str, float]
    ) -> Conversation[dict[str, str]]:
        """The valid texts on a batch, by their names in the form."""
        label = self.scale.label
        guesses = {name: {"predicted": label(rating)} for name, rating in predicted.items()}
        shown = [
            {**row, "rating": label(row["rating"]), **guesses.get(name, {})}
            for name, row in rows.items()
        ]
        told = self.distiller.writing(len(rows), self.scale)
        known = self.distiller.prompts.known(profile, shown)
        parts: dict[str, Part] = {}
        if self.distiller.enriched:
            parts |= {
                name: (Explained, partial(self._interaction, row)) for name, row in rows.items()
            }
        if self.distiller.reflection:
            parts["insight"] = str, self._text
        parts["profile"] = str, lambda value: self._named(self._text(value))
        return (yield from self._ask("reflect", told, known, parts))

    def _ask(
        self, step: str, told: str, known: str, parts: Mapping[str, Part]
    ) -> Conversation[dict[str, Any]]:
        """Ask until every part is valid, at most 1 + ASKED_AGAIN times.

        Returns:
            The first valid value of each part. A text whose titles alone are wrong stands in for
            one: the title check after the distiller is done drops the sentences where the protocol
            wants it, so that both protocols make, and pay for, the same calls (decision 4b).
        """
        schema = _schema(tuple((name, kind) for name, (kind, _) in parts.items()))
        valid: dict[str, Any] = {}
        naming: dict[str, str] = {}
        for sample in range(1 + ASKED_AGAIN):
            reply = yield Request(
                messages=(("system", told), ("user", known)),
                schema=schema,
                purpose=f"{step}/{self.distiller.prompts.version}",
                sample=sample,
                temperature=self.distiller.temperature,
            )
            self.cost += reply.cost
            reasons = set()
            for name in parts.keys() - valid.keys():
                try:
                    _, read = parts[name]
                    valid[name] = read(_read(reply).get(name))
                except _Rejected as rejected:
                    reason, *texts = rejected.args
                    reasons.add(reason)
                    for text in texts:
                        naming[name] = text
            self.counts["asked_again"] += sample > 0
            self.counts.update(f"rejected_{reason}" for reason in reasons)
            if not reasons:
                break
        return naming | valid

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise _Rejected("malformed")
        text = " ".join(value.split())
        if not any(character.isalnum() for character in text):
            raise _Rejected("empty")
        if len(text.split()) > self.distiller.max_words:
            raise _Rejected("long")
        return text

    def _interaction(self, row: Row, value: Any) -> str:
        """The LLM's two texts around our own statement of what was rated how."""
        try:
            explained = Explained.model_validate(value)
        except ValidationError:
            raise _Rejected("malformed") from None
        about, because = self._text(explained.about), self._text(explained.because)
        because = re.sub(r"^because\b[\s,:]*", "", because, flags=re.IGNORECASE) or because
        stop = "" if about.endswith((".", "!", "?")) else "."
        text = self._text(f"{about}{stop} {self._plain(row)} because {because}")
        return self._named(text, own=row["item_id"])

    def _plain(self, row: Row) -> str:
        return rated_as(row["title"], row["year"], self.scale.label(row["rating"]))

    def _rating(self, value: Any) -> float:
        try:
            rating = float(str(value))
            self.scale.index(rating)
        except (ValueError, UserError):
            raise _Rejected("malformed") from None
        return _number(rating)

    def _named(self, text: str, own: int | None = None) -> str:
        """The text, if it names no movie of the history but its own (decisions 4 and 4b)."""
        _, dropped = self.titles.drop_sentences(text, self.items, own)
        if dropped:
            raise _Rejected("title", text)
        return text


@lru_cache
def _schema(parts: tuple[tuple[str, Any], ...]) -> type[BaseModel]:
    """The form of a reply with these parts; kept: making it takes longer than sending a request."""
    fields: Any = {name: (kind, ...) for name, kind in parts}
    return create_model("Answer", __base__=_Strict, **fields)


def _names(movies: int) -> list[str]:
    return [f"movie_{n}" for n in range(1, movies + 1)]


def _rating_form(scale: Scale) -> Any:
    """The type of a rating in a reply's schema."""
    values: list[Any] = [_number(value) for value in scale.values]
    if values == list(range(int(scale.low), int(scale.low) + len(values))):
        return Annotated[int, Field(ge=values[0], le=values[-1])]
    return Annotated[float, Field(json_schema_extra={"enum": values})]


def _number(value: Any) -> float:
    """A value as JSON writes it shortest: 3, not 3.0."""
    return int(value) if float(value).is_integer() else float(value)


def _read(reply: Reply) -> dict[str, Any]:
    """The JSON object of a reply, also in a fence, among other words or loosely written."""
    if reply.refused:
        raise _Rejected("refused")
    if not reply.text.strip():
        raise _Rejected("empty")
    start = max(reply.text.find("{"), 0)
    for text in (reply.text[start:], re.sub(r",(?=\s*[}\]])", "", reply.text[start:])):
        try:
            # Not strict: line breaks may stand in texts as they are.
            answer, _ = json.JSONDecoder(strict=False).raw_decode(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict):
            return answer
    raise _Rejected("malformed")
