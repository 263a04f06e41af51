"""A prompt -> the token ids of one model, cut to its context; a rating -> its answer's ids.

The chat template's own text and the contents of the messages are tokenised apart, so that a title
such as "<|im_end|>" stays text. Needs a tokenizer of the `tokenizers` library; pure otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

from jinja2 import TemplateError
from tokenizers import Tokenizer

from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.prompting.template import Prompt, Role, Section

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SYSTEM, _USER, _ANSWER = "systemtextstandshere", "usertextstandshere", "answerstandshere"
_ANSWER_LENGTH = 2
_CACHED_PIECES = 50_000


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids.

    Attributes:
        ids: The whole prompt, up to the place of the rating.
        cut: How many units the budget dropped: `memories`, `profile_sentences`; empty if none.
    """

    ids: list[int]
    cut: dict[str, int]


@dataclass(frozen=True)
class _Slot:
    """A message's place in the chat template: the template's ids before it, and whose text it is.

    `follows_text` tells whether the ids before end in text and not in a control token.
    """

    before: tuple[int, ...]
    roles: tuple[Role, ...]
    follows_text: bool


@dataclass(frozen=True)
class _Ending:
    """The ids between the last message and the rating, each rating's, and that of a turn's end."""

    before: tuple[int, ...]
    values: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class Codec:
    """How one model reads prompts and writes ratings.

    Attributes:
        tokenizer: The model's tokenizer.
        chat: `template` uses the tokenizer's chat template; `plain`, for models that have none,
            joins the same sections as paragraphs that end in the place of the rating.
        context: Tokens that a prompt and its answer may take together.
        new_tokens: Tokens that decoding may add to a prompt; room for them is kept free.
        scale: The ratings that it writes: each of their labels is one token.
    """

    tokenizer: PreTrainedTokenizerFast
    chat: Literal["template", "plain"]
    context: int
    new_tokens: int
    scale: Scale
    _pieces: dict[tuple[str, bool], tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def system_role(self) -> bool:
        """Whether the chat template shows a system message; some refuse it, some drop it."""
        if self.chat == "plain":
            return False
        try:
            rendered = self._render(("system", _SYSTEM), ("user", _USER), prompting=True)
        except TemplateError:
            return False
        return _SYSTEM in rendered

    @property
    def value_ids(self) -> tuple[int, ...]:
        """Ids of the scale's values, in their order, as they stand after a prompt.

        Raises:
            UserError: The tokenizer writes one of them as several tokens.
        """
        return self._ending.values

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a response: the end of the assistant's turn and of a text."""
        return tuple(sorted({self._ending.end, *self._ids_of("eos_token_id")}))

    def answer(self, rating: float) -> list[int]:
        """The ids that a training row teaches: the rating and the end of the turn.

        Raises:
            UserError: The rating is not on the scale.
        """
        return [self.value_ids[int(self.scale.index(rating))], self._ending.end]

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenise a prompt, dropping of it what exceeds the context (decision 23).

        Memories go first, the least similar one first of all, then the profile's oldest sentences.

        Raises:
            UserError: The prompt is too long without memories and profile.
        """
        limit = self.context - max(self.new_tokens, _ANSWER_LENGTH)
        length = 0
        for sections, cut in _shortened(prompt.sections):
            pieces = self._encode_sections(sections)
            length = sum(map(len, pieces))
            if length <= limit:
                return Encoded(list(chain.from_iterable(pieces)), cut)
        raise UserError(
            f"a prompt has {length} tokens without memories and profile, {limit} fit in the "
            f"context of {self.context}",
            "raise model.context, or shorten the texts of prompt or movie_info",
        )

    def _encode_sections(self, sections: Sequence[Section]) -> list[tuple[int, ...]]:
        pieces = []
        for slot in self._slots:
            texts = [s.text for role in slot.roles for s in sections if s.role == role]
            # Line by line: many rows share them. A break stands at the end of its line, where it
            # is tokenised as in the running text.
            *lines, last = "\n".join(filter(None, texts)).split("\n")
            pieces.append(slot.before)
            pieces += (
                self._content_ids(line, slot.follows_text or i > 0)
                for i, line in enumerate([*(f"{line}\n" for line in lines), last])
            )
        return [*pieces, self._ending.before]

    def _content_ids(self, text: str, follows_text: bool) -> tuple[int, ...]:
        key = (text, follows_text)
        if key not in self._pieces:
            if len(self._pieces) >= _CACHED_PIECES:
                self._pieces.clear()
            self._pieces[key] = self._harmless_ids(text, "\n" if follows_text else "")
        return self._pieces[key]

    def _harmless_ids(self, text: str, lead: str) -> tuple[int, ...]:
        ids = _ids_after(self._tokenise, lead, text)
        if self._added.isdisjoint(ids):
            return ids
        ids = _ids_after(self._tokenise_bare, lead, text)
        if control := sorted(self._control.intersection(ids)):
            raise UserError(
                f"the tokenizer reads {self.tokenizer.convert_ids_to_tokens(control)} in the text "
                f"{text[:80]!r}",
                "use a tokenizer whose control tokens cannot be written as text",
            )
        return ids

    def _tokenise(self, text: str) -> tuple[int, ...]:
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return tuple(encoded["input_ids"])

    def _tokenise_bare(self, text: str) -> tuple[int, ...]:
        return tuple(self._bare.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _bare(self) -> Tokenizer:
        """The tokenizer without any added token: it reads nothing but text."""
        parts = json.loads(self.tokenizer.backend_tokenizer.to_str())
        bare = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(parts | bare))

    @cached_property
    def _added(self) -> frozenset[int]:
        # Gemma's line breaks are added tokens too; they steer nothing.
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(i for i, token in added if token.content.strip())

    @cached_property
    def _control(self) -> frozenset[int]:
        """Ids that steer a model: special tokens, and added ones that its chat template uses."""
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        skeleton = {*chain.from_iterable(slot.before for slot in self._slots)}
        used = (skeleton | {*self._ending.before, self._ending.end}) & self._added
        return frozenset(special | used).difference(self._ids_of("unk_token_id"))

    def _ids_of(self, name: str) -> tuple[int, ...]:
        token_id = getattr(self.tokenizer, name)
        return (token_id,) if isinstance(token_id, int) else ()

    @cached_property
    def _slots(self) -> tuple[_Slot, ...]:
        if self.chat == "plain":
            bos = self._ids_of("bos_token_id")
            adds_bos = tuple(self.tokenizer("a", verbose=False)["input_ids"][:1]) == bos
            return (_Slot(bos if adds_bos else (), ("system", "user"), follows_text=False),)
        if self.system_role:
            rendered = self._render(("system", _SYSTEM), ("user", _USER), prompting=True)
            before_system, rest = _split(rendered, _SYSTEM)
            between, _ = _split(rest, _USER)
            return (self._slot(before_system, "", "system"), self._slot(between, ":", "user"))
        before, _ = _split(self._render(("user", _USER), prompting=True), _USER)
        return (self._slot(before, "", "system", "user"),)

    def _slot(self, skeleton: str, lead: str, *roles: Role) -> _Slot:
        ids = _ids_after(self._tokenise, lead, skeleton)
        return _Slot(ids, roles, follows_text=bool(ids) and ids[-1] not in self._added)

    @cached_property
    def _ending(self) -> _Ending:
        """Found by tokenising all answers in their place: "4" and " 4" are other tokens."""
        labels = self.scale.labels
        for before, after in self._surroundings():
            rows = [_ids_after(self._tokenise, ":", f"{before}{label}{after}") for label in labels]
            columns = enumerate(zip(*rows, strict=False))
            at = next((i for i, column in columns if len({*column}) == len(labels)), None)
            if at is None or len({(row[:at], row[at + 1 :]) for row in rows}) > 1:
                continue
            ends = [i for i in rows[0][at + 1 :] if i in self._added]
            ends += self._ids_of("eos_token_id")
            if not ends:
                raise UserError("the tokenizer has no token that ends an answer", "set eos_token")
            return _Ending(rows[0][:at], tuple(row[at] for row in rows), ends[0])
        raise UserError(
            f"the tokenizer does not write each of {self.scale.listed} as one token",
            "use a model whose tokenizer does, or give data.scale.labels that are one token each",
        )

    def _surroundings(self) -> list[tuple[str, str]]:
        """What may stand between the last message and the rating, and after the rating."""
        if self.chat == "plain":
            return [(" ", ""), ("", "")]
        system = (("system", _SYSTEM),) if self.system_role else ()
        prompt = self._render(*system, ("user", _USER), prompting=True)
        dialogue = self._render(*system, ("user", _USER), ("assistant", _ANSWER), prompting=False)
        return [(_split(prompt, _USER)[1], _split(dialogue, _ANSWER)[1])]

    def _render(self, *messages: tuple[str, str], prompting: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template", "use model.chat=plain")
        rendered = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=prompting,
        )
        assert isinstance(rendered, str)
        return rendered


def _ids_after(tokenise: Callable[[str], tuple[int, ...]], lead: str, text: str) -> tuple[int, ...]:
    """The ids of a text as they stand after `lead`.

    SentencePiece puts a space before a text that it reads alone; only what follows a control
    token, or nothing, is to have it.
    """
    alone = tokenise(lead) if lead else ()
    together = tokenise(lead + text)
    return together[len(alone) :] if together[: len(alone)] == alone else tokenise(text)


def _split(rendered: str, content: str) -> tuple[str, str]:
    if rendered.count(content) != 1:
        raise UserError(
            "the tokenizer's chat template does not show each message once", "use model.chat=plain"
        )
    before, after = rendered.split(content)
    return before, after


def _shortened(
    sections: tuple[Section, ...],
) -> Iterator[tuple[tuple[Section, ...], dict[str, int]]]:
    """The sections whole, then ever shorter, with the counts of what is missing."""
    cut: dict[str, int] = {}
    yield sections, {}
    for name, counted, kept in (
        ("memories", "memories", slice(None, -1)),
        ("profile", "profile_sentences", slice(1, None)),
    ):
        while any(section.name == name and section.units for section in sections):
            sections = tuple(
                replace(section, units=(section.units or ())[kept])
                if section.name == name
                else section
                for section in sections
            )
            cut = {**cut, counted: cut.get(counted, 0) + 1}
            yield sections, cut
