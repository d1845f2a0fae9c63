"""Along its walk a loss has the value, slope and curvature that a dumb calculation gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from losssearch.catalogue import everything, find, with_constants
from losssearch.insight.profile import profile, slopes
from losssearch.insight.walk import CLASSES, Walk, no_walk, walk_of
from losssearch.spaces import load_space

P = (0.001, 0.1, 0.5, 0.7, 0.9, 0.99)


def program(name: str, space: str, **constants: float):
    return with_constants(find(name, space)[1], constants)


def softmax_loss(each: Callable[[float], float]) -> Callable[[float], float]:
    """Of the true logit, with the other nine at 0: a function of the true probability."""
    return lambda z: each(math.exp(z) / (math.exp(z) + CLASSES - 1))


def sigmoid_loss(each: Callable[[float], float]) -> Callable[[float], float]:
    return lambda m: each(1 / (1 + math.exp(-m)))


CASES = [
    ("multiclass", "cross_entropy", {}, softmax_loss(lambda p: -math.log(p))),
    ("multiclass", "focal", {}, softmax_loss(lambda p: -0.25 * (1 - p) ** 2 * math.log(p))),
    ("multiclass", "mae", {}, softmax_loss(lambda p: 2 * (1 - p))),
    ("multiclass", "brier", {}, softmax_loss(lambda p: (1 - p) ** 2 + (1 - p) ** 2 / 9)),
    ("multiclass", "gce", {}, softmax_loss(lambda p: (1 - p**0.7) / 0.7)),
    ("binary", "bce", {}, sigmoid_loss(lambda p: -math.log(p))),
    ("binary", "exponential", {}, lambda m: math.exp(-m)),
    ("binary", "savage", {}, sigmoid_loss(lambda p: (1 - p) ** 2)),
    ("regression", "mse", {}, lambda r: r * r),
    ("regression", "cauchy", {"c": 2.0}, lambda r: math.log1p((r / 2) ** 2 / 2)),
    ("regression", "log_cosh", {}, lambda r: math.log(math.cosh(r))),
]


@pytest.mark.parametrize(("space", "name", "constants", "value"), CASES, ids=[c[1] for c in CASES])
def test_value_slope_and_curvature_are_those_of_plain_differences(space, name, constants, value) -> None:
    walk = Walk(space)
    x = [-4.0, -0.7, 0.3, 2.5] if space == "regression" else [walk.at_probability(p) for p in P]
    found = profile(program(name, space, **constants), walk, x)
    h = 1e-3
    for i, at in enumerate(x):
        up, middle, down = value(at + h), value(at), value(at - h)
        assert found.value[i] == pytest.approx(middle, rel=1e-9, abs=1e-12)
        assert found.slope[i] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-7)
        assert found.curvature[i] == pytest.approx((up - 2 * middle + down) / h**2, rel=1e-4, abs=1e-6)


def test_a_negative_walks_the_other_way_with_its_own_weight() -> None:
    focal = program("focal", "binary")
    yes, no = (profile(focal, Walk("binary", positive=side), [-1.0, 2.0]) for side in (True, False))
    for a, b in zip(
        (*yes.value, *yes.slope, *yes.curvature), (*no.value, *no.slope, *no.curvature), strict=True
    ):
        assert b == pytest.approx(3 * a)  # alpha is .25 and .75


def test_the_slopes_alone_are_those_of_the_profile() -> None:
    for space, loss in everything():
        one = loss.candidate.is_one and not no_walk(loss.program, space)
        if one and space.task != "regression":
            walk, x = walk_of(loss.program, space), [-3.0, 0.4, 3.0]
            assert slopes(loss.program, walk, x) == profile(loss.program, walk, x).slope


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_a_probability_has_one_place(task: str, p: float) -> None:
    assert Walk(task).probability(Walk(task).at_probability(p)) == pytest.approx(p)


def test_a_loss_without_a_prediction_has_no_walk_and_says_why() -> None:
    space, loss = find("l2_regulariser")
    assert "does not read the prediction 'pred'" in no_walk(loss.program, space)


def test_every_task_but_three_says_in_one_line_that_no_profile_exists() -> None:
    shapes = {"multiclass", "binary", "regression"}
    for space, loss in everything():
        if not loss.candidate.is_one:
            continue
        why = no_walk(loss.program, space)
        if space.task not in shapes:
            assert f"No one-dimensional profile exists for the task {space.task!r}" in why
            assert "\n" not in why
        elif loss.name not in {"l1_regulariser", "l2_regulariser"}:
            assert why == ""
    assert load_space("binary").task in shapes
