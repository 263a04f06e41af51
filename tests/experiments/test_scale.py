"""The study of scale runs end to end, loses no row in its shards, and goes on where it was cut."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

RUN = Path(__file__).parents[2] / "experiments/scale/run.py"


@pytest.fixture
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_scale", RUN)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_size_is_measured_once(
    run: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [str(RUN), "30", "--out", str(tmp_path), "--processes", "1"]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    results = pd.read_csv(tmp_path / "results.csv")
    assert results["stage"].tolist() == [
        *("selection", "distillation", "embedding", "clustering", "recall")
    ]
    assert (results["users"] == 30).all()
    assert (results[["seconds", "cpu_seconds", "peak_mb"]] > 0).all(axis=None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["growth.png", "results.csv"]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    assert "30 users: measured already" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), results)


def test_shards_hold_every_user_and_row_once(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(shard: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        monkeypatch.setattr(run, "SHARD", shard)
        folder = tmp_path / str(shard)
        folder.mkdir()
        run.select(folder, 7, 0)
        number = run.shards(7)
        for each in range(number):
            run.distil_shard(folder, 7, each)
        memories = [run.read_memories(folder, each) for each in range(number)]
        profiles = pd.concat([each.profiles for each in memories], ignore_index=True)
        rows = pd.concat([each.interactions for each in memories], ignore_index=True)
        return profiles[["user_id", "profile"]], rows

    profiles, rows = made(7)
    assert len(profiles) == 7
    assert len(rows) == 7 * 12
    for found, whole in zip(made(3), (profiles, rows), strict=True):
        pd.testing.assert_frame_equal(found, whole)


def test_a_stage_goes_on_where_it_was_cut(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def task(folder: Path, users: int, shard: int) -> None:
        tried.append(shard)
        if shard == 2 and tried.count(2) == 1:
            raise OSError("cut off")

    monkeypatch.setitem(run.STAGES, "distillation", task)
    users = 3 * run.SHARD + 1
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(OSError, match="cut off"):
            run.run_stage("distillation", tmp_path, users, pool)
        rows = run.run_stage("distillation", tmp_path, users, pool)
        everything = len(tried)
        run.run_stage("distillation", tmp_path, users, pool)
    assert [tried.count(shard) for shard in range(3)] == [1, 1, 2]
    assert rows["shard"].tolist() == [0, 1, 2, 3]
    assert len(tried) == everything


def test_time_between_runs_does_not_count(run: ModuleType) -> None:
    # Two processes at a time, then nothing from 4 to 10.
    assert run.covered([(10, 11), (0, 2), (1, 4), (2, 3)]) == 5
