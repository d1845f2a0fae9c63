"""A portfolio gives more to who earns more, and everybody learns from everybody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from losssearch.controllers.base import Proposal, Told
from losssearch.controllers.evolution import Evolution
from losssearch.controllers.map_elites import MapElites
from losssearch.controllers.portfolio import ARMS, HAND, Portfolio
from losssearch.controllers.registry import CONTROLLERS, make_controller
from losssearch.errors import UsageError
from losssearch.language.canonical import candidate_key
from losssearch.outcomes import Outcome
from losssearch.spaces import Space, load_space


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("regression")


def arm_of(proposal: Proposal) -> str:
    return proposal.origin.partition(":")[0]


def told(proposal: Proposal, score: float | None, outcome: Outcome = Outcome.SCORED, rung: int = 0) -> Told:
    key = candidate_key(proposal.program)
    return Told(proposal.number, key, proposal.program, score, outcome, proposal.program.size, rung)


def noise(proposal: Proposal) -> float:
    return int(candidate_key(proposal.program)[:8], 16) / 2**32


def played(portfolio: Portfolio, rounds: int, winner: str) -> list[Counter[str]]:
    """Who proposed how many in each round, when all scores are noise but those of one arm; the best climb."""
    shares = []
    for _ in range(rounds):
        proposals = portfolio.ask(96)
        shares.append(Counter(arm_of(p) for p in proposals))
        scores = {p: noise(p) - 2 * (arm_of(p) == winner) for p in proposals}
        portfolio.tell([told(p, scores[p]) for p in proposals])
        portfolio.tell([told(p, scores[p], rung=1) for p in sorted(proposals, key=scores.get)[:30]])
    return shares


@pytest.mark.parametrize("winner", ["random", "map_elites"])
def test_the_budget_moves_to_the_arm_that_earns(space: Space, winner: str) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random", "map_elites"))
    shares = played(portfolio, 5, winner)
    assert shares[-1][winner] > 48
    assert all(sum(share[arm] for share in shares[1:]) >= 2 * HAND for arm in portfolio.members)


def test_a_known_loss_in_other_words_earns_nothing(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    first, second = portfolio.ask(2 * HAND)[::HAND]
    portfolio.tell([told(first, 0.0, Outcome.EQUIVALENT), told(second, 0.1)])
    assert portfolio.bandit.earned[arm_of(first)][0] == 0


def test_a_first_score_is_no_success_and_a_surer_one_is_one_once(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    [proposal] = portfolio.ask(1)
    for rung, earned in ((0, (0, 1)), (1, (1, 0)), (2, (1, 0))):
        portfolio.tell([told(proposal, 0.1, rung=rung), *(told(p, 0.5 + p.number) for p in portfolio.ask(9))])
        assert portfolio.bandit.earned[arm_of(proposal)][0] == pytest.approx(earned[0], abs=0.1)


def test_only_the_first_of_a_structure_is_a_success(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    first, second, *others = portfolio.ask(40)
    again = replace(second, program=first.program)
    for rung in (0, 1):
        portfolio.tell([told(p, 0.5 + p.number) for p in others])
        portfolio.tell([told(first, 0.1, rung=rung), told(again, 0.1, rung=rung)])
    good = sum(good for good, _ in portfolio.bandit.earned.values())
    assert good == pytest.approx(1, abs=0.1)


def test_a_twin_found_on_a_higher_rung_fails_once(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    [proposal] = portfolio.ask(1)
    portfolio.tell([told(proposal, 0.1)])
    portfolio.tell([told(proposal, None, rung=1)])
    assert portfolio.bandit.earned[arm_of(proposal)] == (0, 1)


def test_a_loss_that_does_worse_on_more_splits_was_no_success(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    first, *others = portfolio.ask(40)
    portfolio.tell([told(first, 0.1), *(told(p, 0.5 + p.number / 100) for p in others)])
    portfolio.tell([told(first, 0.8, rung=1)])
    assert all(good == 0 for good, _ in portfolio.bandit.earned.values())


def test_an_arm_takes_the_elites_of_another_for_parents(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("random", "evolution", "map_elites"))
    theirs = [p for p in portfolio.ask(3 * HAND) if arm_of(p) == "random"]
    portfolio.tell([told(p, noise(p)) for p in theirs])
    best = min(theirs, key=noise)
    evolution, archive = portfolio.members["evolution"], portfolio.members["map_elites"]
    assert isinstance(evolution, Evolution)
    assert isinstance(archive, MapElites)
    assert best.program in [one.program for one in evolution.population]
    assert best.program in [one.program for one in archive.archive.values()]


def test_two_arms_of_one_kind_do_not_say_the_same(space: Space) -> None:
    portfolio = Portfolio(space, [], 0, ("optuna:qmc", "optuna:random"))
    proposals = portfolio.ask(60)
    assert {arm_of(p) for p in proposals} == {"optuna"}
    assert {p.origin.rpartition(":")[0] for p in proposals} >= {"optuna:qmc", "optuna:random"}
    assert len({candidate_key(p.program) for p in proposals}) >= 59


def test_proposals_without_an_answer_are_forgotten_some_day(space: Space, monkeypatch) -> None:
    monkeypatch.setattr("losssearch.controllers.portfolio.OPEN", 20)
    portfolio = Portfolio(space, [], 0, ("evolution", "random"))
    portfolio.ask(30)
    assert len(portfolio.state()["open"]) == 20


@pytest.mark.parametrize("arms", [(), ("random",), ("random", "random"), ("random", "portfolio")])
def test_a_portfolio_needs_two_other_controllers(space: Space, arms: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="two other controllers"):
        Portfolio(space, [], 0, arms)


def test_a_proposer_from_outside_is_one_more_arm(space: Space) -> None:
    command = f"command:{sys.executable} {Path(__file__).parents[1] / 'contracts' / 'proposer.py'}"
    name = f"portfolio:random, {command}"
    portfolio = make_controller(name, space, [], 3)
    asked = portfolio.ask(48)
    portfolio.tell([told(p, 0.5 if arm_of(p) == "command" else 0.9) for p in asked])
    assert {arm_of(p) for p in asked} == {"random", "command"}
    again = make_controller(name, space, [], 3)
    again.restore(json.loads(json.dumps(portfolio.state())))
    assert [p.program.text for p in again.ask(16)] == [p.program.text for p in portfolio.ask(16)]


def test_a_state_with_other_arms_is_refused(space: Space) -> None:
    state = json.loads(json.dumps(Portfolio(space, [], 0, ("evolution", "random")).state()))
    with pytest.raises(UsageError, match="does not fit"):
        Portfolio(space, [], 0, ("evolution", "map_elites")).restore(state)


def test_every_arm_is_in_the_registry() -> None:
    assert set(ARMS) <= set(CONTROLLERS)


def test_what_no_arm_needs_is_not_loaded() -> None:
    code = (
        "import sys; from losssearch.controllers.portfolio import Portfolio\n"
        "from losssearch.spaces import load_space\n"
        "assert not {'torch', 'optuna'} & set(sys.modules)\n"
        "Portfolio(load_space('regression'), [], 0, ('evolution', 'random')).ask(1)\n"
        "policies = 'losssearch.controllers.policies'\n"
        "assert not {'optuna', policies} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
