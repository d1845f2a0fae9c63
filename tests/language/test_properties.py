"""Laws that hold for every formula."""

from __future__ import annotations

import pickle

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from losssearch.execution.reference import Compiled
from losssearch.language.bounds import bounds
from losssearch.language.canonical import candidate_key, canonical, structure_key
from losssearch.language.formula import format_program, parse
from losssearch.language.program import Program
from tests.language.programs import (
    CONSTANTS,
    SPACE,
    Unguarded,
    autograd,
    expanded,
    inputs,
    programs,
    slopes,
)

relaxed = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
    max_examples=100,
)
GIVEN = {c.name: c for c in CONSTANTS}


@relaxed
@given(programs())
def test_parsing_what_was_printed_gives_the_same_program(program: Program) -> None:
    assert parse(format_program(program), SPACE, GIVEN) == program


@relaxed
@given(programs())
def test_the_canonical_form_is_its_own_canonical_form(program: Program) -> None:
    once = canonical(program)
    assert canonical(once) == once
    assert candidate_key(once) == candidate_key(program)
    assert structure_key(once) == structure_key(program)


def _tame(program: Program, index: int, given_inputs: dict[str, torch.Tensor]) -> bool:
    """Whether a value on the way needs no guard and is not so large that digits are lost."""
    step = Program(program.signature, program.instructions, (index,), program.constants)
    [a], [b] = Compiled(step, plain=False)(given_inputs), Unguarded(step)(given_inputs)
    a, b = a.double(), b.double()
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12) and bool(a.abs().max() < 1e6)


@relaxed
@given(programs(), st.integers(0, 3), st.sampled_from([0.1, 2.0, 10.0]), st.booleans())
def test_the_canonical_form_has_the_written_value(
    program: Program, seed: int, scale: float, soft: bool
) -> None:
    written = expanded(program)
    given_inputs = inputs(seed, scale, soft)
    [value] = Compiled(written, plain=False)(given_inputs)
    [bare] = Unguarded(written)(given_inputs)
    assume(torch.isfinite(bare) and torch.allclose(value, bare, rtol=1e-9, atol=1e-12))
    assume(all(_tame(written, i, given_inputs) for i in range(len(written.instructions))))
    [ours] = Compiled(canonical(program), plain=False)(given_inputs)
    assert torch.allclose(ours, value, rtol=1e-6, atol=1e-6)


@relaxed
@given(programs(), st.integers(0, 3), st.sampled_from([1.0, 30.0, 100.0]), st.booleans())
def test_the_gradient_program_equals_autograd(program: Program, seed: int, scale: float, soft: bool) -> None:
    """Where autograd itself has digits left: single precision shows the same, or both are small."""
    given_inputs, names = inputs(seed, scale, soft), ("logits", "u")
    single = {n: v.float() if v.is_floating_point() else v for n, v in given_inputs.items()}
    expected, rough = (autograd(canonical(program), given, names) for given in (given_inputs, single))
    for ours, theirs, near in zip(slopes(program, given_inputs, names), expected, rough, strict=True):
        assume(bool(torch.isfinite(theirs).all()))
        size = theirs.abs().max()
        assume(size < 1e6 or bool((theirs - near).abs().max() < 0.1 * size < 1e11))
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=float(1e-9 + 1e-9 * size))


@relaxed
@given(programs(depth=3), st.integers(0, 3), st.sampled_from([1.0, 100.0]))
def test_skipping_a_proven_guard_changes_nothing(program: Program, seed: int, scale: float) -> None:
    given_inputs = inputs(seed, scale)
    [plain] = Compiled(canonical(program), plain=True)(given_inputs)
    [guarded] = Compiled(canonical(program), plain=False)(given_inputs)
    assume(bool(guarded.double().abs() < 1e12))
    assert torch.allclose(plain.double(), guarded.double(), rtol=1e-9, atol=1e-9)


@relaxed
@given(programs(depth=3))
def test_bounds_hold_on_the_operating_range(program: Program) -> None:
    once = canonical(program)
    found = bounds(once)
    given_inputs = inputs(0, scale=5.0)
    for i in range(len(once.instructions)):
        step = Program(once.signature, once.instructions, (i,), once.constants)
        [value] = Compiled(step, plain=False)(given_inputs)
        value = value.double()
        slack = 1e-9 * (1 + value.abs())
        assert bool((value >= found[i].low - slack).all())
        assert bool((value <= found[i].high + slack).all())


@relaxed
@given(programs(depth=3))
def test_a_program_survives_pickling(program: Program) -> None:
    assert pickle.loads(pickle.dumps(program)) == program
