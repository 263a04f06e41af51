"""A prompt -> the token ids of one model, cut to its context; a rating -> its answer's ids.

The chat template's own text and the contents of the messages are tokenised apart, so that a title
such as "<|im_end|>" stays text. Needs a tokenizer of the `tokenizers` library; pure otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer

from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.prompting.template import Prompt, Role, Section

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SYSTEM: tuple[Role, str] = ("system", "systemtextstandshere")
_USER: tuple[Role, str] = ("user", "usertextstandshere")
_ANSWER = ("assistant", "answerstandshere")
_ANSWER_LENGTH = 2
_CACHED_PIECES = 50_000

_Ids = tuple[int, ...]


class Encoded(NamedTuple):
    """A prompt as token ids, up to the place of the rating, and what the budget cut.

    `cut` counts the units dropped: `memories`, `profile_sentences`; it is empty if there are none.
    """

    ids: list[int]
    cut: dict[str, int]


class _Slot(NamedTuple):
    """A message's place in the chat template: the template's ids before it, and whose text it is.

    `follows_text` tells whether the ids before end in text and not in a control token.
    """

    before: _Ids
    roles: tuple[Role, ...]
    follows_text: bool


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

    @cached_property
    def _pieces(self) -> dict[tuple[str, str], _Ids]:
        return {}

    @cached_property
    def system_role(self) -> bool:
        """Whether the chat template shows a system message; some refuse it, some drop it."""
        if self.chat == "plain":
            return False
        try:
            return _SYSTEM[1] in self._rendered(_SYSTEM, _USER, prompting=True)
        except TemplateError:
            return False

    @property
    def value_ids(self) -> _Ids:
        """Ids of the scale's values as they stand after a prompt; UserError unless one each."""
        return self._ending[1]

    @property
    def stop_ids(self) -> _Ids:
        """Ids that end a response: the end of the assistant's turn and of a text."""
        return tuple(sorted({self._ending[2], *self._ids_of("eos_token_id")}))

    def answer(self, rating: float) -> list[int]:
        """What a training row teaches: ids of the rating (UserError off the scale) and the end."""
        return [self.value_ids[int(self.scale.index(rating))], self._ending[2]]

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenise a prompt, dropping of it what exceeds the context (decision 23).

        Memories go first, the least similar one first of all, then the profile's oldest sentences;
        a prompt that is too long without them is a UserError.
        """
        limit, length = self.context - max(self.new_tokens, _ANSWER_LENGTH), 0
        units = {section.name: len(section.units or ()) for section in prompt.sections}
        recalled, sentences = units.get("memories", 0), units.get("profile", 0)
        cuts = [(n, 0) for n in range(recalled + 1)]
        cuts += [(recalled, n) for n in range(1, sentences + 1)]
        for memories, oldest in cuts:
            kept = {"memories": slice(recalled - memories), "profile": slice(oldest, None)}
            pieces = self._encoded(
                replace(section, units=section.units[kept[section.name]])
                if section.units and section.name in kept
                else section
                for section in prompt.sections
            )
            if (length := sum(map(len, pieces))) <= limit:
                cut = {"memories": memories, "profile_sentences": oldest}
                return Encoded([*chain(*pieces)], {name: n for name, n in cut.items() if n})
        raise UserError(
            f"a prompt has {length} tokens without memories and profile, {limit} fit in the "
            f"context of {self.context}",
            "raise model.context, or shorten the texts of prompt or movie_info",
        )

    def _encoded(self, sections: Iterable[Section]) -> list[_Ids]:
        texts = [(section.role, section.text) for section in sections]
        pieces = []
        for slot in self._slots:
            of_slot = [text for role in slot.roles for own, text in texts if own == role and text]
            pieces.append(slot.before)
            # Line by line: many rows share them. A break stands at the end of its line, where it
            # is tokenised as in the running text.
            for i, line in enumerate(re.split(r"(?<=\n)", "\n".join(of_slot))):
                key = (line, "\n" if slot.follows_text or i > 0 else "")
                if key not in self._pieces:
                    if len(self._pieces) >= _CACHED_PIECES:
                        self._pieces.clear()
                    self._pieces[key] = self._harmless_ids(*key)
                pieces.append(self._pieces[key])
        return [*pieces, self._ending[0]]

    def _harmless_ids(self, text: str, lead: str) -> _Ids:
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

    def _tokenise(self, text: str) -> _Ids:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _tokenise_bare(self, text: str) -> _Ids:
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
        skeleton = {*chain(*(slot.before for slot in self._slots))}
        used = (skeleton | {*self._ending[0], self._ending[2]}) & self._added
        return frozenset(special | used).difference(self._ids_of("unk_token_id"))

    def _ids_of(self, name: str) -> _Ids:
        token_id = getattr(self.tokenizer, name)
        return (token_id,) if isinstance(token_id, int) else ()

    @property
    def _messages(self) -> Sequence[tuple[Role, str]]:
        return (_SYSTEM, _USER) if self.system_role else (_USER,)

    @cached_property
    def _slots(self) -> Sequence[_Slot]:
        if self.chat == "plain":
            bos = self._ids_of("bos_token_id")
            adds_bos = tuple(self.tokenizer("a", verbose=False)["input_ids"][:1]) == bos
            return [_Slot(bos if adds_bos else (), ("system", "user"), follows_text=False)]
        slots: list[_Slot] = []
        rest = self._rendered(*self._messages, prompting=True)
        for role, content in self._messages:
            before, rest = _split(rest, content)
            ids = _ids_after(self._tokenise, ":" if slots else "", before)
            roles = (role,) if self.system_role else ("system", "user")
            slots.append(_Slot(ids, roles, bool(ids) and ids[-1] not in self._added))
        return slots

    @cached_property
    def _ending(self) -> tuple[_Ids, _Ids, int]:
        """The ids between the last message and the rating, each value's, and that of a turn's end.

        Found by tokenising all answers in their place: "4" and " 4" are other tokens.
        """
        labels, surroundings = self.scale.labels, [(" ", ""), ("", "")]
        if self.chat != "plain":
            prompt = self._rendered(*self._messages, prompting=True)
            dialogue = self._rendered(*self._messages, _ANSWER, prompting=False)
            surroundings = [(_split(prompt, _USER[1])[1], _split(dialogue, _ANSWER[1])[1])]
        for before, after in surroundings:
            rows = [_ids_after(self._tokenise, ":", f"{before}{label}{after}") for label in labels]
            columns = enumerate(zip(*rows, strict=False))
            at = next((i for i, column in columns if len({*column}) == len(labels)), None)
            if at is None or len({(row[:at], row[at + 1 :]) for row in rows}) > 1:
                continue
            ends = [i for i in rows[0][at + 1 :] if i in self._added]
            ends += self._ids_of("eos_token_id")
            if not ends:
                raise UserError("the tokenizer has no token that ends an answer", "set eos_token")
            return rows[0][:at], tuple(row[at] for row in rows), ends[0]
        raise UserError(
            f"the tokenizer does not write each of {self.scale.listed} as one token",
            "use a model whose tokenizer does, or give data.scale.labels that are one token each",
        )

    def _rendered(self, *messages: tuple[str, str], prompting: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template", "use model.chat=plain")
        turns = [{"role": role, "content": content} for role, content in messages]
        rendered = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=prompting
        )
        return str(rendered)


def _ids_after(tokenise: Callable[[str], _Ids], lead: str, text: str) -> _Ids:
    """The ids of a text as they stand after `lead`.

    SentencePiece puts a space before a text that it reads alone; only what follows a control
    token, or nothing, is to have it.
    """
    alone = tokenise(lead) if lead else ()
    together = tokenise(lead + text)
    return together[len(alone) :] if together[: len(alone)] == alone else tokenise(text)


def _split(rendered: str, content: str) -> tuple[str, str]:
    if rendered.count(content) != 1:
        what = "the tokenizer's chat template does not show each message once"
        raise UserError(what, "use model.chat=plain")
    before, after = rendered.split(content)
    return before, after
