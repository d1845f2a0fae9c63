"""The numerical gradient check finds wrong slopes wherever they are, and forgives kinks."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.testing import CHECKS, GROUPS, Verdict, check_loss, check_named, lines_of


def gradcheck(loss: type[nn.Module] | str, task: str = "regression"):
    if isinstance(loss, str):
        return check_named(loss, only=["gradcheck"]).rows[0]
    return check_loss(loss, task, only=["gradcheck"]).rows[0]


class Squares(nn.Module):
    def each(self, r: Tensor) -> Tensor:
        return r * r

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.each(x - target).mean()


class CutGradient(Squares):
    """The value goes on beyond 15 and its gradient does not, as with a clamp in the backward pass."""

    def each(self, r: Tensor) -> Tensor:
        return torch.where(r.abs() < 15, r * r, (r * r).detach())


class WrongAtZero(Squares):
    """r**2, with the slope of 3r at a residual of exactly 0."""

    def each(self, r: Tensor) -> Tensor:
        return torch.where(r == 0, 3 * r, r * r)


class NanAtZero(Squares):
    def each(self, r: Tensor) -> Tensor:
        return (r * r).sqrt()


class Learned(Squares):
    """A learned exponent; `halved` gives it half of its gradient."""

    halved = False

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5))

    def each(self, r: Tensor) -> Tensor:
        power = (self.power + self.power.detach()) / 2 if self.halved else self.power
        return (r * r + 0.1) ** power


class HalfLearned(Learned):
    halved = True


class Tilted(Squares):
    """-r below 0 and 3r above: at 0 any slope from -1 to 3 is right; torch takes 0."""

    def each(self, r: Tensor) -> Tensor:
        return (-r).relu() + 3 * r.relu()


def test_a_right_gradient_is_told_with_how_well_it_agrees() -> None:
    row = gradcheck(Squares)
    assert row.verdict is Verdict.PASSED
    count, worst = row.detail.split(" slopes agree with differences to ")
    assert int(count) == 7 * 6  # seven batches of six entries
    assert float(worst.split()[0]) < 1e-8


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (CutGradient, "predictions of about 8: at input[2] = -17.43 the gradient is -0"),
        (WrongAtZero, "predictions on the target: at input[0]"),
        (NanAtZero, "the gradient is nan"),
        (HalfLearned, "the learned constant power = 1.5"),
    ],
)
def test_a_wrong_gradient_is_found_where_it_is(loss, says: str) -> None:
    """Ordinary predictions do not show it: torch's own check passes."""
    x, target = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = loss().double()
    assert torch.autograd.gradcheck(lambda z: module(z, target), (x.requires_grad_(),))
    row = gradcheck(loss)
    assert row.verdict is Verdict.FAILED
    assert says in row.detail


def test_a_gradient_wrong_everywhere_is_told_with_both_numbers() -> None:
    class Doubled(Squares):
        def each(self, r: Tensor) -> Tensor:
            return 2 * r * r - (r * r).detach()

    detail = gradcheck(Doubled).detail
    found = re.fullmatch(
        r".*: at input\[0\] = \S+ the gradient is (\S+), but the value's slope (\S+)\.", detail
    )
    assert found, detail
    assert float(found[1]) == pytest.approx(2 * float(found[2]), rel=1e-4)  # as printed


def test_a_learned_constant_is_checked_too() -> None:
    assert gradcheck(Learned).detail.startswith(f"{7 * 6 + 1} slopes")


def test_any_slope_between_both_sides_is_right_at_a_kink() -> None:
    row = gradcheck(Tilted)
    assert row.verdict is Verdict.PASSED
    assert "6 at kinks lie between the slopes of both sides" in row.detail  # all residuals 0
    assert "kinks" in gradcheck("binary/hinge").detail
    assert "kinks" not in gradcheck("focal").detail


def test_any_module_that_python_can_import_is_checked() -> None:
    assert check_named("torch.nn:HuberLoss", task="regression", only=lines_of("gradients")).passed
    assert check_named("binary/focal", only=lines_of("gradients")).loss == "binary/focal"


def test_the_groups_hold_every_line_once() -> None:
    assert [name for names in GROUPS.values() for name in names] == list(CHECKS)
    assert lines_of("gradients, call") == ["gradcheck", "gradgradcheck", "call"]


def test_the_page_marks_what_failed_and_tells_it_again() -> None:
    page = check_loss(CutGradient, "regression", only=["call", "gradcheck", "soft_targets"]).as_text()
    lines = page.splitlines()
    assert lines[0] == "CutGradient (regression)"
    assert any(line.startswith("  ok    call") for line in lines)
    assert any(line.startswith("  FAIL  gradcheck") for line in lines)
    assert any(line.startswith("   -    soft_targets") for line in lines)
    assert lines[-1] == "1 passed, 1 failed, 1 not applicable. Failed: gradcheck."
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: check_named("no_such.py"), "no such file"),
        (lambda: check_named("focl"), "Did you mean 'focal'"),
        (lambda: check_named("torch.nn:Hubert"), "no class 'Hubert'"),
        (lambda: check_named("torch.nn:functional"), "no class 'functional'"),
        (lambda: check_named("no.such.module:Loss"), "importing 'no.such.module' raised"),
        (lambda: check_named("torch.nn:Linear"), "needs arguments"),
        (lambda: check_named("focal", "Focal"), "only in a Python file"),
        (lambda: lines_of("gradient"), "There are the groups calls and targets, arguments"),
    ],
)
def test_a_mistake_is_one_line(call, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
