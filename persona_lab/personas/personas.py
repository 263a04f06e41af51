"""Which user has which persona, as a stage's output.

Pure, but for `Personas.save` and `Personas.load`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True, eq=False)
class Personas:
    """A partition of the selected users.

    Attributes:
        assignment: One row per user: user_id, persona (0, 1, ..., the largest first).
        centers: Mean vector of each persona's users, of shape (n_personas, dim), float32.
        curve: One row per number of personas that was tried: k, inertia (sum of squared distances
            to the nearest center) and silhouette (mean over users, -1 to 1; NaN where it is not
            defined); no rows where nothing was clustered.
    """

    STAGE: ClassVar[str] = "personas"
    VERSION: ClassVar[int] = 1

    assignment: pd.DataFrame
    centers: np.ndarray
    curve: pd.DataFrame

    @property
    def n_personas(self) -> int:
        """Number of personas, each with at least one user."""
        return len(self.centers)

    def of(self, user_id: int) -> int:
        """A user's persona; KeyError where there is no such user."""
        return self._persona_of[user_id]

    @cached_property
    def _persona_of(self) -> dict[int, int]:
        return dict(zip(self.assignment["user_id"], self.assignment["persona"], strict=True))

    @classmethod
    def of_groups(
        cls,
        groups: np.ndarray,
        features: np.ndarray,
        user_ids: np.ndarray,
        curve: pd.DataFrame,
    ) -> Self:
        """Number groups of users by size, of equals first the one with the smallest user id.

        So the numbers do not depend on the order in which a clustering found its groups.

        Args:
            groups: Each user's group, any values, of shape (n_users,).
            features: Each user's vector, of shape (n_users, dim).
            user_ids: The users, of shape (n_users,).
            curve: As in the attributes.
        """
        members = pd.DataFrame({"group": groups, "user_id": user_ids}).groupby("group")["user_id"]
        ranking = members.agg(["size", "min"]).sort_values(["size", "min"], ascending=[False, True])
        persona = ranking.index.get_indexer(pd.Index(groups))
        centers = [features[persona == number].mean(axis=0) for number in range(len(ranking))]
        return cls(
            assignment=pd.DataFrame({"user_id": user_ids, "persona": persona.astype(np.int64)}),
            centers=np.stack(centers).astype(np.float32),
            curve=curve,
        )

    def picture(self, features: np.ndarray, profiles: Sequence[str]) -> dict[str, Any]:
        """Return what a report draws and says of the personas, ready for JSON.

        Args:
            features: What was clustered, of shape (n_users, dim), in the order of `assignment`.
            profiles: The users' profiles, in the same order.

        Returns:
            `users`: user_id, persona, x, y (first two principal components) and profile of each;
            `explained`: share of the variance of either component; `curve`: as in the attributes,
            None for NaN.
        """
        centred = features.astype(np.float64) - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(features), 2))
        places[:, : len(sizes[:2])] = left[:, :2] * sizes[:2]
        shares = np.zeros(2)
        shares[: len(sizes[:2])] = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
        users = self.assignment.assign(x=places[:, 0], y=places[:, 1], profile=list(profiles))
        curve = self.curve.astype(object).where(self.curve.notna(), None)
        return {
            "users": users.round({"x": 4, "y": 4}).to_dict("records"),
            "explained": shares.round(4).tolist(),
            "curve": curve.to_dict("records"),
        }

    def save(self, folder: Path) -> None:
        """Write assignment.parquet, curve.parquet and centers.safetensors."""
        self.assignment.to_parquet(folder / "assignment.parquet", index=False)
        self.curve.to_parquet(folder / "curve.parquet", index=False)
        save_file({"centers": self.centers}, folder / "centers.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(
            assignment=pd.read_parquet(folder / "assignment.parquet"),
            centers=load_file(folder / "centers.safetensors")["centers"],
            curve=pd.read_parquet(folder / "curve.parquet"),
        )
