"""Conversations in, a local model's replies out: distillation without a server or a key.

The form of a reply is written for the model and only the values in it are the model's own (after
Jsonformer), so that a model of any size answers in valid JSON. Conversations go on side by side,
one row of a batch each. `converse` and `fingerprint` read weights through the sources.
"""

import hashlib
import itertools
import json
import logging
import re
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.component import component, neutral
from persona_lab.data import Scale
from persona_lab.distill.chat import Conversation, Reply, Request, converse_in_rounds
from persona_lab.model.base import BaseModel
from persona_lab.model.decode import head
from persona_lab.model.engine import Group, Tree, TreeCache, run, step
from persona_lab.prompting import Codec
from persona_lab.prompting.template import Prompt, Section
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

# By what may be answered a codec finds where a reply begins; any digits will do.
_DIGITS = Scale((0, 1), ("false", "true"))

T = TypeVar("T")
# A model in need of tokens gives them, is sent the logits of what comes next, and returns a value.
_Writing = Generator[int, Tensor, T]

_SAMPLED_AGAIN = 0.7  # temperature, where the likeliest tokens would be the same again
_UNTIL_SENTENCE_END = re.compile(r".*[.!?]", re.DOTALL)


@component
class LocalChat:
    """A transformers model in the process that plays `distill.Chat`.

    Attributes:
        model: The model.
        top_k: Tokens that sampling may draw.
        max_new_tokens: Length of each text of a reply; a longer one ends at its last full sentence.
        seed: Of sampling; at temperature 0 only what is asked again is sampled.
        side_by_side: Conversations per batch; bounds memory.
        accelerator: `cpu` or `gpu`.
        weights: Precision in which the model is held.
    """

    model: BaseModel
    top_k: PositiveInt
    max_new_tokens: PositiveInt
    seed: int
    side_by_side: PositiveInt = neutral()
    accelerator: Literal["cpu", "gpu"]
    weights: Literal["float32", "bfloat16"]

    def converse(
        self,
        conversations: Iterable[Conversation[T]],
        sources: Sources,
        expected: int | None = None,
    ) -> list[T]:
        """Carry conversations to their ends (see `distill.Chat`).

        Raises:
            UserError: A prompt does not fit the model's context.
        """
        codec = self.model.codec(sources, self.max_new_tokens, _DIGITS)
        device = "cuda" if self.accelerator == "gpu" else "cpu"
        model = self.model.load(sources, getattr(torch, self.weights), device)
        # Tokens after which a text in JSON is over, or would have to be escaped.
        texts = codec.tokenizer.batch_decode([[token] for token in range(len(codec.tokenizer))])
        escaped = {token for token, text in enumerate(texts) if re.search(r'["\\\n{}]', text)}
        ends = escaped.union(codec.stop_ids, codec.tokenizer.all_special_ids)

        def answer(requests: Sequence[Request]) -> Sequence[Reply]:
            starts = range(0, len(requests), self.side_by_side)
            parts = [requests[start : start + self.side_by_side] for start in starts]
            return [reply for part in parts for reply in self._answer(model, codec, ends, part)]

        return converse_in_rounds(conversations, answer)

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Nothing."""
        return 0.0

    def fingerprint(self, sources: Sources) -> str:
        """Hash of what identifies the weights."""
        identity = json.dumps(self.model.fingerprint(sources), sort_keys=True, default=vars)
        return hashlib.sha256(identity.encode()).hexdigest()

    def _answer(
        self, model: PreTrainedModel, codec: Codec, ends: set[int], requests: Sequence[Request]
    ) -> list[Reply]:
        """Answer as many requests as fit into one batch."""
        start = time.perf_counter()
        prompts = [codec.encode(_prompt(request)).ids for request in requests]
        # Each row is a prefix of its own, so that decoding copies none of its keys and values.
        rows = [Group(ids[:-1], [ids[-1:]], [row]) for row, ids in enumerate(prompts)]
        tree = Tree(rows, model.device)
        cache = TreeCache(tree)
        rooms = [self.model.context - len(ids) for ids in prompts]
        pairs = zip(requests, rooms, strict=True)
        writers = [_Writer(self, codec, ends, request, room) for request, room in pairs]
        with torch.inference_mode():
            logits = head(model, run(model, tree, cache)[tree.ends]).float().cpu()
            n = 0
            # A list: every row takes its logits, also where an earlier one has more to say.
            while any([writer.feed(row) for writer, row in zip(writers, logits)]):  # noqa: B905, C419
                tokens = torch.tensor([writer.token for writer in writers], device=model.device)
                logits = head(model, step(model, tokens, cache, n)).float().cpu()
                n += 1
        seconds, written = time.perf_counter() - start, sum(writer.tokens for writer in writers)
        facts = (len(requests), requests[0].purpose, written, seconds)
        _log.info("%d replies (%s) with %d tokens in %.1f s", *facts)
        return [
            Reply(writer.reply or "", tokens_in=len(ids), tokens_out=writer.tokens)
            for writer, ids in zip(writers, prompts, strict=True)
        ]


class _Writer:
    """One reply in the making.

    Attributes:
        token: The token to go on with.
        tokens: Tokens given so far.
        reply: The whole, None until `feed` has returned False.
    """

    def __init__(
        self, chat: LocalChat, codec: Codec, ends: set[int], request: Request, room: int
    ) -> None:
        self.chat, self.codec, self.ends, self.request = chat, codec, ends, request
        self.room = min(room, request.max_tokens)
        self.token = self.tokens = 0
        self.reply: str | None = None
        question = zlib.crc32(json.dumps(request.messages).encode())
        self.rng = np.random.default_rng([chat.seed, request.sample, question])
        self.temperature = request.temperature or (_SAMPLED_AGAIN if request.sample else 0)
        self.writing = self._write()
        next(self.writing)

    def feed(self, logits: Tensor) -> bool:
        """Take the logits of the next token, of shape (vocabulary,); whether there is a next."""
        if self.reply is not None:
            return False
        try:
            self.token = self.writing.send(logits)
            self.tokens += 1
        except StopIteration as end:
            self.reply = end.value
        return self.reply is None

    def _write(self) -> _Writing[str]:
        logits = yield 0  # before the first logits are there
        if self.request.schema is None:
            text, _ = yield from self._text(logits, {*self.codec.stop_ids})
            return text
        schema = self.request.schema.model_json_schema()
        value, _ = yield from self._value(logits, schema, schema.get("$defs", {}))
        return json.dumps(value)

    def _value(
        self, logits: Tensor, schema: dict[str, Any], kinds: dict[str, Any]
    ) -> _Writing[tuple[Any, Tensor]]:
        if "$ref" in schema:
            schema = kinds[schema["$ref"].rpartition("/")[2]]
        match schema["type"]:
            case "object":
                value = {}
                for n, (name, inner) in enumerate(schema["properties"].items()):
                    logits = yield from self._say(f'{", " if n else "{"}"{name}":', logits)
                    value[name], logits = yield from self._value(logits, inner, kinds)
                return value, (yield from self._say("}", logits))
            case "string":
                logits = yield from self._say(' "', logits)
                value, logits = yield from self._text(logits, self.ends)
                return value, (yield from self._say('"', logits))
            case "integer":
                options = range(schema["minimum"], schema["maximum"] + 1)
                return (yield from self._number(logits, options))
            case "number" if "enum" in schema:
                return (yield from self._number(logits, schema["enum"]))
        raise TypeError(f"a reply cannot hold {schema['type']}")

    def _number(self, logits: Tensor, options: Iterable[float]) -> _Writing[tuple[float, Tensor]]:
        """One of some numbers: each token is one that any of them goes on with."""
        lead, ends = len(self._ids(":")), [self._ids(sign)[-1] for sign in ",}"]
        left = {option: self._ids(f":{option}")[lead:] for option in options}
        for n in itertools.count():
            whole = [option for option, ids in left.items() if len(ids) == n]
            after = list(dict.fromkeys(ids[n] for ids in left.values() if len(ids) > n))
            if not after:
                return whole[0], logits
            # Where a number may go on as another (3 as 3.5), it may end as well.
            tokens = after + ends if whole else after
            token = tokens[self._draw(logits[tokens])] if len(tokens) > 1 else tokens[0]
            if token in ends:
                return whole[0], logits
            left = {option: ids for option, ids in left.items() if ids[n : n + 1] == [token]}
            logits = yield token
        raise AssertionError

    def _text(self, logits: Tensor, ends: set[int]) -> _Writing[tuple[str, Tensor]]:
        ids: list[int] = []
        while len(ids) < self.chat.max_new_tokens and self.tokens < self.room:
            token = self._draw(logits)
            if token in ends:
                return self._decode(ids), logits
            ids.append(token)
            logits = yield token
        text = self._decode(ids)
        whole = _UNTIL_SENTENCE_END.match(text)
        return (whole[0] if whole else text), logits

    def _say(self, text: str, logits: Tensor) -> _Writing[Tensor]:
        for token in self._ids(text):
            logits = yield token
        return logits

    def _draw(self, logits: Tensor) -> int:
        if not self.temperature:
            return int(logits.argmax())
        top, ids = logits.double().topk(min(self.chat.top_k, len(logits)))
        shares = (top / self.temperature).softmax(-1).cumsum(-1).numpy()
        place = np.searchsorted(shares, self.rng.random() * shares[-1], side="right")
        return int(ids[min(int(place), len(ids) - 1)])

    def _ids(self, text: str) -> list[int]:
        return self.codec.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]

    def _decode(self, ids: list[int]) -> str:
        return str(self.codec.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _prompt(request: Request) -> Prompt:
    sections = (
        Section(f"message_{n}", "system" if role == "system" else "user", text)
        for n, (role, text) in enumerate(request.messages)
    )
    return Prompt(tuple(sections))
