"""What every controller promises. A new controller inherits these facts by giving one fixture.

The small space of the last fact has been searched exhaustively, with losses of up to five nodes
written down one by one: so its optimum, and how rare it is, are known.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from losssearch.controllers.base import Controller, Proposal, Told
from losssearch.controllers.evolution import Evolution
from losssearch.controllers.islands import Islands
from losssearch.controllers.map_elites import MapElites
from losssearch.controllers.optuna import OptunaController, Pareto
from losssearch.controllers.outside.proposer import FromCommand
from losssearch.controllers.portfolio import Portfolio
from losssearch.controllers.ppo import PPO
from losssearch.controllers.q_learning import QLearning
from losssearch.controllers.random import RandomController
from losssearch.controllers.reinforce import Reinforce
from losssearch.errors import FormulaError, UsageError
from losssearch.execution.reference import loss_gradient
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import format_program, parse
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.spaces import Space, load_space

Make = Callable[[Space, Sequence[tuple[str, Program]], int], Controller]

SMALL = """
title = "A space small enough to write down"
task = "regression"
axes = { n = {} }
sets = ["", "n"]
head = "mean(body, 'n')"
better = "shrink the residual"
reference = "mse"
screens = []

[inputs]
pred = { axes = "n", role = "prediction", range = [-10, 10] }
target = { axes = "n", role = "target", range = [-10, 10] }

[define]
r = "pred - target"

[search]
primitives = ["add", "mul", "abs", "square", "log", "tanh"]
terminals = ["r"]
sets = ["", "n"]
nodes = 6
depth = 5
mix = { role = 0.3, mutation = 0.3, growth = 0.4 }

[losses.mse]
title = "Mean squared error"
formula = "mean(square(r), 'n')"
source = "Gauss 1809"
"""
OPTIMUM = "log(1 + square(r))"
NEAR = 0.1  # the best of the others is at 0.18
BUDGET = 300

_RESIDUALS = torch.linspace(-4, 4, 40, dtype=torch.float64)


def influence(program: Program) -> torch.Tensor:
    """The slope in the residual, of mean square 1."""
    inputs = {"pred": _RESIDUALS, "target": torch.zeros_like(_RESIDUALS)}
    slope = loss_gradient(program, "pred", plain=False)(inputs)
    size = slope.square().mean().sqrt()
    return slope / size if bool(size > 1e-12) else torch.full_like(slope, math.nan)


def distance(program: Program, aim: torch.Tensor) -> float | None:
    """How far a loss's slope is from the aim; None where it has none."""
    found = float((influence(program) - aim).square().mean().sqrt())
    return found if math.isfinite(found) else None


def aim_of(space: Space) -> torch.Tensor:
    return influence(parse(f"mean({OPTIMUM}, 'n')", space.signature))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Space:
    path: Path = tmp_path_factory.mktemp("space") / "small.toml"
    path.write_text(SMALL)
    return load_space(path)


@pytest.fixture(scope="module")
def multiclass() -> Space:
    return load_space("multiclass")


def start_of(space: Space) -> list[tuple[str, Program]]:
    names = ["cross_entropy", "brier"] if "brier" in space.losses else ["mse"]
    return [(name, space.losses[name].program) for name in names]


def scored(proposal: Proposal, score: float | None) -> Told:
    program = proposal.program
    outcome = Outcome.NOT_FINITE if score is None else Outcome.SCORED
    key = candidate_key(program)
    return Told(proposal.number, key, program, score, outcome, program.size, 0)


def made_up(proposal: Proposal) -> float | None:
    """A score that depends on the program alone; every fourth has none."""
    number = int(candidate_key(proposal.program)[:8], 16)
    return None if number % 4 == 0 else number / 2**32


def seen(proposals: Sequence[Proposal]) -> list[tuple[object, ...]]:
    return [(p.number, p.program, p.parents, p.origin) for p in proposals]


