"""Whatever is done to a loss, what comes out is a loss of the same type."""

from __future__ import annotations

from itertools import accumulate

import pytest

from losssearch.controllers.base import sampler_of
from losssearch.controllers.variation import MUTATIONS, Edit, blended, crossed, mutated, nudged
from losssearch.language.draws import Draws
from losssearch.language.formula import format_program, parse
from losssearch.language.program import Constant
from losssearch.spaces import Space, load_space


@pytest.fixture(scope="module", params=["multiclass", "regression"])
def space(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutant_of_every_seed_is_well_typed(space: Space, name: str) -> None:
    sampler = sampler_of(space)
    made = 0
    for loss in space.seeds:
        for k in range(8):
            edit = Edit.of(sampler, loss.program, Draws.counted(0, k))
            draft = MUTATIONS[name](edit)
            if draft is None:
                continue
            made += 1
            mutant = edit.written(draft)
            constants = {c.name: c for c in mutant.constants}
            assert parse(format_program(mutant), space.signature, constants) == mutant
            assert sampler.fits(mutant)
    assert made


def test_a_crossover_has_parts_of_both(space: Space) -> None:
    sampler = sampler_of(space)
    seeds = [loss.program for loss in space.seeds if sampler.has_head(loss.program)]
    children = [
        crossed(sampler, mother, father, Draws.counted(1, i, j))
        for i, mother in enumerate(seeds[:6])
        for j, father in enumerate(seeds[:6])
    ]
    assert sum(child is not None for child in children) > 10
    assert all(child is None or sampler.fits(child) for child in children)


def test_constants_of_two_parents_keep_their_values() -> None:
    space = load_space("multiclass")
    sampler = sampler_of(space)
    gce, poly = space.losses["gce"].program, space.losses["poly1"].program
    child = blended(sampler, gce, poly, Draws.counted(2, 0))
    assert child is not None
    values = sorted(c.value for c in child.constants)
    assert len(values) == 3  # q, epsilon and the new factor
    assert {gce.constants[0].value, poly.constants[0].value} <= set(values)


def test_a_step_of_the_constants_stays_in_their_range() -> None:
    space = load_space("multiclass")
    signature, sampler = space.signature, sampler_of(space)
    constants = {"a": Constant("a", 0.9, 0.0, 1.0), "b": Constant("b", 0.0, -1.0, 1.0)}
    program = parse("mean(a * p_t + b * log_pt, 'n')", signature, constants)
    for k in range(200):
        stepped = nudged(sampler, program, Draws.counted(3, k))
        assert stepped is not None
        assert stepped.instructions == program.instructions
    assert nudged(sampler, parse("mean(p_t, 'n')", signature), Draws.counted(3, 0)) is None


def test_several_mutations_say_what_they_were(space: Space) -> None:
    totals = list(accumulate(1.0 for _ in MUTATIONS))
    reference = space.losses[space.reference].program
    found = mutated(sampler_of(space), reference, Draws.counted(4, 1), totals, 3)
    assert found is not None
    assert set(found[1].split("+")) <= set(MUTATIONS)
