"""Every worker of a GPU pool has a card of its own, also after another has died."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from losssearch.errors import PoolError
from losssearch.outcomes import Outcome
from losssearch.pools import gpus
from losssearch.pools.gpus import GpuPool

TASKS = {name: f"pool_tasks:{name}" for name in ("place", "kill_self")}


def cards(pool: GpuPool) -> list[str]:
    """Those that the workers have, asked all at once."""
    for number in range(pool.size):
        pool.submit(str(number), {"task": "place"}, 60)
    answers = []
    while len(answers) < pool.size:
        answers += pool.wait(60)
    assert {answer.result["LOSSSEARCH_DEVICE"] for answer in answers} == {"cuda"}
    return sorted(answer.result["CUDA_VISIBLE_DEVICES"] for answer in answers)


def test_a_dead_worker_gives_its_card_to_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "contracts"))
    monkeypatch.setattr(gpus, "_cards", lambda: ["3", "5"])
    with GpuPool(tasks=TASKS) as pool:
        assert cards(pool) == ["3", "5"]
        for round_ in range(3):
            pool.submit(f"end {round_}", {"task": "kill_self"}, 60)
            [answer] = pool.wait(60)
            assert answer.outcome is Outcome.DIED
            assert cards(pool) == ["3", "5"]


def test_more_cards_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_cards", lambda: ["0", "1"])
    with pytest.raises(PoolError, match="needs 3 GPUs, but torch"):
        GpuPool(3)


@pytest.mark.parametrize(("visible", "count", "wanted"), [
    ("", 2, ["0", "1"]), ("4, 7", 2, ["4", "7"]), ("0,1,2,3", 1, ["0"]), ("", 0, []),
])  # fmt: skip
def test_cards_are_those_that_torch_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, wanted: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert gpus._cards() == wanted
