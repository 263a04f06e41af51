"""A local model answers conversations in valid JSON, side by side as alone, and by its seed."""

import json
from dataclasses import replace
from typing import Annotated

import pytest
from configured import configured
from pydantic import BaseModel as Schema
from pydantic import Field, ValidationError

from persona_lab.distill.chat import Conversation, Reply, Request
from persona_lab.errors import UserError
from persona_lab.model import BaseModel
from persona_lab.model.chat import LocalChat
from persona_lab.sources import Sources

TINY: BaseModel = configured("model=tiny")
CHAT: LocalChat = replace(
    configured("distiller=local").chat,
    model=TINY,
    max_new_tokens=12,
    accelerator="cpu",
    weights="float32",
)


@pytest.mark.parametrize("size", ["top_k", "max_new_tokens", "side_by_side"])
def test_sizes_are_checked(size: str) -> None:
    with pytest.raises(ValidationError, match="should be greater than 0"):
        replace(CHAT, **{size: 0})


class Inner(Schema):
    about: str
    rating: Annotated[int, Field(ge=1, le=5)]


class Outer(Schema):
    movie_1: Inner
    profile: str


def ask(text: str, **fields: object) -> Request:
    messages = (("system", "Rate it."), ("user", text))
    return replace(Request(messages, Outer, "test/1", temperature=0.7), **fields)


def asks(*requests: Request) -> Conversation[list[Reply]]:
    replies = []
    for request in requests:
        replies.append((yield request))
    return replies


def answers(sources: Sources, *requests: Request, chat: LocalChat = CHAT) -> list[Reply]:
    (replies,) = chat.converse([asks(*requests)], sources)
    return replies


def test_a_reply_is_valid_json_whatever_the_model(sources: Sources) -> None:
    for sample in range(4):
        (reply,) = answers(sources, ask("Fargo", sample=sample))
        found = Outer.model_validate_json(reply.text)
        assert 1 <= found.movie_1.rating <= 5
        assert reply.tokens_out > 12
        assert reply.money == 0


HALVES = [n / 2 if n % 2 else n // 2 for n in range(1, 21)]


class Rated(Schema):
    rating: Annotated[float, Field(json_schema_extra={"enum": HALVES})]
    why: str


def test_numbers_that_do_not_follow_each_other_are_answered_too(sources: Sources) -> None:
    chat = replace(CHAT, top_k=30)
    hot = [ask("Fargo", schema=Rated, temperature=9.0, sample=n) for n in range(60)]
    ratings = [json.loads(reply.text)["rating"] for reply in answers(sources, *hot, chat=chat)]
    assert {*ratings} <= {*HALVES}
    # Of one token and of several, and those that others go on from.
    assert {1, 10} < {*ratings}
    assert any(rating % 1 for rating in ratings)
    assert any(1 < rating < 10 and not rating % 1 for rating in ratings)


def test_side_by_side_as_alone(sources: Sources) -> None:
    requests = [ask("Fargo"), ask("Heat, a movie with a longer description"), ask("Alien")]
    chat = replace(CHAT, side_by_side=2)
    alone = [answers(sources, request)[0] for request in requests]
    together = chat.converse([asks(request) for request in requests], sources)
    assert [reply for (reply,) in together] == alone
    # Conversations of unequal length.
    longer, shorter = chat.converse([asks(*requests), asks(requests[0])], sources)
    assert (longer, shorter) == (alone, alone[:1])


def test_samples_differ_and_repeat(sources: Sources) -> None:
    first, again = answers(sources, ask("Fargo"), ask("Fargo"))
    assert first == again
    assert answers(sources, ask("Fargo", sample=1)) != [first]
    assert answers(sources, ask("Fargo"), chat=replace(CHAT, seed=1)) != [first]
    greedy = [ask("Fargo", temperature=0.0, sample=n) for n in (0, 1)]
    likeliest, sampled = answers(sources, *greedy)
    assert likeliest != sampled
    assert answers(sources, greedy[0], chat=replace(CHAT, seed=1)) == [likeliest]


def test_free_text_has_no_form(sources: Sources) -> None:
    (reply,) = answers(sources, ask("Fargo", schema=None))
    assert 0 < reply.tokens_out <= 12
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.text)


def test_a_reply_ends_at_the_longest_that_was_asked_for(sources: Sources) -> None:
    (reply,) = answers(sources, ask("Fargo", max_tokens=20), chat=replace(CHAT, max_new_tokens=500))
    assert Outer.model_validate_json(reply.text)
    assert reply.tokens_out < 500


def test_a_prompt_that_does_not_fit_is_refused(sources: Sources) -> None:
    with pytest.raises(UserError, match="context"):
        answers(sources, ask("Fargo " * 3000))


def test_weights_are_known_by_their_fingerprint(sources: Sources) -> None:
    other = replace(TINY, random={**(TINY.random or {}), "layers": 1})
    assert CHAT.fingerprint(sources) == CHAT.fingerprint(sources)
    assert CHAT.fingerprint(sources) != replace(CHAT, model=other).fingerprint(sources)
    assert CHAT.price(1000, 1000) == 0
