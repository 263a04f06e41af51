"""Texts in, vectors out; and what an agent recalls for a user and a movie."""

from persona_lab.memory.bank import Bank, Memory, Recalled
from persona_lab.memory.embedder import Embedder, Encode, Hashed, SentenceEmbedder, ServerEmbedder
from persona_lab.memory.index import Index
from persona_lab.memory.vectors import Vectors, embed, embedding, item_text

__all__ = [
    "Bank",
    "Embedder",
    "Encode",
    "Hashed",
    "Index",
    "Memory",
    "Recalled",
    "SentenceEmbedder",
    "ServerEmbedder",
    "Vectors",
    "embed",
    "embedding",
    "item_text",
]
