import sys

import numpy as np
import pytest

from persona_lab.errors import UserError
from persona_lab.report.words import PRIOR, distinct_words, tagger
from persona_lab.sources import Sources


def test_the_score_is_the_log_odds_over_its_standard_error_by_hand():
    found = distinct_words({0: [["war"] * 3, ["love"]], 1: [["love"] * 4, ["war"] * 2]})
    assert {persona: [word for word, _ in best] for persona, best in found.items()} == {
        0: ["war"], 1: ["love"],
    }  # fmt: skip
    war, love = PRIOR * 0.5, PRIOR * 0.5
    difference = np.log((3 + war) / (1 + love)) - np.log((2 + war) / (4 + love))
    deviation = np.sqrt(1 / (3 + war) + 1 / (2 + war))
    assert found[0][0][1] == pytest.approx(difference / deviation)


def test_one_persona_has_nothing_to_differ_from():
    assert distinct_words({0: [["war"]]}) == {0: []}


def test_the_tagger_finds_nouns_and_adjectives(monkeypatch, tmp_path):
    """A spaCy pipeline that knows its words by heart stands for the fetched one."""
    monkeypatch.delitem(sys.modules, "spacy", raising=False)
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    ruler = blank.add_pipe("attribute_ruler")
    for word, kind in (("dark", "ADJ"), ("films", "NOUN"), ("likes", "VERB")):
        ruler.add([[{"LOWER": word}]], {"POS": kind, "LEMMA": word.rstrip("s")})
    monkeypatch.setattr(spacy, "load", lambda folder, exclude: blank)
    monkeypatch.setattr(Sources, "fetch", lambda self, source: tmp_path)
    assert tagger(Sources(tmp_path))(["Likes dark Films, always"]) == [["dark", "film"]]


def test_without_spacy_the_user_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="\\.\\[figures\\]"):
        tagger(Sources(tmp_path))
