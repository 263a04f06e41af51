"""A report in Weights & Biases: offline for real, its document by a stub of the service."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from persona_lab.model.loggers import Wandb
from persona_lab.report import build
from persona_lab.report.__main__ import main
from persona_lab.report.online import Place, place_of

LOGGED = {"entity": "us", "project": "movies", "group": "2026-01-31 12-00-00"}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nobody logged in, no network wanted."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))
    yield
    wandb.teardown()


def records(folder: Path, kind: str) -> list[dict]:
    (file,) = folder.rglob("*.wandb")
    program = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", file]
    said = subprocess.run(program, capture_output=True, check=True).stdout
    found = [json.loads(line) for line in said.splitlines()]
    return [record[kind] for record in found if record["type"] == kind]


@pytest.mark.usefixtures("offline")
def test_offline_the_run_waits_and_the_report_is_said_to_be_missing(sweep, capsys):
    pytest.importorskip("wandb_workspaces")
    sweep.add("a", id="r9", adapter="persona")
    sweep.add("b", id="r5", adapter="single_max")
    for name in ("a", "b"):
        sweep.beside(name, "wandb", LOGGED)
    assert main([str(sweep.folder), "--wandb"]) == 0
    assert "waits in" in capsys.readouterr().out.splitlines()[-1]
    assert wandb.run is None

    (run,) = records(sweep.folder, "run")
    found = (run["display_name"], run["job_type"], run["run_group"], run["project"])
    assert found == ("report", "report", LOGGED["group"], LOGGED["project"])
    logged = {key for each in records(sweep.folder, "history") for key in each["item"]}
    for key in ("Table 1", "What the paper claims", "figures/intervals", "figures/reliability"):
        assert any(each.startswith(key) for each in logged), key
    kept = next(each for each in records(sweep.folder, "artifact") if each["name"] == "report")
    names = [each["path"] for each in kept["manifest"]["contents"]]
    assert sorted(names) == ["report.html", "table1.csv", "table1.md", "table1.tex"]
    # A report of it again finds the same runs.
    assert [each.name for each in build(sweep.folder).runs] == ["b", "a"]


def test_without_the_extra_nothing_is_logged(sweep, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    sweep.add("a", id="r9")
    assert main([str(sweep.folder), "--wandb"]) == 1
    assert "pip install -e '.[wandb]'" in capsys.readouterr().err
    assert not (sweep.folder / "wandb").exists()


def test_a_reports_place_is_that_of_its_runs(sweep):
    sweep.add("a")
    assert place_of(build(sweep.folder), sweep.folder) == Place(
        None, "persona-lab", (f"{sweep.folder.parent.name} {sweep.folder.name}",)
    )
    for name, group, project in (("b", "one", "movies"), ("c", "two", "movies"), ("d", "3", "x")):
        sweep.add(name, seed=ord(name))
        sweep.beside(name, "wandb", {"entity": "us", "project": project, "group": group})
    found = place_of(build(sweep.folder), sweep.folder)
    assert found == Place("us", "movies", ("one", "two"))


class Service(BaseHTTPRequestHandler):
    """As much of Weights & Biases as saving a W&B Report asks for."""

    views: list[dict]

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = asked.get("variables") or {}
        if "upsertView" in asked["query"]:
            self.views.append(given)
            project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
            view = given | {"id": "view1", "project": project, "updatedAt": "2026-01-31T00:00:00"}
            self.answer({"upsertView": {"view": view, "inserted": True}})
        elif "models(" in asked["query"]:
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            self.answer({"models": {"pageInfo": page, "edges": [{"node": PROJECT}]}})
        elif "internalId" in asked["query"]:
            self.answer({"project": {"internalId": "p"}})
        else:
            self.answer({"viewer": {"id": "u", "entity": "us", "username": "us", "flags": "{}"}})

    def answer(self, data):
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


PROJECT = {
    "__typename": "Project", "id": "p", "name": "movies", "entityName": "us", "isBenchmark": False,
    "createdAt": "2026-01-31T00:00:00", "user": None,
}  # fmt: skip


@pytest.fixture
def service(monkeypatch, tmp_path) -> Iterator[list[dict]]:
    """The W&B Reports that were saved, by a server on this machine that knows one project."""
    Service.views = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))
    yield Service.views
    wandb.teardown()
    server.shutdown()
    server.server_close()


@pytest.fixture
def reached(monkeypatch):
    """What a run is given that the service answers."""
    given = {}

    @contextmanager
    def start(self, folder, labels, stage):
        yield SimpleNamespace(
            offline=False, entity="us", project=self.project, log=given.update,
            log_artifact=lambda artifact: None,
        )  # fmt: skip

    monkeypatch.setattr(Wandb, "start", start)
    return given


def test_online_a_report_is_saved_with_tables_claims_curves_and_figures(
    sweep, service, reached, capsys
):
    pytest.importorskip("wandb_workspaces")
    sweep.add("a", id="r9", adapter="persona")
    sweep.add("b", id="r5", adapter="single_max", response="<b>|", unrelated=3)
    for name in ("a", "b"):
        sweep.beside(name, "wandb", LOGGED)
    assert main([str(sweep.folder), "--wandb"]) == 0
    address = capsys.readouterr().out.splitlines()[-1]
    assert address.startswith("http://127.0.0.1")
    assert "/us/movies/reports/" in address
    assert "?" not in address
    (view,) = service
    assert (view["entityName"], view["projectName"]) == ("us", "movies")
    spec = view["spec"]
    for said in ("Table 1", "What the paper claims", "persona_0/loss", "rmse_expected", "M_s"):
        assert said in spec, said
    for stage in ("adapters", "predictions", "report"):
        assert json.dumps(stage) in spec
    assert LOGGED["group"] in spec
    assert {"Table 1", "figures/intervals"} <= reached.keys()
    assert "figures/intervals" in spec


def test_a_report_that_is_not_saved_is_the_users_error(sweep, reached, capsys, monkeypatch):
    wr = pytest.importorskip("wandb_workspaces.reports.v2")

    def refuse(self):
        raise ValueError("no such team")

    monkeypatch.setattr(wr.Report, "save", refuse)
    sweep.add("a", id="r9")
    assert main([str(sweep.folder), "--wandb"]) == 1
    assert "not saved: no such team" in capsys.readouterr().err
