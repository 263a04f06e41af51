"""What LLMs and embedding models behind a server cost. Pure."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Cost:
    """What answered calls of a server come to, estimated or paid, in the currency of the prices.

    Tokens in are those of prompts, out those of replies.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and replies."""
        return self.tokens_in + self.tokens_out

    @property
    def paid(self) -> dict[str, float]:
        """Tokens and money, for a result."""
        return {"tokens": self.tokens, "money": self.money}

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))
