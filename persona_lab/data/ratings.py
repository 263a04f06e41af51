"""The data set as every later room knows it, and what a reader of one must do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import pandas as pd

from persona_lab.data.scale import Scale

Invalid = Literal["error", "drop"]


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of users for movies.

    Attributes:
        frame: One row per rating, each (user_id, item_id) once: user_id, item_id, rating (a
            value of the scale, of its dtype) and timestamp (seconds), the others int64, in the
            order of the file.
        movies: One row per movie: item_id, title (without the year), year (Int64, may be missing)
            and genres ("Comedy|Crime").
        users: One row per user: user_id, and what is known of them as text ("" where unknown):
            age, gender, occupation; `planted` in synthetic data.
        skipped: Lines left out, counted by "<file>: <problem>"; empty unless invalid is "drop".
        scale: The values that a rating can take.
    """

    frame: pd.DataFrame
    movies: pd.DataFrame
    users: pd.DataFrame
    skipped: dict[str, int]
    scale: Scale


@runtime_checkable
class Reader(Protocol):
    """A format of rating data."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or file (None for a reader that needs none).

        A bad line is an error or is left out and counted; one whose rating is off the scale is bad.

        Raises:
            UserError: A file or a line is not as expected; names file, line, value and the mend.
        """
        ...
