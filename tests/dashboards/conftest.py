"""A small database with a search that was never run, and a real server in front of it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dashboards.server import application, listen, make_server
from losssearch.language.formula import parse
from losssearch.records import candidate_row
from losssearch.spaces import load_space
from losssearch.store.mirror import Mirror
from losssearch.store.rows import CHOSEN, CandidateRow, EvaluationRow, ProposalRow, run_text
from losssearch.store.store import Store

SPACE = load_space("multiclass")
FORMULAS = (
    "mean(-log_pt, 'n')",
    "mean(c0 * (1 - p_t)**2 - log_pt * progress, 'n')",
    "mean(sqrt(-log_pt), 'n')",
)
COUNTS = {
    "probe": {"seen": 4, "rejected": 1, "seconds": 0.02},
    "fingerprint": {"seen": 3, "rejected": 0, "seconds": 0.01},
}
GAP = {"difference": -0.02, "low": -0.03, "high": -0.01, "t": -4.2, "splits": 30}
AUDIT = [
    {"label": "demo/1", "kind": "found", "formula": FORMULAS[1], "error": 0.08, "worst": 0.1,
     "constants": {}, "rate": 0.1, "decay": 0.0, "epochs": 30, "versus": None},
    {"label": "mae", "kind": "classical", "formula": "x", "error": 0.1, "worst": 0.12,
     "constants": {}, "rate": 0.1, "decay": 0.001, "epochs": 15, "versus": GAP},
]  # fmt: skip


def losses() -> list[CandidateRow]:
    constants = {"c0": 0.5}
    programs = [parse(text, SPACE.signature, constants if "c0" in text else None) for text in FORMULAS]
    return [candidate_row(program, SPACE, scale=2.0) for program in programs]


def training(key: str, split: int) -> EvaluationRow:
    run = {"split": split, "rate": 0.1, "decay": 0, "condition": "default", "stage": "search"}
    return EvaluationRow(key, "digits-noisy", "p", run_text(run), "SCORED", 0.2, curve=[[5, 0.4], [10, 0.2]])


def fill(url: str, *, mirror: bool = False) -> list[str]:
    """Write the search `demo`; gives the keys of its losses."""
    rows = losses()
    keys = [row.key for row in rows]
    with Store.open(url) as store:
        search = store.open_search("demo", "multiclass", "digits-noisy", "random", {}, 0)
        proposals = [
            ProposalRow(0, keys[0], FORMULAS[0], "start: cross_entropy", "SCORED", score=0.3),
            ProposalRow(
                1, keys[1], FORMULAS[1], "mutation: add", "SCORED", (keys[0],), rung=CHOSEN, score=0.2,
                metrics={"error": 0.2, "rates": {"default": 0.1}},
            ),
            ProposalRow(2, keys[2], FORMULAS[2], "growth", "SCORED", detail="a variant of x",
                        score=0.25),
            ProposalRow(3, keys[0], FORMULAS[0], "growth", "FLAT", detail="flat"),
        ]  # fmt: skip
        search = store.commit_round(search, 0, proposals, COUNTS, {}, 12.0, candidates=rows)
        store.record_evaluations(training(keys[1], split) for split in (0, 1))
        store.add_audit(search, "p", AUDIT, {"metric": "error", "splits": 30, "discovery": True})
        store.set_status(search, "finished")
        if mirror:
            assert not Mirror(store, search).update().problem
    return keys


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True)
class Site:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers=names)
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, body)
        finally:
            connection.close()


@contextmanager
def serving(url: str, **options: Any) -> Iterator[Site]:
    """The pages of a database on a free port."""
    with Store.open(url, read_only=True, timeout_s=1) as store:
        listening = listen("127.0.0.1", 0)
        server = make_server(application(store, **options), listening)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Site(listening.getsockname()[1])
        finally:
            with suppress(OSError):  # the loop may close the server, and its pipe, before the write
                server.trigger.pull_trigger(server.close)
            thread.join(timeout=20)
            server.task_dispatcher.shutdown()


@pytest.fixture(scope="session")
def keys(database: str) -> list[str]:
    return [row.key for row in losses()]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a filled database, in a folder with a difficult name, with a mirror."""
    folder: Path = tmp_path_factory.mktemp("100% of # {x} ö")
    url = f"sqlite:///{folder}/losses.db"
    fill(url, mirror=True)
    return url


@pytest.fixture(scope="session")
def site(database: str) -> Iterator[Site]:
    with serving(database) as running:
        yield running
