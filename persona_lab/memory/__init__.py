"""Texts in, vectors out; and what an agent recalls for a user and a movie."""

from persona_lab.memory.bank import Bank, Recalled, Table
from persona_lab.memory.memory import Memory
from persona_lab.memory.vectors import (
    Embedder,
    Hashed,
    SentenceEmbedder,
    ServerEmbedder,
    Vectors,
    embed,
    embedding,
    item_text,
)

__all__ = [
    "Bank",
    "Embedder",
    "Hashed",
    "Memory",
    "Recalled",
    "SentenceEmbedder",
    "ServerEmbedder",
    "Table",
    "Vectors",
    "embed",
    "embedding",
    "item_text",
]
