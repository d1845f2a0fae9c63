"""The curves are those of the loss, and a formula looks the same whoever else is drawing."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from dashboards import formulas
from dashboards.charts import Line, chart, ticks
from dashboards.curves import CLASSES, WALKS, charts, chosen, reference
from losssearch.language.formula import parse
from losssearch.language.latex import to_latex
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import load_space, space_names


def test_cross_entropy_pulls_with_one_less_the_probability() -> None:
    space = load_space("multiclass")
    scale = gradient_scale(space.losses["cross_entropy"].program, space)
    trace = reference(space, "cross_entropy")
    p = [math.exp(x) / (math.exp(x) + CLASSES - 1) for x in trace.x]
    assert trace.slope == pytest.approx([scale * (1 - q) for q in p])
    assert trace.value == pytest.approx([scale * (math.log(p[-1]) - math.log(q)) for q in p])


def test_hinge_pulls_until_its_margin() -> None:
    space = load_space("binary")
    scale = gradient_scale(space.losses["hinge"].program, space)
    trace = reference(space, "hinge")
    assert trace.slope == pytest.approx([scale * (x < 1) for x in trace.x], abs=1e-9)


def test_squared_error_rises_with_the_square_of_the_residual() -> None:
    space = load_space("regression")
    scale = gradient_scale(space.losses["mse"].program, space)
    trace = reference(space, "mse")
    assert trace.value == pytest.approx([scale * x * x for x in trace.x], abs=1e-12)
    assert trace.slope == pytest.approx([scale * 2 * x for x in trace.x], abs=1e-12)


@pytest.mark.parametrize("name", WALKS)
def test_every_loss_stands_beside_three_or_four_others(name: str) -> None:
    space = load_space(name)
    for loss in space.losses.values():
        others = chosen(space, loss.program)
        assert 3 <= len(others) <= 4
        assert loss.name not in others


def test_a_loss_without_a_number_anywhere_has_curves_of_the_others_only() -> None:
    space = load_space("regression")
    drawn = charts(parse("mean(log(r - r) / (r - r), 'n')", space.signature), space, math.nan)
    assert all(c.lines for c in drawn)


def test_a_loss_that_reads_no_prediction_has_no_curves() -> None:
    space = load_space("regression")
    assert charts(space.losses["l2_regulariser"].program, space, None) == []


def test_another_task_is_drawn_along_the_lines_of_its_space() -> None:
    space = load_space("boxes")
    program = space.loss("giou").program
    found = charts(program, space, 1.0)
    moved = [line.title for name, line in space.lines.items() if name != "logit"]  # it reads no class
    assert [c.title for c in found] == [f"{of}: {m}" for m in moved for of in ("Value", "Gradient")]
    assert all("this loss" in [line.label for line in c.legend] and len(c.legend) == 5 for c in found)
    gradient = dict(found[1].lines[-1][0].points)
    assert gradient[min(gradient, key=lambda x: abs(x - 3))] == pytest.approx(0.16, abs=0.01)


def test_marks_on_an_axis_are_round_and_inside() -> None:
    assert ticks(-8, 10, 9) == [-8, -6, -4, -2, 0, 2, 4, 6, 8, 10]
    assert ticks(0.412, 0.598, 5) == pytest.approx([0.45, 0.5, 0.55])
    assert ticks(1e-9, 3e-9, 2) == pytest.approx([1e-9, 2e-9, 3e-9])


def test_one_point_and_points_without_numbers_are_drawn_or_left_out() -> None:
    assert chart("t", [Line("a", [(1.0, 2.0)], "own")], "x", "y") is not None
    assert chart("t", [Line("a", [(1.0, math.nan)], "own")], "x", "y") is None
    broken = chart("t", [Line("a", [(0, 0), (1, math.inf), (2, 1), (3, 2)], "own")], "x", "y")
    assert broken is not None
    assert broken.lines[0][1].count("M") == 2


def test_formulas_drawn_at_the_same_time_look_as_if_drawn_alone() -> None:
    losses = list(load_space("multiclass").losses.values())[:8]
    latex = [to_latex(loss.program) for loss in losses]
    formulas.svg.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(formulas.svg, latex))
    formulas.svg.cache_clear()
    assert together == [formulas.svg(words) for words in latex]


@pytest.mark.parametrize("name", space_names())
def test_every_classical_formula_can_be_drawn_at_a_sensible_height(name: str) -> None:
    for loss in load_space(name).losses.values():
        for program in loss.candidate.parts.values():
            latex = to_latex(program)
            drawn = formulas.svg(latex)
            assert (drawn is None) == (len(latex) > formulas.LONGEST), loss.name
            if drawn is None:
                continue
            height = float(drawn.split('height="')[1].split('"')[0])
            assert 15 < height < 200, loss.name


def test_what_cannot_be_drawn_is_left_to_the_text() -> None:
    assert formulas.svg(r"\frac{") is None
    assert formulas.picture(r"\nosuchthing{\left(") is None


def test_numbers_are_short() -> None:
    assert [formulas.number(x) for x in (0.43069, -0.5, 1e-7, 12, 2000, None, math.nan)] == [
        "0.4307", "−0.5000", "1e−07", "12", "2,000", "–", "–",
    ]  # fmt: skip
