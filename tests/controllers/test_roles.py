"""The names that tell of rightness are found by moving predictions, not by what they are called."""

from __future__ import annotations

from losssearch.controllers.roles import rightness
from losssearch.language.formula import define
from losssearch.spaces import Space, load_space


def found(space: Space, *names: str) -> dict[str, int]:
    return rightness(space.signature, names, space.losses[space.reference].program)


def test_probability_log_probability_and_margin_rise_with_rightness() -> None:
    space = load_space("multiclass")
    names = ("p_t", "log_pt", "margin", "p", "prior", "target")
    assert found(space, *names) == {"p_t": 1, "log_pt": 1, "margin": 1}


def test_a_residual_shrinks() -> None:
    assert found(load_space("regression"), "r", "pred", "progress") == {"r": 2}


def test_what_falls_is_wrongness() -> None:
    space = load_space("multiclass")
    signature = define(space.signature, "wrong", "1 - p_t")
    reference = space.losses[space.reference].program
    assert rightness(signature, ["wrong"], reference) == {"wrong": -1}
