"""A rated movie and the user's taste in, an enriched interaction out: M_l without an LLM. Pure.

The reason is what the user's ratings before this one say about such a movie, so that the memory of
an earlier movie tells nothing of the rating of a later one. It names no other movie.
The movie's summary and cast are not repeated: a prompt shows them beside the memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from persona_lab.distill.english import (
    Voice,
    kind,
    listed,
    movie_phrase,
    movies_phrase,
    percent,
    with_article,
)
from persona_lab.distill.taste import Rated, Sums, Taste
from persona_lab.distill.titles import natural_title

_FEELINGS = {
    5: ("I loved this {}", "this {} is among the best I have seen", "it is {a} that I loved"),
    4: ("I enjoyed this {}", "this {} was well worth watching", "it is {a} that I liked"),
    3: (
        "this {} was all right",
        "I found this {} fair but no more",
        "it is {a}, neither good nor bad",
    ),
    2: ("I did not much like this {}", "this {} did little for me", "this {} disappointed me"),
    1: ("I could not stand this {}", "nothing in this {} worked for me", "I hated this {}"),
}
# The effect from which a group of movies is a reason (see `Sums.effect`), and how far from the
# rating its average may then be.
_TELLING, _NEAR = 0.1, 1.0
# Texts on a movie are the same for all users who rate it so; of tens of thousands they are kept.
_KEPT = 2**16


class _Evidence(NamedTuple):
    """What earlier ratings say of movies that share something with this one."""

    effect: float
    mean: float
    what: str


def write_interaction(movie: Rated, taste: Taste, voice: Voice, turn: int) -> str:
    """Why the user rated the movie so.

    Args:
        movie: The movie.
        taste: What was known of the user before.
        voice: Chooses between equal wordings.
        turn: Goes on from text to text, so that neighbours are worded differently.
    """
    reason = _reason(movie, taste, voice, turn)
    sentences = [f"{verdict(movie.title, movie.year, movie.rating)} because {reason}."]
    if movie.mean is not None:
        options = _beside_average(movie.rating, movie.mean)
        # In step with the other turns, the same wordings would always meet.
        sentences.append(voice.pick("average", options, turn + turn // len(options)))
    elif taste.all.n >= 10:
        given = taste.shares[movie.rating] / taste.all.n
        often = f"I give a {movie.rating} to {percent(given)} of the movies I rate."
        sentences.append(often if given else f"I had never given a {movie.rating} before.")
    return " ".join(sentences)


@lru_cache(_KEPT)
def verdict(title: str, year: int | None, rating: float | str) -> str:
    """What every enriched interaction says: "I rated Fargo (1996) as 5"."""
    return f"I rated {natural_title(title)}{f' ({year})' if year else ''} as {rating}"


def _reason(movie: Rated, taste: Taste, voice: Voice, turn: int) -> str:
    a_movie, feelings = _feelings(movie.rating, movie.genres, movie.directors)
    plain = voice.pick("feeling", feelings, turn)
    usual = taste.usual
    evidence = sorted(_evidence(movie, taste, usual))
    if not evidence:
        return plain
    above = movie.rating - usual
    if abs(above) < 0.5:
        near = min(evidence, key=lambda each: (abs(each.mean - movie.rating), each.what))
        if abs(near.mean - movie.rating) > 0.5:
            return f"{plain}, much like most of what I watch"
        if abs(near.mean - movie.rating) < 0.05:
            return f"{plain}, and a {movie.rating} is what I usually give {near.what}"
        return f"{plain}, and a {movie.rating} is close to the {near.mean:.1f} I give {near.what}"
    support, contrast = evidence[-1], evidence[0]
    if above < 0:
        support, contrast = contrast, support
    telling = support.effect * above > 0 and abs(support.effect) >= _TELLING
    if telling and abs(support.mean - movie.rating) <= _NEAR:
        more = "higher" if above > 0 else "lower"
        options = (
            f"it is {a_movie}, and I rate {support.what} {more} than other movies, "
            f"at {support.mean:.1f} on average",
            f"{plain}, in line with the {support.mean:.1f} I give {support.what} on average",
        )
        return voice.pick("support", options, turn)
    if abs(contrast.mean - movie.rating) > _NEAR:
        only = "only " if above > 0 else ""
        return f"{plain}, although I average {only}{contrast.mean:.1f} for {contrast.what}"
    if taste.all.n < 5:
        return plain
    side = "above" if above > 0 else "below"
    return f"{plain}, and a {movie.rating} is {side} my usual {usual:.1f}"


@lru_cache(_KEPT)
def _feelings(
    rating: int, genres: tuple[str, ...], directors: tuple[str, ...]
) -> tuple[str, list[str]]:
    """Such a movie, with its article, and ways to say how it was liked."""
    what = movie_phrase(genres)
    if directors:
        what += f" by {listed(directors[:2])}"
    a_movie = with_article(what)
    return a_movie, [feeling.format(what, a=a_movie) for feeling in _FEELINGS[rating]]


def _evidence(movie: Rated, taste: Taste, usual: float) -> Iterator[_Evidence]:
    """What is shared with enough movies rated before."""
    shared: list[tuple[Sequence[Any], Mapping[Any, Sums], Callable[[Any], str]]] = [
        (movie.genres, taste.genres, kind),
        (movie.pairs, taste.pairs, movies_phrase),
        (movie.directors, taste.directors, "what {} directs".format),
        (movie.actors, taste.actors, "movies with {}".format),
    ]
    for names, groups, phrase in shared:
        for name in names:
            sums = groups.get(name)
            if sums and sums.n >= 2:
                yield _Evidence(sums.effect(usual), sums.mean, phrase(name))
    era = taste.eras.get(movie.era) if movie.era else None
    # An era that most movies are from says nothing.
    if era and 3 <= era.n < 0.6 * taste.all.n:
        yield _Evidence(era.effect(usual), era.mean, f"movies from {movie.era}")


@lru_cache(_KEPT)
def _beside_average(rating: int, mean: float) -> tuple[str, ...]:
    """Ways to set a rating beside the average that others give."""
    by = rating - mean
    if abs(by) < 0.3:
        return (
            f"Others see it much the same way, with an average of {mean:.1f}.",
            f"That is about the {mean:.1f} that others give it on average.",
        )
    size = 0 if abs(by) < 0.75 else 1 if abs(by) < 1.5 else 2
    much, far = (("a little", "a little"), ("much", "well"), ("far", "far"))[size]
    more, side = ("more", "above") if by > 0 else ("less", "below")
    return (
        f"Others give it {mean:.1f} on average, so I liked it {much} {more} than most.",
        f"That is {far} {side} the {mean:.1f} that others give it on average.",
        f"With an average of {mean:.1f}, most people liked it {much} "
        f"{'less' if by > 0 else 'more'} than I did.",
    )
