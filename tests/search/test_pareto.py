"""A front holds what nothing beats, and nothing else."""

from __future__ import annotations

import json
import random

import pytest
from typer.testing import CliRunner

import losssearch as ls
from losssearch.cli import app
from losssearch.pareto import undominated
from losssearch.store.store import Store


def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_beats(seed: int) -> None:
    draw = random.Random(seed)
    points = list({tuple(float(draw.randrange(6)) for _ in range(3)) for _ in range(60)})
    slow = [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
    assert undominated(points) == slow


def test_the_first_of_equals_is_kept_and_nothing_has_no_front() -> None:
    assert undominated([(2.0, 2.0), (1.0, 1.0), (1.0, 1.0)]) == [1]
    assert undominated([]) == []


def test_a_search_for_three_ends_shows_its_front_everywhere(search) -> None:
    own = search(controller="pareto", start=None)
    result = own.run(candidates=60)
    assert result.front
    with Store.open(own.storage, read_only=True) as store:
        rows = store.leaderboard("small", limit=1000)
        guards = [event.payload["guard"] for event in store.events("small") if event.kind == "finals"]
    assert guards == ["balanced_error"]
    peers = {
        row.candidate.key: (row.proposal.score, row.proposal.metrics[guards[0]], row.candidate.size)
        for row in rows
        if row.proposal.rung >= 2
    }
    shown = {d.key for d in result.front}
    for key, mine in peers.items():
        beaten = any(beats(other, mine) for other in peers.values())
        assert beaten or mine in {peers[k] for k in shown}, key
        assert not (beaten and key in shown)
    assert [d.key for d in ls.pareto_front("small", own.storage)] == [d.key for d in result.front]
    told = CliRunner().invoke(app, ["leaderboard", "small", "--storage", own.storage, "--pareto", "--json"])
    assert {row["key"] for row in json.loads(told.stdout)} == shown
