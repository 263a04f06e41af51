from dataclasses import replace

import pytest
from configured import configured
from pydantic import ValidationError

MS_ML = configured("memory=ms_ml")


def test_training_prompts_show_nothing_that_is_changed_for_test_prompts():
    memory = replace(MS_ML, top_k=3, query="user_item")
    changed = replace(memory, test_profile="another", test_memories="random")
    assert changed.in_training() == memory.in_training() == memory
    # Without memories in it, a training prompt is that of memory=ms.
    alone = replace(changed, training_memories="none").in_training()
    assert alone == replace(MS_ML, interactions=False)
    assert replace(memory, interactions=False).shown() == alone


@pytest.mark.parametrize("option", ["ms", "ml", "ms_ml"])
def test_what_conf_says_is_the_papers_memory(option):
    assert configured(f"memory={option}").departures == []


def test_a_departure_from_the_paper_is_named():
    changed = replace(MS_ML, top_k=3, text="raw", test_profile="another")
    assert changed.departures == [
        *("memory.top_k=3", "memory.test_profile=another", "memory.text=raw")
    ]
    # What no prompt shows is none.
    assert replace(changed, interactions=False).departures == ["memory.test_profile=another"]


def test_a_value_that_cannot_be_is_refused():
    for field, value in (("top_k", 0), ("min_similarity", 2.0), ("query", "user")):
        with pytest.raises(ValidationError, match=field):
            replace(MS_ML, **{field: value})
