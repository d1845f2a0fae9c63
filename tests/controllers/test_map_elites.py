"""The archive keeps the best of each kind, and more kinds than evolution does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losssearch.controllers.base import Controller, Told
from losssearch.controllers.evolution import Evolution
from losssearch.controllers.map_elites import Cell, MapElites, MapElitesSettings, cell_of
from losssearch.errors import UsageError
from losssearch.execution.reference import loss_gradient
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.spaces import Space, load_space

NAMES = frozenset({"r"})


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("regression")


def told(
    space: Space,
    body: str,
    score: float | None,
    *,
    rung: int = 0,
    outcome: Outcome = Outcome.SCORED,
    key: str | None = None,
) -> Told:
    program = parse(f"mean({body}, 'n')", space.signature)
    return Told(0, key or candidate_key(program), program, score, outcome, program.size, rung)


def texts(archive: MapElites) -> set[str]:
    return {one.program.text for one in archive.archive.values()}


@pytest.mark.parametrize(
    ("body", "bounded", "convex", "reads"),
    [
        ("square(r)", False, True, ("r",)),
        ("abs(r)", True, True, ("r",)),
        ("log(1 + square(r))", False, False, ("r",)),  # bounded, but intervals cannot show it
        ("tanh(abs(r))", True, False, ("r",)),
        ("square(pred - target)", False, True, ()),
    ],
)
def test_a_cell_is_what_can_be_proved_and_what_is_read(
    space: Space, body: str, bounded: bool, convex: bool, reads: tuple[str, ...]
) -> None:
    program = parse(f"mean({body}, 'n')", space.signature)
    assert cell_of(program, NAMES) == Cell(program.size // 3, bounded, convex, reads)


def test_the_better_of_a_cell_stays_and_of_equals_the_smaller(space: Space) -> None:
    archive = MapElites(space, [])
    archive.tell([told(space, "square(square(r))", 0.3), told(space, "exp(square(r))", 0.2)])
    assert texts(archive) == {"mean(exp(r**2), 'n')"}
    archive.tell([told(space, "square(r)", 0.2)])
    assert texts(archive) == {"mean(r**2, 'n')"}


def test_the_same_loss_in_longer_words_takes_no_place_of_its_own(space: Space) -> None:
    archive = MapElites(space, [])
    first = told(space, "square(r)", 0.2)
    archive.tell(
        [first, told(space, "3*square(r) + square(r)", 0.2, outcome=Outcome.EQUIVALENT, key=first.key)]
    )
    assert texts(archive) == {"mean(r**2, 'n')"}
    long = told(space, "tanh(2*abs(r) + abs(r))", 0.4)
    archive.tell([long, told(space, "tanh(3*abs(r))", 0.4, outcome=Outcome.EQUIVALENT, key=long.key)])
    assert texts(archive) == {"mean(r**2, 'n')", "mean(tanh(3 * abs(r)), 'n')"}


def test_a_late_failure_empties_the_cell(space: Space) -> None:
    archive = MapElites(space, [])
    archive.tell([told(space, "square(r)", 0.2)])
    archive.tell([told(space, "square(r)", None, rung=1, outcome=Outcome.DIVERGED)])
    assert archive.archive == {}


def steepness(program: Program, inputs: dict[str, Tensor]) -> float:
    """A score with some meaning: how far the slope is from that of log(1 + r^2), scaled alike."""
    slope = loss_gradient(program, "pred", plain=False)(inputs)
    r = inputs["pred"] - inputs["target"]
    aim = r / (1 + r**2)
    gap = slope / slope.square().mean().sqrt() - aim / aim.square().mean().sqrt()
    return float(gap.square().mean())


def searched(controller: Controller, rounds: int) -> list[Told]:
    """What was told while it searched."""
    r = torch.linspace(-4, 4, 40, dtype=torch.float64)
    inputs = {name: torch.ones_like(r) for name in controller.space.signature.inputs}
    inputs |= {"pred": r, "target": torch.zeros_like(r), "progress": torch.ones((), dtype=torch.float64)}
    everything = []
    for _ in range(rounds):
        results = []
        for p in controller.ask(40):
            score = steepness(p.program, inputs)
            results.append(
                Told(p.number, candidate_key(p.program), p.program, score, Outcome.SCORED, p.program.size, 0)
            )
        controller.tell(results)
        everything += results
    return everything


def test_it_keeps_the_best_of_every_kind_and_more_kinds_than_evolution(space: Space) -> None:
    start = [("mse", space.losses["mse"].program)]
    archive, evolution = MapElites(space, start, 0), Evolution(space, start, 0)
    seen, _ = searched(archive, 5), searched(evolution, 5)
    best: dict[Cell, float] = {}
    for one in seen:
        if one.finite_score is not None:
            cell = cell_of(one.program, NAMES)
            best[cell] = min(best.get(cell, one.finite_score), one.finite_score)
    assert {cell: one.score for cell, one in archive.archive.items()} == best
    living = {cell_of(one.program, NAMES) for one in evolution.population}
    assert len(best) > len(living)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="warm_up >= 1"):
        MapElitesSettings(warm_up=0)
