"""The study of sharing runs end to end on a tiny model, and goes on from what is there."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/sharing/run.py"
TINY = (
    *("slm=tiny", "llm=tiny", "data=synthetic", "embedder=hashed", "logger=none", "peft.r=4"),
    *("data.reader.n_users=60", "data.n_users=6", "data.test_rows_per_user=3"),
    *("adapter.rows_per_user=4", "trainer.progress=false"),
)


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("sharing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    command = ["--seeds", "0", "--out", str(tmp_path), *TINY]
    study.main(command)
    said = capsys.readouterr().out
    assert "shared minus alone: 18 rows, 6 users" in said
    sides = [pd.read_parquet(tmp_path / f"{side}-0.parquet") for side in ("shared", "alone")]
    # Other masks and other steps: near, and not the same.
    gap = (sides[0]["expected_rating"] - sides[1]["expected_rating"]).abs()
    assert 0 < gap.max() < 1
    study.main(command)
    assert "seed 0:" not in capsys.readouterr().out
    for others in (["peft.r=2"], ["train.epochs=1", "peft.r=2"]):
        with pytest.raises(SystemExit, match="is of other overrides"):
            study.main([*command, *others])
    (tmp_path / "overrides.json").unlink()
    with pytest.raises(SystemExit, match="is of other overrides"):
        study.main(command)
