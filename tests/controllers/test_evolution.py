"""Who lives, who becomes a parent, and who makes room."""

from __future__ import annotations

import json

import pytest

from losssearch.controllers.base import Told
from losssearch.controllers.evolution import Evolution, EvolutionSettings
from losssearch.errors import UsageError
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.spaces import Space, load_space


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("multiclass")


def told(
    space: Space,
    body: str,
    score: float | None,
    *,
    number: int = 0,
    rung: int = 0,
    outcome: Outcome = Outcome.SCORED,
    **constants: float,
) -> Told:
    program = parse(f"mean({body}, 'n')", space.signature, constants)
    return Told(number, candidate_key(program), program, score, outcome, program.size, rung)


def bodies(evolution: Evolution) -> list[str]:
    return [one.program.text for one in evolution.population]


def test_a_structure_keeps_only_its_best_constants(space: Space) -> None:
    evolution = Evolution(space, [], 0, EvolutionSettings(niche=2))
    evolution.tell([told(space, "p_t**g", s, g=g) for g, s in ((1.5, 0.3), (2.5, 0.1), (3.5, 0.2))])
    assert sorted(one.score for one in evolution.population) == [0.1, 0.2]


def test_a_new_score_replaces_the_old_and_a_late_failure_ends_it(space: Space) -> None:
    evolution = Evolution(space, [], 0)
    evolution.tell([told(space, "-p_t", 0.1)])
    evolution.tell([told(space, "-p_t", 0.2, rung=1)])
    assert [(one.score, one.rung) for one in evolution.population] == [(0.2, 1)]
    evolution.tell([told(space, "-p_t", None, rung=1, outcome=Outcome.DIVERGED)])
    assert evolution.population == []


def test_of_the_same_loss_in_other_words_the_shorter_stays(space: Space) -> None:
    evolution = Evolution(space, [], 0)
    evolution.tell([told(space, "-p_t * 2", 0.1)])
    evolution.tell([told(space, "-p_t", 0.1, outcome=Outcome.EQUIVALENT)])
    evolution.tell([told(space, "-p_t * 3", 0.1, outcome=Outcome.EQUIVALENT)])
    assert bodies(evolution) == ["mean(-p_t, 'n')"]


def test_different_losses_may_score_the_same(space: Space) -> None:
    evolution = Evolution(space, [], 0)
    evolution.tell([told(space, "-p_t", 0.1), told(space, "-log_pt", 0.1)])
    assert len(evolution.population) == 2


def test_the_front_outlives_age_and_the_old_make_room(space: Space) -> None:
    settings = EvolutionSettings(population=3, lifetime=10)
    evolution = Evolution(space, [], 0, settings)
    evolution.tell(
        [
            told(space, "-p_t", 0.1, number=0),
            told(space, "tanh(-log_pt)", 0.2, number=1),
            told(space, "square(1 - p_t)", 0.3, number=98),
            told(space, "square(square(1 - p_t))", 0.4, number=99),
        ]
    )
    assert [one.score for one in evolution.population] == [0.1, 0.3, 0.4]


def test_a_restored_one_remembers_those_who_did_not_survive(space: Space) -> None:
    """The front stands on the median of all, the dropped included."""
    settings = EvolutionSettings(population=4, warm_up=1)
    first, again = (Evolution(space, [], 0, settings) for _ in range(2))
    powers = [told(space, f"p_t**g * {n}", 0.1 + n / 100, number=n, g=1 + n / 9) for n in range(1, 9)]
    others = [
        told(space, "-margin" + " * p_t" * n, 0.9 - n / 50, number=20 + n, rung=n % 3) for n in range(9)
    ]
    first.tell([*powers, *others])
    again.restore(json.loads(json.dumps(first.state())))
    assert again._front == first._front
    assert first.ask(60) == again.ask(60)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="population >= 2"):
        EvolutionSettings(population=1)
