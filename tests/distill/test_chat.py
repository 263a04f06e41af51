"""Conversations: side by side in rounds, each to its own end."""

from collections.abc import Sequence

from persona_lab.distill import Conversation, Reply, Request, converse_in_rounds


def counting(name: str, calls: int) -> Conversation[str]:
    said = []
    for sample in range(calls):
        reply = yield Request((("user", name),), None, "count/1", sample)
        said.append(reply.text)
    return " ".join([name, *said])


def test_rounds_carry_each_to_its_end() -> None:
    rounds = []

    def answer(requests: Sequence[Request]) -> list[Reply]:
        rounds.append(len(requests))
        return [Reply(f"{each.messages[0][1]}{each.sample}") for each in requests]

    talks = [counting("a", 2), counting("b", 0), counting("c", 1)]
    assert converse_in_rounds(talks, answer) == ["a a0 a1", "b", "c c0"]
    assert rounds == [2, 1]
    assert converse_in_rounds([], answer) == []
