"""The benchmark runs end to end on a tiny model; its arithmetic and intervals are right."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from persona_lab.model.engine import Group

FOLDER = Path(__file__).parents[2] / "experiments/benchmark"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_arithmetic_by_hand() -> None:
    # One head of size 2, feed-forward 3, vocabulary 5, no adapter; prefix of 2, one suffix of 1.
    config = SimpleNamespace(
        hidden_size=2,
        intermediate_size=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_hidden_layers=2,
        vocab_size=5,
    )
    rows = [Group([1, 2], [[3]], [0])]
    arithmetic = module("arithmetic")
    # First layer: 3 tokens of 4 * 4 + 18, 6 pairs of 2 * 2. Last: keys and values of 3 tokens,
    # the rest for the last token, which sees 3. Head: 1 token.
    forward = 3 * 34 + 24 + (3 * 8 + 26 + 12) + 10
    assert arithmetic.products(config, rows, 0, 1, 0.0) == 2 * forward
    # Backward: frozen once, attention twice, and in the first layer nothing to hidden states below
    # queries, keys and values (3 tokens of 12) nor to its values (6 pairs of 2).
    backward = (3 * 34 + 3 * 8 + 26 + 10) + 2 * (24 + 12) - 3 * 12 - 12
    assert arithmetic.products_of_training(config, rows, 0, 1) == 2 * (forward + backward)


def test_quick_run_writes_results(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the extra `benchmark` is not installed")
    command = [sys.executable, FOLDER / "run.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(each["what"], each["peer"]) for each in results} == {
        ("train", "trl"),
        ("train", "transformers"),
        ("evaluate", "generate"),
        ("evaluate", "generate_cached_prefix"),
    }
    for each in results:
        assert (each["prompts"], each["rows_per_user"], each["precision"]) == ("ms", 4, "32-true")
        ratio = each["ratio"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["median"] == pytest.approx(each["ours_rows_s"] / each["peer_rows_s"])
        assert each["peak_share"] > 0
    details = json.loads((tmp_path / "details.json").read_text())
    (check,) = details["checks"]
    assert check["losses"] == pytest.approx(dict.fromkeys(check["losses"], check["ours"]), abs=1e-3)
    assert check["flips"] == {"generate": 0, "generate_cached_prefix": 0}
    assert {each["batch"] for each in details["search"]} == {1, 2}
    assert "**" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 0
