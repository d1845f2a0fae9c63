"""Holds a loss of a space against a second way to compute it, in value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from losssearch.execution.reference import compiled, loss_gradient
from losssearch.language.program import Program
from losssearch.spaces import load_space

Inputs = Mapping[str, Tensor]


class Bench:
    """Values and gradients of the losses of one space, in double precision."""

    def __init__(self, space: str) -> None:
        self.space = load_space(space)

    def program(self, name: str, **constants: float) -> Program:
        """The loss with some constants set; ranges are widened if need be, to reach limits."""
        program = self.space.loss(name).program
        widened = tuple(
            replace(
                c,
                value=(value := float(constants.pop(c.name, c.value))),
                low=min(c.low, value),
                high=max(c.high, value),
            )
            for c in program.constants
        )
        assert not constants, f"{name} has no {constants}"
        return replace(program, constants=widened)

    def value(self, name: str, inputs: Inputs, **constants: float) -> Tensor:
        return compiled(self.program(name, **constants))(inputs)[0]

    def gradient(self, name: str, inputs: Inputs, wrt: str = "", **constants: float) -> Tensor:
        """By the derivative program, without autograd."""
        wrt = wrt or self.space.signature.predictions[0]
        return loss_gradient(self.program(name, **constants), wrt)(inputs)

    def agrees(
        self,
        name: str,
        inputs: Inputs,
        second_way: Callable[[Inputs], Tensor],
        rtol: float = 1e-9,
        **constants: float,
    ) -> None:
        """Value, autograd's gradient and the derivative program's, against the second way."""
        program = self.program(name, **constants)
        wrt = [n for n in self.space.signature.differentiable if n in program.inputs and n in inputs]
        mine = {n: x.clone().requires_grad_(n in wrt) for n, x in inputs.items()}
        other = {n: x.clone().requires_grad_(n in wrt) for n, x in inputs.items()}
        value, expected = compiled(program)(mine)[0], second_way(other)
        torch.testing.assert_close(value, expected, rtol=rtol, atol=rtol * 1e-3)
        slopes = torch.autograd.grad(value, [mine[n] for n in wrt])
        wanted = torch.autograd.grad(expected, [other[n] for n in wrt])
        for n, slope, want in zip(wrt, slopes, wanted, strict=True):
            torch.testing.assert_close(slope, want, rtol=rtol, atol=rtol * 1e-3)
            derived = loss_gradient(program, n)(inputs)
            torch.testing.assert_close(derived, want, rtol=rtol, atol=rtol * 1e-3)

    def same(
        self,
        name: str,
        inputs: Inputs,
        other: str,
        factor: float = 1.0,
        rtol: float = 1e-9,
        at: Mapping[str, float] | None = None,
        **constants: float,
    ) -> None:
        """`name` is `factor` times `other` (with the constants `at`), and so is its slope."""
        mine = self.value(name, inputs, **constants)
        torch.testing.assert_close(
            mine, factor * self.value(other, inputs, **(at or {})), rtol=rtol, atol=rtol
        )
        slope = self.gradient(name, inputs, **constants)
        torch.testing.assert_close(
            slope, factor * self.gradient(other, inputs, **(at or {})), rtol=rtol, atol=rtol
        )


@pytest.fixture(scope="session")
def multiclass() -> Bench:
    return Bench("multiclass")


@pytest.fixture(scope="session")
def binary() -> Bench:
    return Bench("binary")


@pytest.fixture(scope="session")
def regression() -> Bench:
    return Bench("regression")


@pytest.fixture(scope="session")
def segmentation() -> Bench:
    return Bench("segmentation")


@pytest.fixture(scope="session")
def boxes() -> Bench:
    return Bench("boxes")


@pytest.fixture(scope="session")
def ranking() -> Bench:
    return Bench("ranking")


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)
