"""Logits of answers -> what training makes small. Pure."""

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn.functional import cross_entropy

from persona_lab.component import component


@runtime_checkable
class Loss(Protocol):
    """What training makes small: the mean of a loss over the rows of an optimiser step."""

    def total(self, logits: Tensor, answers: Tensor, value_ids: Tensor, values: Tensor) -> Tensor:
        """Sum of each row's loss over rows of a step; the step's mean is taken by the caller.

        Args:
            logits: What predicts each token of the answers, of shape (n_rows, n_tokens,
                vocabulary), fp32 or wider; autocast is off.
            answers: The answers' token ids, of shape (n_rows, n_tokens); the first is the rating's.
            value_ids: Token ids of the scale's values, of shape (n_values,).
            values: The values, of shape (n_values,), of the logits' type.
        """
        ...


@component
class AnswerLoss:
    """The mean cross-entropy of an answer's tokens (the paper's)."""

    def total(self, logits: Tensor, answers: Tensor, value_ids: Tensor, values: Tensor) -> Tensor:
        """Sum over the rows (see `Loss`)."""
        flat = logits.flatten(0, 1), answers.flatten()
        return cross_entropy(*flat, reduction="sum") / answers.shape[1]
