"""What the user agents of a run answered to its test rows, as a stage's output.

Pure, but for `Predictions.save` and `Predictions.load`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
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
    VERSION: ClassVar[int] = 3

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
        """Lay out responses beside the examples that they answer, with no timing yet.

        Args:
            examples: Test rows.
            responses: Their responses, in the same order.
            persona: A user's persona.
            columns: Names of the columns of probabilities, from the lowest value of the scale.
        """
        probabilities = np.array([response.probabilities for response in responses])
        frame = pd.DataFrame(
            {
                "user_id": [example.user_id for example in examples],
                "item_id": [example.item_id for example in examples],
                "rating": [example.rating for example in examples],
                "response": [response.text for response in responses],
                "prediction": np.array([response.prediction for response in responses], float),
                "expected_rating": [response.expected_rating for response in responses],
                **dict(zip(columns, probabilities.T, strict=True)),
                "digit_mass": [response.digit_mass for response in responses],
                "persona": [persona(example.user_id) for example in examples],
            }
        )
        facts = {
            "cuts": dict(sum((Counter(example.cut) for example in examples), Counter())),
            "truncated": sum(bool(example.cut) for example in examples),
            "versions": {name: version(name) for name in _VERSIONS},
        }
        return cls(frame, facts)

    def timed(
        self, seconds: float, adapters: Mapping[str, Entry[TrainedAdapter]], epochs: int
    ) -> Self:
        """Add what training and rating took.

        Args:
            seconds: Of rating.
            adapters: Those that rated.
            epochs: Passes over their rows.
        """
        summaries = {
            name: entry.part(TrainedAdapter.load_summary) for name, entry in adapters.items()
        }
        n_trained = epochs * sum(summary["n_rows"] for summary in summaries.values())
        trained = sum(entry.seconds for entry in adapters.values())
        timing = {
            "adapters": _timing(trained, n_trained),
            "predictions": _timing(seconds, len(self.frame)),
        }
        return type(self)(self.frame, self.facts | {"timing": timing, "adapters": summaries})

    def save(self, folder: Path) -> None:
        """Write predictions.parquet and facts.json."""
        self.frame.to_parquet(folder / "predictions.parquet", index=False)
        (folder / "facts.json").write_text(json.dumps(self.facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        facts = json.loads((folder / "facts.json").read_text())
        return cls(pd.read_parquet(folder / "predictions.parquet"), facts)


def _timing(seconds: float, rows: int) -> dict[str, float | None]:
    return {"seconds": seconds, "rows_per_second": rows / seconds if rows else None}
