"""Recalled memories and a movie -> prompt -> token ids and answers."""

from persona_lab.prompting.codec import Codec
from persona_lab.prompting.examples import Example, make_examples
from persona_lab.prompting.template import Prompt, Section, Template

__all__ = [
    "Codec",
    "Example",
    "Prompt",
    "Section",
    "Template",
    "make_examples",
]
