"""Histories in, memories out: profiles, traits and enriched interactions.

A distiller writes the texts; the flow around it hands it the histories and checks what it wrote.
"""

from persona_lab.distill.chat import Chat, Conversation, Reply, Request, converse_in_rounds
from persona_lab.distill.histories import Distiller, History, UserMemories, history_rows
from persona_lab.distill.memories import Memories, distil, distillation, users_traits
from persona_lab.distill.movies import LlmMovieInfo
from persona_lab.distill.phrases import Phrases
from persona_lab.distill.prompts import Prompts
from persona_lab.distill.reflection import Reflection
from persona_lab.distill.server import OpenAI
from persona_lab.distill.statistical import Statistical
from persona_lab.distill.traits import traits

__all__ = [
    "Chat",
    "Conversation",
    "Distiller",
    "History",
    "LlmMovieInfo",
    "Memories",
    "OpenAI",
    "Phrases",
    "Prompts",
    "Reflection",
    "Reply",
    "Request",
    "Statistical",
    "UserMemories",
    "converse_in_rounds",
    "distil",
    "distillation",
    "history_rows",
    "traits",
    "users_traits",
]
