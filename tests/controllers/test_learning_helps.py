"""Do controllers that learn to write get better at it? Each against itself, untaught.

The score is cheap and made up: how little of a body is `square`, `add`, `abs` and `r`, how far its size is
from seven, and a hash of the candidate as noise. So nothing about losses is shown here, only that what is
told is used: for each of several seeds the mean score of late proposals beats that of the same policy told
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import pytest

from losssearch.controllers.base import Controller, Proposal, Told
from losssearch.controllers.ppo import PPO
from losssearch.controllers.q_learning import QLearning
from losssearch.controllers.reinforce import Reinforce
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space

SPACE = load_space("regression")
SEEDS = range(3)
ROUND, ROUNDS = 48, 4


def score_of(program: Program) -> float:
    liked = sum(step.op in ("square", "add", "abs") or step.data == "r" for step in program.instructions)
    noise = int(candidate_key(program)[:8], 16) / 2**32
    return 1 - liked / len(program.instructions) + 0.03 * abs(program.size - 8) + 0.1 * noise


def untaught_scores(controller: Controller) -> list[float]:
    controller.skip((ROUNDS - 1) * ROUND)
    return [score_of(proposal.program) for proposal in controller.ask(ROUND)]


def taught_scores(controller: Controller) -> list[float]:
    scores: list[float] = []
    for _ in range(ROUNDS):
        proposals = controller.ask(ROUND)
        scores = [score_of(p.program) for p in proposals]
        controller.tell([told(p, score) for p, score in zip(proposals, scores, strict=True)])
    return scores


def told(proposal: Proposal, score: float) -> Told:
    program = proposal.program
    return Told(proposal.number, candidate_key(program), program, score, Outcome.SCORED, program.size, 0)


@pytest.mark.parametrize("make", [Reinforce, PPO, QLearning])
def test_late_proposals_beat_those_of_the_same_policy_untaught(make: Callable[..., Controller]) -> None:
    start = [("mse", SPACE.losses["mse"].program)]
    gains = [
        mean(untaught_scores(make(SPACE, start, seed))) - mean(taught_scores(make(SPACE, start, seed)))
        for seed in SEEDS
    ]
    assert min(gains) > 0, gains
