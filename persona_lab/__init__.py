"""Personas within parameters: user agents from one low-rank adapter per persona."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persona_lab.compose import load_agents

__all__ = ["load_agents"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: the command line must answer without torch."""
    if name == "load_agents":
        from persona_lab.compose import load_agents

        return load_agents
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
