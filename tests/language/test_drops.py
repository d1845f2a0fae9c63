"""What is left of a loss without one of its parts."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losssearch.controllers.registry import make_controller
from losssearch.language.canonical import candidate_key
from losssearch.language.drops import drops
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.language.signature import Role
from losssearch.spaces import load_space

SPACES = {name: load_space(name) for name in ("regression", "multiclass", "ranking")}


def program(body: str, space: str = "regression", **constants: float) -> Program:
    return parse(f"mean({body}, 'n')", SPACES[space].signature, constants)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("abs(r) + c*cos(r)", ["abs(r)", "c*cos(r)", "r + c*cos(r)", "abs(r) + cos(r)", "abs(r) + c*r"]),
        ("abs(r) - cos(r)", ["abs(r)", "-cos(r)", "r - cos(r)", "abs(r) - r"]),
        ("abs(r) / exp(r)", ["abs(r)", "1 / exp(r)", "r / exp(r)", "abs(r) / r"]),
        ("maximum(abs(r), c)", ["abs(r)", "maximum(r, c)"]),
        ("abs(r)**c", ["abs(r)", "r**c"]),
        ("c*square(r)", ["square(r)", "c*r"]),
        ("abs(r)", ["r"]),
        ("exp(-r)", ["-r"]),
    ],
)
def test_each_part_is_dropped_in_turn(body: str, left: list[str]) -> None:
    found = {candidate_key(drop.program) for drop in drops(program(body, c=0.5))}
    assert found == {candidate_key(program(text, c=0.5)) for text in left}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("-c*cos(r)", ["-cos(r)", "-c*r"]),
        ("(-c)*cos(r)", ["-cos(r)", "-c*r"]),
        ("cos(r)*-0.5", ["-cos(r)", "-0.5*r"]),
        ("below*cos(r)", ["-cos(r)", "below*r"]),
        ("-below*cos(r)", ["cos(r)", "-below*r"]),
        ("cos(r)/-c", ["-cos(r)", "r/-c"]),
        ("(-tanh(r))*cos(r)", ["-cos(r)", "-tanh(r)", "-(r*cos(r))", "-tanh(r)*r"]),
        ("abs(r) - c*cos(r)", ["abs(r)", "-c*cos(r)", "abs(r) - cos(r)", "r - c*cos(r)", "abs(r) - c*r"]),
        ("abs(r) + -c*cos(r)", ["abs(r)", "-c*cos(r)", "abs(r) - cos(r)", "r - c*cos(r)", "abs(r) - c*r"]),
    ],
)
def test_a_minus_sign_outlives_the_factor_that_holds_it(body: str, left: list[str]) -> None:
    constants = {"c": 0.5, "below": -2.0}
    found = {candidate_key(drop.program) for drop in drops(program(body, **constants))}
    assert found == {candidate_key(program(text, **constants)) for text in left}


def test_a_weighted_mean_may_lose_its_weight() -> None:
    found = drops(program("mean(square(score - rel), 's', valid)", "ranking"))
    plain = candidate_key(program("mean(square(score - rel), 's')", "ranking"))
    assert {d.what for d in found if candidate_key(d.program) == plain} == {"weight valid"}


def test_a_drop_says_what_was_dropped() -> None:
    whole = program("c*abs(r) + tanh(square(r))", c=0.5)
    found = {candidate_key(drop.program): drop.what for drop in drops(whole)}
    for left, what in (
        ("tanh(square(r))", "c * abs(r)"),
        ("c*abs(r)", "tanh(r**2)"),
        ("c*abs(r) + square(r)", "tanh(...)"),
        ("abs(r) + tanh(square(r))", "c"),
    ):
        assert found[candidate_key(program(left, c=0.5))] == what


@lru_cache
def random_programs(name: str, count: int) -> list[Program]:
    space = SPACES[name]
    start = [(s.name, s.program) for s in space.seeds]
    return [p.program for p in make_controller("random", space, start, 3).ask(len(start) + count)]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 39))
def test_every_drop_is_smaller_another_loss_and_speaks_of_prediction_and_target(name: str, i: int) -> None:
    whole = random_programs(name, 40)[i]
    inputs = SPACES[name].signature.inputs
    found = drops(whole)
    keys = [candidate_key(drop.program) for drop in found]
    assert len(set(keys)) == len(keys)
    assert candidate_key(whole) not in keys
    for drop in found:
        assert drop.program.size < whole.size
        roles = {inputs[n].role for n in drop.program.inputs}
        assert {Role.PREDICTION, Role.TARGET} <= roles
    assert [d.program.size for d in found] == sorted(d.program.size for d in found)
