"""Movie titles in, the sentences of a text that name them out. Pure.

The title check of decisions 4 and 4b: a profile must not name a movie of the user's history, and
an enriched interaction no other movie than its own, or a training row's prompt could tell the
rating that it asks for. Titles are compared whole and with their capitals. A title of a single
common word ("Heat") counts only in quotes or beside its year.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, Self

import pandas as pd

_ARTICLES = "The|An|A|Les|Le|La|L'|El|Los|Las|Il|Der|Die|Das|Det|Den|Une|Un"
# "Big Lebowski, The", as catalogues sort it; "L'" stands without a space.
_INVERTED = re.compile(rf"^(?P<rest>.+), (?P<article>{_ARTICLES})$")
_UPRIGHT = re.compile(rf"^(?P<article>(?:{_ARTICLES}))(?:(?<=')| )(?P<rest>\S.*)$")
_ALTERNATIVE = re.compile(r"\s+\((?:a\.?k\.?a\.?\s+)?([^()]+)\)")
_COMMON_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_WORD = re.compile(r"[^\W_]+")
_YEAR = re.compile(r"\s?[(\[,]?\s?([0-9]{4})\b")
_QUOTES = "\"'“”«»*_"
_SENTENCE_END = re.compile(
    r"\s*\n\s*|(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|Jr|vs)\.)(?<!\bMrs\.)"
    r"(?P<closing>[\"'”)\]]*)\s+(?=[\"'“*_]?[A-Z0-9])"
)


class Mention(NamedTuple):
    """Where a text names a movie: from `start` up to `stop`; several movies may share the title."""

    start: int
    stop: int
    items: frozenset[int]


class _Alias(NamedTuple):
    text: str
    years: dict[int, int | None]  # by item
    items: frozenset[int]
    common: bool  # a single common word


@dataclass(frozen=True)
class Titles:
    """The titles of a catalogue, ready to be looked for.

    Attributes:
        by_words: Ways to write the titles, by the two words of theirs that the fewest titles have,
            twice the same where there is only one.
        words: Finds at least the words of a text that begin as one of these does.
    """

    by_words: dict[str, dict[str, list[_Alias]]] = field(repr=False)
    words: re.Pattern[str] = field(repr=False)

    @classmethod
    def of(cls, movies: pd.DataFrame) -> Self:
        """Prepare the catalogue: item_id, title, year."""
        years: dict[str, dict[int, int | None]] = defaultdict(dict)
        for item, title, year in zip(
            movies["item_id"].tolist(), movies["title"], movies["year"].tolist(), strict=True
        ):
            for alias in aliases(title):
                years[alias][item] = None if pd.isna(year) else int(year)
        # A title without a letter or digit cannot be told from punctuation.
        words = {text: of_title for text in years if (of_title := _WORD.findall(text))}
        uses = Counter(word for of_title in words.values() for word in set(of_title))
        by_words: dict[str, dict[str, list[_Alias]]] = defaultdict(lambda: defaultdict(list))
        for text, of_title in words.items():
            rarest = sorted(of_title, key=lambda word: (not word[0].isupper(), uses[word]))[:2]
            common = _COMMON_WORD.fullmatch(text) is not None
            alias = _Alias(text, years[text], frozenset(years[text]), common)
            by_words[rarest[0]][rarest[-1]].append(alias)
        firsts = {word[0] for first, seconds in by_words.items() for word in (first, *seconds)}
        # Nearly all begin with a capital, and few words of a text do.
        start = f"[{re.escape(''.join(sorted(firsts)))}]" if firsts else "(?!)"
        return cls({**by_words}, re.compile(rf"{start}[^\W_]*"))

    def mentions(self, text: str) -> list[Mention]:
        """Movies that a text names, in order; of overlapping titles the first and longest."""
        text = _straight(text)
        candidates = [
            mention for alias in self._possible(text) for mention in _occurrences(alias, text)
        ]
        chosen: list[Mention] = []
        for mention in sorted(candidates, key=lambda mention: (mention.start, -mention.stop)):
            if not chosen or mention.start >= chosen[-1].stop:
                chosen.append(mention)
        return chosen

    def drop_sentences(
        self, text: str, history: Collection[int], own: int | None = None
    ) -> tuple[str, int]:
        """Leave out the sentences that name a movie of the history other than the text's own.

        Args:
            text: Any text.
            history: Item ids of the user's history.
            own: The movie that the text is about, if any.

        Returns:
            The text without these sentences, and their number.
        """
        dropped = 0
        others = frozenset(history) - {own}
        # Most texts can name none, and need no closer look.
        while not all(alias.items.isdisjoint(others) for alias in self._possible(text)):
            mentions = self.mentions(text)
            named = [
                mention.start
                for mention in mentions
                if own not in mention.items and not mention.items.isdisjoint(history)
            ]
            if not named:
                break
            starts, stops = [0], []
            for end in _SENTENCE_END.finditer(text):
                # A full stop inside a title ends no sentence.
                if not any(mention.start < end.end() < mention.stop for mention in mentions):
                    stops.append(max(end.start(), end.end("closing")))
                    starts.append(end.end())
            naming = {bisect_right(starts, place) - 1 for place in named}
            dropped += len(naming)
            spans = enumerate(zip(starts, [*stops, len(text)], strict=True))
            text = " ".join(text[start:stop] for n, (start, stop) in spans if n not in naming)
        return text, dropped

    def _possible(self, text: str) -> list[_Alias]:
        """The titles of which a text has both words."""
        words = set(self.words.findall(text))
        return [
            alias
            for first in words
            if first in self.by_words
            for second in words & self.by_words[first].keys()
            for alias in self.by_words[first][second]
        ]


@cache
def natural_title(title: str) -> str:
    """A title as it is said: "Seventh Seal, The (Sjunde inseglet, Det)" is "The Seventh Seal"."""
    return _upright(_ALTERNATIVE.sub("", title).strip() or title)


def aliases(title: str) -> set[str]:
    """Ways to write a title: with its other name or one of both, its article first or last."""
    title = _straight(title).strip()
    names = {title, _ALTERNATIVE.sub("", title).strip(), *_ALTERNATIVE.findall(title)} - {""}
    upright = {_upright(name) for name in names}
    inverted = {
        f"{match['rest']}, {match['article']}"
        for name in upright
        if (match := _UPRIGHT.match(name))
    }
    return names | upright | inverted


def _straight(text: str) -> str:
    # One character for one, so that places in the text stay.
    return text.replace("‘", "'").replace("’", "'")


def _upright(title: str) -> str:
    if not (match := _INVERTED.match(title)):
        return title
    joint = "" if match["article"].endswith("'") else " "
    return f"{match['article']}{joint}{match['rest']}"


def _occurrences(alias: _Alias, text: str) -> Iterator[Mention]:
    name, stop = alias.text, 0
    while (start := text.find(name, stop)) >= 0:
        stop = start + len(name)
        before, after = text[max(start - 1, 0) : start], text[stop : stop + 2]
        within_word = (name[0].isalnum() and before.isalnum()) or (
            name[-1].isalnum() and after[:1].isalnum()
        )
        year = _YEAR.match(text, stop)
        of_year = frozenset(
            item for item, known in alias.years.items() if year and known == int(year[1])
        )
        quotes = before, after.lstrip(",.!?")[:1]
        quoted = all(quote and quote in _QUOTES for quote in quotes)
        if not within_word and (of_year or quoted or not alias.common):
            yield Mention(start, stop, of_year or alias.items)
