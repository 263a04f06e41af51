"""Recalled memories and a movie -> prompt -> token ids and answers."""

from persona_lab.prompting.codec import Codec, Encoded
from persona_lab.prompting.examples import Example, catalogue, make_examples
from persona_lab.prompting.template import Prompt, Section, Template

__all__ = [
    "Codec",
    "Encoded",
    "Example",
    "Prompt",
    "Section",
    "Template",
    "catalogue",
    "make_examples",
]
