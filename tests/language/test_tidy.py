"""Tidying takes words out and keeps the loss."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losssearch.execution.reference import Compiled
from losssearch.language.canonical import canonical
from losssearch.language.draws import Draws
from losssearch.language.formula import format_program, parse
from losssearch.language.program import Program
from losssearch.language.sampling import Sampler
from losssearch.language.tidy import tidied
from losssearch.screening.probes import stratified
from losssearch.spaces import load_space
from tests.language.programs import expanded

SPACES = ("multiclass", "binary", "regression")


@cache
def sampler(name: str) -> Sampler:
    return Sampler(load_space(name).grammar)


@st.composite
def proposals(draw: st.DrawFn) -> tuple[str, Program]:
    """What the sampler proposes, in either of its ways."""
    name = draw(st.sampled_from(SPACES))
    grown = sampler(name)
    draws = Draws.counted(draw(st.integers(0, 2**31)), 0)
    return name, grown.free(draws) if draw(st.booleans()) else grown.by_role(draws)


def value(program: Program) -> torch.Tensor:
    with torch.no_grad():
        probes = stratified(program.signature)
        [found] = Compiled(expanded(program))(probes.inputs)
        return found.expand(probes.inputs[program.signature.predictions[0]].shape[0])


@settings(deadline=None, max_examples=150)
@given(proposals())
def test_tidying_keeps_the_loss_and_its_text_is_no_longer(proposal: tuple[str, Program]) -> None:
    _, program = proposal
    tidy = tidied(program)
    assert tidy.size <= program.size
    assert set(tidy.constants) <= set(program.constants)
    # Where a guard works, as in sqrt(0), a simpler spelling may differ; what runs is the canonical program.
    wanted = value(canonical(program))
    torch.testing.assert_close(value(canonical(tidy)), wanted, rtol=1e-6, atol=1e-9, equal_nan=True)


@settings(deadline=None, max_examples=100)
@given(proposals())
def test_what_is_tidy_stays_and_can_be_read_back(proposal: tuple[str, Program]) -> None:
    name, program = proposal
    tidy = tidied(program)
    named = {c.name: c for c in tidy.constants}
    assert parse(format_program(tidy), load_space(name).signature, named) == tidy
    assert tidied(tidy).size <= tidy.size


@pytest.mark.parametrize(
    ("written", "tidy"),
    [
        ("mean(-(-(log_pt)), 'n')", "mean(log_pt, 'n')"),
        ("mean(log_pt / 1, 'n')", "mean(log_pt, 'n')"),
        ("mean(p_t + -log_pt, 'n')", "mean(p_t - log_pt, 'n')"),
        ("mean(-log_pt, 'n')", "-mean(log_pt, 'n')"),
    ],
)
def test_how_a_person_would_write_it(written: str, tidy: str) -> None:
    signature = load_space("multiclass").signature
    assert tidied(parse(written, signature)).text == tidy


@pytest.mark.parametrize("name", SPACES)
def test_the_classical_losses_keep_their_values(name: str) -> None:
    for loss in load_space(name).losses.values():
        torch.testing.assert_close(value(tidied(loss.program)), value(loss.program))
