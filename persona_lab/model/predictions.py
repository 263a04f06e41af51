"""What the user agents of a run answered to its test rows, as a stage's output. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Self

import pandas as pd

from persona_lab.cache import Entry
from persona_lab.model.adapters import TrainedAdapter
from persona_lab.model.decode import Response
from persona_lab.prompting import Example

_VERSIONS = ("torch", "transformers", "peft", "lightning", "scikit-learn", "persona-lab")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Responses to test rows, and what it took to get them.

    Attributes:
        frame: user_id, item_id, rating (the truth), response, prediction (NaN when unrelated),
            expected_rating, the probability of each value of the scale (p1..p5), digit_mass,
            persona.
        facts: `cuts` (what was cut from prompts, by name), `truncated` (rows cut), `timing`,
            `adapters` (each adapter's training summary) and `versions` (of what made them).
    """

    STAGE: ClassVar[str] = "predictions"
    VERSION: ClassVar[int] = 4

    frame: pd.DataFrame
    facts: dict[str, Any]

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        responses: Sequence[Response],
        persona: Callable[[int], int],
        columns: Sequence[str],
    ) -> Self:
        """Lay out responses beside the test rows that they answer, with no timing yet.

        `persona` tells a user's; `columns` name the scale's probabilities, from its lowest value.
        """
        rows = [
            {
                "user_id": example.user_id,
                "item_id": example.item_id,
                "rating": example.rating,
                "response": response.text,
                "prediction": response.prediction,
                "expected_rating": response.expected_rating,
                **dict(zip(columns, response.probabilities, strict=True)),
                "digit_mass": response.digit_mass,
                "persona": persona(example.user_id),
            }
            for example, response in zip(examples, responses, strict=True)
        ]
        facts = {
            "cuts": dict(sum((Counter(example.cut) for example in examples), Counter())),
            "truncated": sum(bool(example.cut) for example in examples),
            "versions": {name: version(name) for name in _VERSIONS},
        }
        return cls(pd.DataFrame(rows).astype({"prediction": float}), facts)

    def timed(
        self, seconds: float, adapters: Mapping[str, Entry[TrainedAdapter]], epochs: int
    ) -> Self:
        """Add the seconds that rating took, and what the training of those that rated took."""
        summaries = {
            name: entry.part(TrainedAdapter.load_summary) for name, entry in adapters.items()
        }
        took = {
            "adapters": (
                sum(entry.seconds for entry in adapters.values()),
                epochs * sum(summary["n_rows"] for summary in summaries.values()),
            ),
            "predictions": (seconds, len(self.frame)),
        }
        timing = {
            stage: {"seconds": time, "rows_per_second": rows / time if rows else None}
            for stage, (time, rows) in took.items()
        }
        return type(self)(self.frame, self.facts | {"timing": timing, "adapters": summaries})
