"""What of a user's ratings may reach a prompt, in one place for all rooms. Pure."""

from typing import Literal

from persona_lab.component import component


@component
class Protocol:
    """The choices that differ between the paper's likely setting and one free of leaks.

    Attributes:
        name: What reports call it.
        item_mean: Whose ratings make a movie's average: users outside both cohorts, everyone
            (test rows too), the cohort's training rows (the labels of training prompts are then
            part of what these show, of test prompts not), or no average at all (decision 1).
        traits: Whether a user's traits are measured on the training rows or on all (decision 2).
        profile_snapshot: Whether a training row sees the final profile or the one before its own
            batch (decision 4).
        title_check: Whether the texts are kept free of titles of the user's history that would
            tell a rating (decisions 4 and 4b).
        recall_time: Whether a training row recalls earlier memories only or any (decision 6).
    """

    name: str
    item_mean: Literal["outside_cohort", "all", "training", "none"]
    traits: Literal["training", "all"]
    profile_snapshot: Literal["final", "causal"]
    title_check: bool
    recall_time: Literal["earlier", "any"]
