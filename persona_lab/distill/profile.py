"""A user's taste in, a first-person profile out: M_s without an LLM. Pure.

Every sentence states what the ratings show, in words and in numbers that a small language model
can copy; none names a movie. What would rest on too few ratings is left out, so a short history
has a short profile.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from persona_lab.distill.english import (
    Voice,
    amount,
    kind,
    listed,
    movies_phrase,
    offer,
    percent,
    with_article,
)
from persona_lab.distill.taste import OLD, Rated, Sums, Taste

# With fewer ratings a profile only says what they were; with fewer than _LONG nothing of change.
_FEW, _LONG = 6, 30
# What a prompt of a small model has room for beside the movies.
_MOST_WORDS = 400
# Movies by the average that others give them; see `Taste.bands`.
_BANDS = {8: "of 4.0 or more", 7: "of 3.5 to 4.0", 6: "of 3.0 to 3.5", 5: "below 3.0"}


class _Group(NamedTuple):
    name: str
    sums: Sums
    effect: float  # see `Sums.effect`


def write_profile(taste: Taste, voice: Voice) -> str:
    """The profile after all the movies that the taste knows, at least one.

    Args:
        taste: What is known of the user.
        voice: Chooses between equal wordings.
    """
    if taste.all.n < _FEW:
        return " ".join(_first_steps(taste))
    writer = _Writer(taste, voice)
    themes = {theme: " ".join(theme(writer)) for theme in _THEMES}
    text = " ".join(filter(None, themes.values()))
    for expendable in _EXPENDABLE:
        # So few characters need not be counted in words.
        if len(text) < 2 * _MOST_WORDS or len(text.split()) <= _MOST_WORDS:
            break
        del themes[expendable]
        text = " ".join(filter(None, themes.values()))
    return text


def _first_steps(taste: Taste) -> Iterator[str]:
    genres = Counter(genre for movie in taste.rated for genre in movie.genres).most_common(3)
    kinds = f", with {listed([kind(genre) for genre, _ in genres])} among them" if genres else ""
    ratings = [str(movie.rating) for movie in taste.rated]
    if len(ratings) == 1:
        yield f"So far I have rated a single movie, and I gave it a {ratings[0]}."
    else:
        yield f"So far I have rated {len(ratings)} movies{kinds}."
        yield f"My ratings were {listed(ratings)}, which is {taste.usual:.1f} on average."


class _Writer:
    """The themes of a profile, each a row of sentences, empty where there is nothing to say."""

    def __init__(self, taste: Taste, voice: Voice) -> None:
        self.taste = taste
        self.voice = voice
        # Ratings that a group needs to be spoken of.
        self._least = 3 if taste.all.n < 40 else 4
        self._genres = self._ranked(taste.genres, self._least)
        self._liked = {group.name: group for group in self._genres[:4] if group.effect >= 0.1}
        self._disliked = {
            group.name: group for group in self._genres[:-5:-1] if group.effect <= -0.1
        }

    def _ranked(self, groups: Mapping[str, Sums], least: int) -> list[_Group]:
        """The groups with enough ratings, best liked first."""
        usual = self.taste.usual
        known = [
            _Group(name, sums, sums.effect(usual))
            for name, sums in groups.items()
            if sums.n >= least
        ]
        return sorted(known, key=lambda group: (-group.effect, group.name))

    def opening(self) -> Iterator[str]:
        """Best and least liked, and how generous the ratings are."""
        rater = with_article(f"{_tone(self.taste)} rater")
        liked, disliked = list(self._liked)[:3], list(self._disliked)[:2]
        if liked:
            names = listed([kind(name) for name in liked])
            options = (
                f"I am {rater} who enjoys {names} most",
                f"What I enjoy most is {names}, and I am {rater}",
                f"I go to the cinema for {names} above all, and I am {rater}",
            )
            yield f"{self.voice.pick('opening', options)}."
            offers = listed([offer(name) for name in liked])
            options = (f"Give me {offers}", f"I look for {offers}", f"I hope for {offers}")
            yield f"{self.voice.pick('offers', options)}."
        else:
            yield f"I am {rater} without a clear favourite among the genres."
        if disliked:
            options = ("I get least out of", "I am harder to please with", "I care least for")
            names = listed([kind(name) for name in disliked])
            yield f"{self.voice.pick('dislike', options)} {names}."
            offers = " or ".join(offer(name) for name in disliked)
            yield f"I am less easily won over by {offers}."

    def watched(self) -> Iterator[str]:
        """What the user chooses to watch."""
        n = self.taste.all.n
        often = sorted([(-sums.n, name) for name, sums in self.taste.genres.items()])[:4]
        shares = [(percent(-size / n), kind(name)) for size, name in often if -size >= n / 10]
        if not shares:
            return
        (share, first), *rest = shares
        options = ("all",) if not rest or rest[0][0] == share else ("all", "first")
        if self.voice.pick("watched", options) == "all":
            others = [f"{share} {name}" for share, name in rest]
            yield f"Of the movies I watch, {listed([f'{share} are {first}', *others])}."
        else:
            then = listed([f"{name} ({share})" for share, name in rest])
            yield f"I watch {first} most often ({share} of my movies), then {then}."

    def genres(self) -> Iterator[str]:
        """Average rating of each genre."""
        if self._liked:
            options = ("What suits me best is", "I am happiest with", "My higher ratings go to")
            yield f"{self.voice.pick('liked', options)} {_scored(self._liked.values())}."
        if self._disliked:
            options = ("What suits me least is", "I am least happy with", "My lower ratings go to")
            yield f"{self.voice.pick('liked', options)} {_scored(self._disliked.values())}."
        told = self._liked.keys() | self._disliked.keys()
        rest = [
            f"{group.sums.mean:.1f} for {kind(group.name)}"
            for group in self._genres
            if group.name not in told
        ][:4]
        if rest:
            yield f"{'Otherwise' if told else 'By genre'} I average {listed(rest)}."

    def combinations(self) -> Iterator[str]:
        """Pairs of genres rated higher, or lower, than either genre."""
        best, worst = [], []
        for pair, sums in self.taste.pairs.items():
            if sums.n < self._least:
                continue
            effect = sums.effect(self.taste.usual)
            means = [self.taste.genres[name].mean for name in pair]
            scored = (-abs(effect), f"{movies_phrase(pair)} ({sums.mean:.1f})")
            if effect >= 0.2 and sums.mean > max(means) and self._disliked.keys().isdisjoint(pair):
                best.append(scored)
            if effect <= -0.2 and sums.mean < min(means) and self._liked.keys().isdisjoint(pair):
                worst.append(scored)
        likes, dislikes = (listed([text for _, text in sorted(each)[:2]]) for each in (best, worst))
        if likes:
            also = f", and {dislikes} least" if dislikes else ""
            yield f"Among combinations I like {likes} best{also}."
        elif dislikes:
            yield f"Among combinations I like {dislikes} least."

    def eras(self) -> Iterator[str]:
        """Average rating of each decade."""
        known = sorted(
            (name != OLD, name, sums)
            for name, sums in self.taste.eras.items()
            if sums.n >= self._least
        )
        if len(known) == 1 and known[0][2].n >= 0.8 * self.taste.all.n:
            yield f"Nearly all the movies I watch are from {known[0][1]}."
        if len(known) > 1:
            (_, first, sums), *rest = known
            means = [f"{sums.mean:.1f} for movies from {first}"]
            means += [f"{sums.mean:.1f} for {name}" for _, name, sums in rest]
            yield f"By decade I average {listed(means)}."
        old, new = Sums(), Sums()
        for movie in self.taste.rated:
            if movie.year is not None:
                (old if movie.year < 1980 else new).add(movie.rating, None)
        if min(old.n, new.n) >= 5 and abs(old.mean - new.mean) >= 0.3:
            yield f"{'Older' if old.mean > new.mean else 'Newer'} movies suit me better."

    def people(self) -> Iterator[str]:
        """Directors and actors who make a difference."""
        for role, groups, least in (
            ("directors", self.taste.directors, 2),
            ("actors", self.taste.actors, 3),
        ):
            known = self._ranked(groups, least)
            if known:
                # A movie may be named after its hero.
                titles = {movie.title for movie in self.taste.rated}
                known = [group for group in known if group.name not in titles]
            best = [group for group in known if group.effect >= 0.25][:2]
            worst = [group for group in known[::-1] if group.effect <= -0.25][:1]
            ends = [
                f"{listed([f'{group.name} ({group.sums.mean:.1f})' for group in end])} {place}"
                for end, place in ((best, "high"), (worst, "low"))
                if end
            ]
            if ends:
                yield f"Among {role} I rate {listed(ends)}."

    def against_averages(self) -> Iterator[str]:
        """How the ratings depend on the movies' average ratings."""
        overall = self.taste.all
        if overall.compared < _FEW:
            return
        if abs(overall.lead) < 0.15:
            yield "On the whole my ratings are level with the averages that others give."
        else:
            side = "above" if overall.lead > 0 else "below"
            yield (
                f"I tend to rate {amount(overall.lead)} {side} the average that others give "
                f"({abs(overall.lead):.2f})."
            )
        bands = [(band, self.taste.bands[band]) for band in _BANDS if band in self.taste.bands]
        known = [(band, sums) for band, sums in bands if sums.n >= 3]
        if len(known) < 2:
            return
        (top, first), *rest = known
        means = [
            f"A movie with an average {_BANDS[top]} gets {first.mean:.1f} from me",
            *(f"one {_BANDS[band]} gets {sums.mean:.1f}" for band, sums in rest),
        ]
        yield f"{listed(means)}."
        bottom, last = known[-1]
        slope = 2 * (first.mean - last.mean) / (top - bottom)
        agreement = "largely" if slope >= 0.9 else "partly" if slope >= 0.45 else "hardly"
        if overall.compared >= 20:
            yield f"So I {agreement} agree with others about which movies are good."

    def own_way(self) -> Iterator[str]:
        """Genres rated further from the movies' averages than the rest."""
        usual = self.taste.all.lead
        offsets = sorted(
            ((sums.above - sums.compared * usual) / (sums.compared + 4), sums.lead, kind(name))
            for name, sums in self.taste.genres.items()
            if sums.compared >= self._least
            and name not in (self._disliked if sums.lead > 0 else self._liked)
        )
        high = [(lead, name) for by, lead, name in offsets if by >= 0.1 and lead >= 0.1]
        low = [(-lead, name) for by, lead, name in offsets if by <= -0.1 and lead <= -0.1]
        ends = [
            (end, listed([f"{name} ({by:.1f} {side})" for by, name in sorted(each)[:-4:-1]]))
            for end, each, side in (("kindest to", high, "above"), ("harshest on", low, "below"))
        ]
        ends = [f"{end} {names}" for end, names in ends if names]
        if ends and self.taste.all.compared >= _FEW:
            yield f"Compared with those averages I am {listed(ends)}."

    def extremes(self) -> Iterator[str]:
        """What earns a 5, and what a 1 or a 2."""
        told = set(self._disliked)
        for start, count in (
            ("A 5 from me goes most often to", "fives"),
            ("A 1 or a 2 is most likely for", "lows"),
        ):
            usual = getattr(self.taste.all, count) / self.taste.all.n
            shares = [
                (getattr(group.sums, count) / group.sums.n, group.name)
                for group in self._genres
                if group.name not in told and getattr(group.sums, count) > 1
            ]
            most = sorted((each for each in shares if each[0] >= usual + 0.08), reverse=True)[:2]
            if most:
                parts = [f"{kind(name)} ({percent(share)})" for share, name in most]
                parts[0] = f"{parts[0][:-1]} of such movies)"
                yield f"{start} {listed(parts)}."
            told = {*self._liked, *(name for _, name in most)}

    def drift(self) -> Iterator[str]:
        """What has changed in the last third of the history."""
        if self.taste.all.n < _LONG:
            return
        size = self.taste.all.n // 3
        before, lately = self.taste.rated[:-size], self.taste.rated[-size:]
        old, new = (sum(movie.rating for movie in part) / len(part) for part in (before, lately))
        if abs(new - old) >= 0.3:
            change = "more generous" if new > old else "stricter"
            yield (
                f"Lately I have become {change}: my last {size} ratings are {new:.1f} on average, "
                f"against {old:.1f} before."
            )
        shares = _genre_shares(before), _genre_shares(lately)
        gains = sorted((shares[1][name] - shares[0][name], name) for name in self.taste.genres)
        more = [kind(name) for gain, name in gains[::-1] if gain >= 0.15][:2]
        less = [kind(name) for gain, name in gains if gain <= -0.15][:2]
        turns = [
            f"{way} {listed(names)}"
            for way, names in (("towards", more), ("away from", less))
            if names
        ]
        if turns:
            yield f"In what I choose to watch I have been turning {listed(turns)}."
        if abs(new - old) < 0.3 and not turns:
            yield "My taste and my ratings have changed little over time."

    def habits(self) -> Iterator[str]:
        """How often each rating is given, the typical one and the spread."""
        n, shares = self.taste.all.n, self.taste.shares
        top = max(shares)
        if top == n:
            yield f"I have given every one of the {n} movies I have rated a {shares.index(n)}."
            return
        typical = [f"a {value}" for value in range(5, 0, -1) if shares[value] == top]
        yield (
            f"Over {n} movies my average rating is {self.taste.usual:.1f}, and my most frequent "
            f"{'rating is' if len(typical) == 1 else 'ratings are'} {listed(typical)}."
        )
        given = [
            f"a {value} to {percent(shares[value] / n)}"
            for value in range(5, 0, -1)
            if shares[value]
        ]
        never = [f"a {value}" for value in range(5, 0, -1) if not shares[value]]
        but = f", but never {' or '.join(never)}" if never else ""
        given[0] += " of movies"
        yield f"I give {listed(given)}{but}."
        spread = self.taste.spread
        words = "lie close together" if spread < 0.8 else "vary" if spread < 1.1 else "vary widely"
        yield f"My ratings {words}, with a standard deviation of {spread:.1f}."


