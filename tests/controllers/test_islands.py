"""Islands evolve apart, and visit each other when it is time."""

from __future__ import annotations

import json

import pytest

from losssearch.controllers.base import Told
from losssearch.controllers.evolution import EvolutionSettings
from losssearch.controllers.islands import Islands, IslandsSettings
from losssearch.errors import UsageError
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.spaces import Space, load_space

THREE = IslandsSettings(islands=3, interval=30, emigrants=2)


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("regression")


def told(space: Space, number: int, score: float | None, rung: int = 0) -> Told:
    """A result whose loss has the number in it; every structure occurs once."""
    body = "tanh(" * (number // 10) + f"abs(r)**{number % 10 + 2}" + ")" * (number // 10)
    program = parse(f"mean({body}, 'n')", space.signature)
    outcome = Outcome.DIVERGED if score is None else Outcome.SCORED
    return Told(number, candidate_key(program), program, score, outcome, program.size, rung)


def numbers(islands: Islands) -> list[set[int]]:
    """Which losses live on each island, by the number of their proposal."""
    return [{one.born for one in island.population} for island in islands.islands.values()]


def test_before_the_first_migration_each_island_knows_only_its_own(space: Space) -> None:
    islands = Islands(space, [], 0, THREE)
    islands.tell([told(space, n, n / 100) for n in range(12)])
    assert numbers(islands) == [{0, 3, 6, 9}, {1, 4, 7, 10}, {2, 5, 8, 11}]


def test_the_best_of_every_island_visit_the_next_one_all_at_once(space: Space) -> None:
    islands = Islands(space, [], 0, THREE)
    islands.tell([told(space, n, n / 100) for n in range(12)])
    before = numbers(islands)
    islands.tell([told(space, 30, 0.9)])  # a proposal of the second interval, at home on the first island
    best_two = [set(sorted(own)[:2]) for own in before]  # scores rise with the numbers
    before[0].add(30)
    assert numbers(islands) == [before[i] | best_two[i - 1] for i in range(3)]


def test_an_interval_has_one_migration_however_its_results_are_told(space: Space) -> None:
    islands = Islands(space, [], 0, THREE)
    islands.tell([told(space, n, n / 100) for n in range(12)])
    for number in (31, 32, 35):
        islands.tell([told(space, number, 0.5)])
        assert islands.migrations == 1
    islands.tell([told(space, 95, 0.5)])
    assert islands.migrations == 3


def test_a_better_measurement_follows_a_loss_to_where_it_settled(space: Space) -> None:
    islands = Islands(space, [], 0, THREE)
    islands.tell([told(space, n, n / 100) for n in range(12)] + [told(space, 30, 0.9)])
    assert [0 in own for own in numbers(islands)] == [True, True, False]
    islands.tell([told(space, 0, 0.4, rung=1)])
    scores = [{one.born: one.score for one in island.population} for island in islands.islands.values()]
    assert scores[0][0] == scores[1][0] == 0.4
    islands.tell([told(space, 0, None, rung=1)])
    assert not any(0 in own for own in numbers(islands))


def test_every_island_is_told_of_the_start_losses(space: Space) -> None:
    start = [(name, space.losses[name].program) for name in ("mse", "mae")]
    islands = Islands(space, start, 0, THREE)
    proposals = islands.ask(2)
    results = [
        Told(p.number, candidate_key(p.program), p.program, 0.5, Outcome.SCORED, p.program.size, 0)
        for p in proposals
    ]
    islands.tell(results)
    assert numbers(islands) == [{0, 1}] * 3


def test_migrations_are_the_same_after_a_restart_and_in_a_second_run(space: Space) -> None:
    settings = IslandsSettings(islands=2, interval=20, each=EvolutionSettings(population=10, warm_up=4))
    whole, again = (Islands(space, [], 7, settings) for _ in range(2))
    for step in range(6):
        for islands in (whole, again):
            results = []
            for p in islands.ask(10):
                key = candidate_key(p.program)
                score = int(key[:8], 16) / 2**32
                results.append(Told(p.number, key, p.program, score, Outcome.SCORED, p.program.size, 0))
            islands.tell(results)
        if step == 2:
            state = json.loads(json.dumps(again.state()))
            again = Islands(space, [], 7, settings)
            again.restore(state)
    assert whole.migrations == again.migrations == 2
    assert numbers(whole) == numbers(again)
    assert whole.ask(20) == again.ask(20)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="islands >= 2"):
        IslandsSettings(islands=1)
