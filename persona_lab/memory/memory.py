"""What of a user's memory a prompt shows, as conf/memory/ states it. Pure."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt

from persona_lab.component import component, neutral

# How the paper recalls; also what stands in the description of a prompt without memories.
_PAPER: dict[str, Any] = {
    "top_k": 1,
    "min_similarity": None,
    "query": "item",
    "key": "item",
    "test_profile": "own",
    "text": "enriched",
    "training_memories": "nearest",
    "test_memories": "nearest",
}


@component
class Memory:
    """Which memories a prompt shows, and how the long-term ones are found.

    A sum of vectors, normalised, stands for the vector of both texts together (decision 9).

    Attributes:
        name: What reports call it.
        profile: Whether the profile and the traits are shown (M_s).
        interactions: Whether recalled memories are shown (M_l).
        top_k: Most memories recalled for a movie.
        min_similarity: Memories below this cosine are not recalled, None for no limit
            (decision 8).
        query: What is looked for: the movie ("item"), or the sum of profile and movie
            ("user_item").
        key: What it is compared with: the remembered movie ("item"), its enriched interaction
            ("enriched"), or their sum ("item_enriched").
        test_profile: Whose profile and traits test prompts show: "own", or "another" user's, the
            control that tells what knowing the user is worth. Training shows the own one.
        text: What a recalled memory says: the "enriched" interaction, or "raw", the movie and its
            rating alone.
        training_memories: What training prompts show where test prompts show recalled memories:
            these too ("nearest": retrieval-augmented fine-tuning), or "none" (retrieval when rating
            alone).
        test_memories: Which memories test prompts show: the "nearest", or as many "random" ones of
            the user's, the control that tells what the search is worth. Training shows the nearest.
    """

    name: str = neutral()
    profile: bool
    interactions: bool
    top_k: PositiveInt
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None
    query: Literal["item", "user_item"]
    key: Literal["item", "enriched", "item_enriched"]
    test_profile: Literal["own", "another"]
    text: Literal["enriched", "raw"]
    training_memories: Literal["nearest", "none"]
    test_memories: Literal["nearest", "random"]

    def shown(self) -> Self:
        """Itself; where no memories are shown, without how they would have been found."""
        paper = _PAPER | {"test_profile": self.test_profile}
        return self if self.interactions else replace(self, **paper)

    def in_training(self) -> Self:
        """What training prompts show: nothing of what is changed for test prompts alone."""
        return replace(
            self,
            interactions=self.interactions and self.training_memories == "nearest",
            test_profile="own",
            test_memories="nearest",
            training_memories="nearest",
        ).shown()

    @property
    def departures(self) -> list[str]:
        """In what it departs from the paper's memory, each in a few words."""
        values = vars(self.shown())
        return [f"memory.{name}={values[name]}" for name in _PAPER if values[name] != _PAPER[name]]