# In the order of the text.
_THEMES = (
    _Writer.opening,
    _Writer.watched,
    _Writer.genres,
    _Writer.combinations,
    _Writer.eras,
    _Writer.people,
    _Writer.against_averages,
    _Writer.own_way,
    _Writer.extremes,
    _Writer.drift,
    _Writer.habits,
)
# What tells least of the next rating goes first.
_EXPENDABLE = (_Writer.people, _Writer.combinations, _Writer.eras)


def _tone(taste: Taste) -> str:
    """How generous the ratings are, beside others' where these are known."""
    compared = taste.all.compared >= _FEW
    lead = taste.all.lead if compared else taste.usual - 3.6
    for limit, word in (
        (-0.6, "very strict"),
        (-0.2, "strict"),
        (0.2, "fair-minded"),
        (0.6, "generous"),
    ):
        if lead < limit:
            return word
    return "very generous"


def _scored(groups: Collection[_Group]) -> str:
    """Groups with their averages: "drama (4.1 over 31 movies) and war movies (4.0 over 9)"."""
    parts = [f"{kind(group.name)} ({group.sums.mean:.1f} over {group.sums.n})" for group in groups]
    parts[0] = f"{parts[0][:-1]} movies)"
    return listed(parts)


def _genre_shares(movies: list[Rated]) -> Counter[str]:
    shares: Counter[str] = Counter(genre for movie in movies for genre in movie.genres)
    return Counter({name: count / len(movies) for name, count in shares.items()})