class ControllerContract:
    """The facts; `make` gives the controller."""

    near = NEAR

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    def test_the_start_losses_come_first_as_they_are(self, make: Make, multiclass: Space) -> None:
        start = start_of(multiclass)
        proposals = make(multiclass, start, 0).ask(3)
        assert [p.program for p in proposals[:2]] == [program for _, program in start]
        assert proposals[0].origin == "start: cross_entropy"
        assert [p.number for p in proposals] == [0, 1, 2]

    def test_every_proposal_is_well_typed_and_inside_the_limits(self, make: Make, multiclass: Space) -> None:
        controller = make(multiclass, start_of(multiclass), 1)
        for _ in range(3):
            proposals = controller.ask(25)
            controller.tell([scored(p, made_up(p)) for p in proposals])
            for proposal in proposals:
                program = proposal.program
                constants = {c.name: c for c in program.constants}
                again = parse(format_program(program), multiclass.signature, constants)
                assert again == program
                assert program.size <= multiclass.search.nodes + 1  # the head counts one
                assert program.depth <= multiclass.search.depth + 1
                assert {"logits", "target"} <= program.inputs
                assert all(c.low <= c.value <= c.high for c in program.constants)

    def test_hardly_a_proposal_is_canonically_a_duplicate(self, make: Make, multiclass: Space) -> None:
        controller = make(multiclass, start_of(multiclass), 2)
        keys = []
        for _ in range(4):
            proposals = controller.ask(25)
            controller.tell([scored(p, made_up(p)) for p in proposals])
            keys += [candidate_key(p.program) for p in proposals]
        assert len(set(keys)) >= 98

    def test_a_history_of_failures_alone_is_survived(self, make: Make, multiclass: Space) -> None:
        controller = make(multiclass, start_of(multiclass), 3)
        for bad in (None, math.nan, math.inf):
            proposals = controller.ask(8)
            controller.tell([scored(p, bad) for p in proposals])
        assert len(controller.ask(8)) == 8

    def test_nothing_at_all_may_be_told(self, make: Make, multiclass: Space) -> None:
        controller = make(multiclass, [], 3)
        controller.tell([])
        assert len(controller.ask(5)) == 5
        assert controller.ask(0) == []

    def test_it_goes_on_after_a_restart_as_if_nothing_had_been(self, make: Make, multiclass: Space) -> None:
        start = start_of(multiclass)
        first = make(multiclass, start, 4)
        for _ in range(3):
            first.tell([scored(p, made_up(p)) for p in first.ask(20)])
        late = first.ask(5)  # asked before the restart, told after it
        second = make(multiclass, start, 4)
        second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        for controller in (first, second):
            controller.tell([scored(p, made_up(p)) for p in late])
        for _ in range(2):
            mine, yours = first.ask(10), second.ask(10)
            assert seen(mine) == seen(yours)
            for controller in (first, second):
                controller.tell([scored(p, made_up(p)) for p in mine])

    def test_proposals_do_not_depend_on_how_they_are_asked_for(self, make: Make, multiclass: Space) -> None:
        pair = [make(multiclass, start_of(multiclass), 5) for _ in range(2)]
        for controller in pair:
            controller.tell([scored(p, made_up(p)) for p in controller.ask(20)])
        one_by_one = [pair[0].ask(1)[0] for _ in range(10)]
        assert seen(one_by_one) == seen(pair[1].ask(4) + pair[1].ask(6))

    def test_another_seed_gives_other_proposals(self, make: Make, multiclass: Space) -> None:
        texts = [{p.program.text for p in make(multiclass, [], seed).ask(20)} for seed in (0, 1)]
        assert len(texts[0] & texts[1]) < 10

    def test_a_state_of_something_else_is_refused(self, make: Make, multiclass: Space) -> None:
        with pytest.raises(UsageError, match="does not fit"):
            make(multiclass, [], 0).restore({"number": 3})

    def test_one_of_three_seeds_comes_near_the_known_optimum(self, make: Make, small: Space) -> None:
        """Guards against a controller that is broken; drawing at random passes it too."""
        aim = aim_of(small)
        best = 1.0
        for seed in range(3):
            controller = make(small, start_of(small), seed)
            while controller.number < BUDGET and best > self.near:
                told = [scored(p, distance(p.program, aim)) for p in controller.ask(20)]
                best = min([best, *(t.score for t in told if t.score is not None)])
                controller.tell(told)
        assert best <= self.near


class TestRandom(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return RandomController


class TestEvolution(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return Evolution


class TestOptunaWithTPE(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return OptunaController


class TestOptunaWithNSGAII(ControllerContract):
    near = 0.2  # four generations only: among the four best of the 420 that were written down

    @pytest.fixture
    def make(self) -> Make:
        return lambda space, start, seed: OptunaController(space, start, seed, sampler="nsgaii")


class TestOptunaWithCMAES(ControllerContract):
    near = 0.2  # six generations only

    @pytest.fixture
    def make(self) -> Make:
        pytest.importorskip("cmaes")
        return lambda space, start, seed: OptunaController(space, start, seed, sampler="cmaes")


class TestOptunaWithGP(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda space, start, seed: OptunaController(space, start, seed, sampler="gp")


class TestPareto(ControllerContract):
    near = 0.2  # four generations, of which short losses are a part

    @pytest.fixture
    def make(self) -> Make:
        return Pareto


class TestReinforce(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return Reinforce


class TestPPO(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return PPO


class TestQLearning(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return QLearning


class TestIslands(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return Islands


class TestMapElites(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return MapElites


class TestPortfolio(ControllerContract):
    @pytest.fixture
    def make(self) -> Make:
        return Portfolio


class TestFromCommand(ControllerContract):
    """A command that draws formulas by chance, answers late lines wrongly, and knows nothing else."""

    @pytest.fixture
    def make(self) -> Make:
        command = f"{sys.executable} -I {Path(__file__).with_name('proposer.py')}"
        return lambda space, start, seed: FromCommand(space, start, seed, command=command)


def written_out(nodes: int) -> list[str]:
    """All bodies over r and 1 with exactly so many nodes, one by one."""
    if nodes == 1:
        return ["r", "1"]
    found = [f"{f}({x})" for f in ("abs", "square", "log", "tanh") for x in written_out(nodes - 1)]
    for left in range(1, nodes - 1):
        pairs = itertools.product(written_out(left), written_out(nodes - 1 - left))
        found += [f"({x} {op} {y})" for x, y in pairs for op in "+*"]
    return found


def test_the_optimum_of_the_small_space_is_rare(small: Space) -> None:
    aim = aim_of(small)
    distances: dict[str, float | None] = {}
    near, written = set(), 0
    for nodes in range(1, 6):
        for body in written_out(nodes):
            written += 1
            try:
                program = parse(f"mean({body}, 'n')", small.signature)
                key = candidate_key(program)
            except FormulaError:  # without r there is nothing to average
                continue
            if key not in distances:
                distances[key] = distance(program, aim)
            found = distances[key]
            if found is not None and found <= NEAR:
                near.add(body)
    assert near == {"log((1 + square(r)))", "log((square(r) + 1))"}
    assert BUDGET * len(near) / written < 0.5
