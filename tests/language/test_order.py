"""Words that look at the order of elements: sorting, cumulative sums, differences, and their slopes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losssearch.errors import FormulaError
from losssearch.execution.reference import Compiled, evaluate
from losssearch.language.canonical import canonical
from losssearch.language.draws import Draws
from losssearch.language.facts import Verdict, facts
from losssearch.language.formula import format_program, parse
from losssearch.language.grammar import Grammar
from losssearch.language.heads import Coupled, Split, split
from losssearch.language.latex import to_latex
from losssearch.language.sampling import Sampler
from losssearch.language.signature import Input, Role, Signature
from tests.language.programs import slopes

TABLE = Signature(
    ("n", "s", "k"),
    {
        "x": Input("x", ("n", "s"), Role.PREDICTION, -5, 5),
        "y": Input("y", ("n", "s"), Role.PREDICTION, -5, 5),
        "t": Input("t", ("n", "s"), Role.TARGET, 0, 1),
        "w": Input("w", ("s",), Role.PROVIDED),
        "one": Input("one", ("n",), Role.PREDICTION),
    },
    {"k": "s"},
)


def data(n: int = 3, s: int = 5, seed: int = 0, *, ties: bool = False) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    y = draw(n, s)
    t = (torch.rand(n, s, generator=g) > 0.5).double()
    return {"x": draw(n, s), "y": y.round() if ties else y, "t": t, "w": draw(s), "one": draw(n)}


def sorted_by(x: list[float], key: list[float]) -> list[float]:
    return [x[i] for i in sorted(range(len(x)), key=lambda i: (-key[i], i))]


def unsorted_by(x: list[float], key: list[float]) -> list[float]:
    order = sorted(range(len(x)), key=lambda i: (-key[i], i))
    return [x[order.index(i)] for i in range(len(x))]


def summed(x: list[float], key: list[float]) -> list[float]:
    return [sum(x[: i + 1]) for i in range(len(x))]


def differences(x: list[float], key: list[float]) -> list[float]:
    return [a - b for a, b in zip(x, [0.0, *x], strict=False)]


LOOPS = {
    "sort_by(x, y, 's')": sorted_by,
    "unsort_by(x, y, 's')": unsorted_by,
    "cumsum(x, 's')": summed,
    "diff(x, 's')": differences,
    "flip(x, 's')": lambda x, key: x[::-1],
}


@pytest.mark.parametrize("text", LOOPS)
@pytest.mark.parametrize("ties", [False, True])
def test_each_is_a_loop_over_the_axis(text: str, ties: bool) -> None:
    given = data(ties=ties)
    program = parse(text, TABLE, scalar=False)
    rows = zip(given["x"].tolist(), given["y"].tolist(), strict=True)
    expected = torch.tensor([LOOPS[text](x, key) for x, key in rows], dtype=torch.float64)
    for one in (program, canonical(program)):
        torch.testing.assert_close(Compiled(one)(given)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("text", LOOPS)
def test_an_axis_of_none_or_one_is_defined(text: str, size: int) -> None:
    given = data(s=size)
    [value] = Compiled(parse(text, TABLE, scalar=False))(given)
    assert torch.equal(value, given["x"])


@pytest.mark.parametrize("text", LOOPS)
def test_the_slope_and_the_slope_of_the_slope_are_those_of_autograd(text: str) -> None:
    program = parse(f"sum(sin({text}) * w, 'n s')", TABLE)
    given = data(seed=4)
    x = given["x"].clone().requires_grad_()
    [slope] = torch.autograd.grad(evaluate(program, {**given, "x": x}), x, create_graph=True)
    [ours] = slopes(program, given, ("x",))
    torch.testing.assert_close(ours, slope.detach(), rtol=1e-12, atol=1e-12)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    [second] = torch.autograd.grad(slope, x, direction)
    step = 1e-6
    [above] = slopes(program, {**given, "x": given["x"] + step * direction}, ("x",))
    [below] = slopes(program, {**given, "x": given["x"] - step * direction}, ("x",))
    torch.testing.assert_close((above - below) / (2 * step), second, rtol=1e-6, atol=1e-8)


def test_sorting_is_undone() -> None:
    given = data(seed=2, ties=True)
    [back] = Compiled(parse("unsort_by(sort_by(x, y, 's'), y, 's')", TABLE, scalar=False))(given)
    assert torch.equal(back, given["x"])


def test_no_gradient_flows_into_a_key() -> None:
    [slope] = slopes(parse("sum(sort_by(x, y, 's') * w, 'n s')", TABLE), data(), ("y",))
    assert torch.equal(slope, torch.zeros_like(slope))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cumsum(2 + 0 * x, 's')", lambda g: 2 * torch.arange(1.0, 6, dtype=torch.float64).expand(3, 5)),
        ("diff(one + 0 * x, 's')", lambda g: torch.stack([g["one"], *[0 * g["one"]] * 4], 1)),
        ("sort_by(one + 0 * x, 3 + 0 * y, 's')", lambda g: g["one"][:, None].expand(3, 5)),
        ("flip(one + 0 * x, 's')", lambda g: g["one"][:, None].expand(3, 5)),
        ("cumsum(0 * x, 's')", lambda g: 0 * g["x"]),
        ("like(cumsum(like(2 + 0 * x, k='s'), 'k'), s='k')",
         lambda g: 2 * torch.arange(1.0, 6, dtype=torch.float64).expand(3, 5)),
    ],
)  # fmt: skip
def test_an_axis_that_simplifying_takes_away_still_counts(text: str, expected) -> None:
    given = data()
    value = evaluate(parse(f"dot(dot({text}, w, 's'), one, 'n')", TABLE), given)
    wanted = (expected(given) * given["w"]).sum(1) @ given["one"]
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


def test_a_plain_sum_of_a_cumulative_sum_has_the_slope_of_a_count() -> None:
    [slope] = slopes(parse("sum(cumsum(x, 's'), 'n s')", TABLE), data(), ("x",))
    assert slope.tolist() == [[5, 4, 3, 2, 1]] * 3


@pytest.mark.parametrize("text", [*LOOPS, "sort_by(x, w, 's')", "sort_by(one, y, 's')"])
def test_it_reads_back_and_has_a_textbook_form(text: str) -> None:
    program = parse(f"sum({text}, 'n s')", TABLE)
    assert parse(format_program(program), TABLE) == program
    assert r"_{s}" in to_latex(program)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cumsum(x, 'n s')", "cumsum works along one axis, but got 'n s'"),
        ("flip(x, 'n s')", "flip works along one axis"),
        ("sort_by(x, y, 'n s')", "sort_by works along one axis"),
        ("diff(one, 's')", "diff over 's', but its argument has only the axes 'n'"),
        ("sort_by(x, 's')", "sort_by takes 2 arguments, but got 1"),
        ("sort_by(x, y)", "sort_by needs the axes that it works over"),
        ("like(x, s='k')", "Name the new axis first: like(x, k='s')"),
    ],
)
def test_what_makes_no_sense_is_told(text: str, words: str) -> None:
    with pytest.raises(FormulaError, match=words.replace("(", r"\(").replace(")", r"\)")):
        parse(text, TABLE, scalar=False)


def test_along_positions_each_sample_is_its_own_and_along_samples_it_is_coupled() -> None:
    assert isinstance(split(parse("mean(sum(cumsum(square(x), 's'), 's'), 'n')", TABLE)), Split)
    coupled = split(parse("mean(cumsum(one, 'n'), 'n')", TABLE))
    assert isinstance(coupled, Coupled)
    assert "'cumsum' over the samples" in coupled.why


def test_convexity_goes_through_sums_but_not_through_differences() -> None:
    def convex(text: str) -> Verdict:
        return facts(parse(f"sum({text}, 'n s')", TABLE)).convex.verdict

    assert convex("cumsum(square(x), 's')") is Verdict.PROVED
    assert convex("flip(square(x), 's')") is Verdict.PROVED
    assert convex("diff(x, 's')") is Verdict.PROVED
    assert convex("diff(square(x), 's')") is Verdict.UNKNOWN
    assert convex("sort_by(square(x), y, 's')") is Verdict.UNKNOWN
    assert "sort_by" in facts(parse("sum(sort_by(x, y, 's') * w, 'n s')", TABLE)).kinks


def test_what_looks_at_the_order_is_not_proved_to_be_free_of_it() -> None:
    def equivariant(text: str) -> Verdict:
        return facts(parse(text, TABLE)).equivariant.verdict

    assert equivariant("mean(square(x - t), 'n s')") is Verdict.PROVED
    assert equivariant("mean(square(cumsum(x - t, 's')), 'n s')") is Verdict.UNKNOWN


def test_a_search_may_grow_them() -> None:
    sets = frozenset(TABLE.axes_of(axes) for axes in ("", "n", "n s"))
    words = ["sort_by", "unsort_by", "cumsum", "diff", "flip"]
    primitives = dict.fromkeys(["add", "mul", "sum", *words], 1.0)
    grammar = Grammar(TABLE, primitives, ("x", "y", "t", "one"), sets, 20, 8, "mean(body, 'n')")
    sampler = Sampler(grammar)
    grown = [sampler.free(Draws.counted(0, k)) for k in range(200)]
    assert {step.op for program in grown for step in program.instructions} >= set(words)
    given = data()
    assert all(evaluate(program, given).isfinite() for program in grown)


@pytest.mark.parametrize("text", LOOPS)
def test_a_population_is_each_of_its_members(text: str) -> None:
    program = parse(f"sum({text} * w, 'n s')", TABLE)
    many = [data(seed=k, ties=True) for k in range(3)]
    stacked = {name: torch.stack([one[name] for one in many]) for name in many[0]}
    values = [evaluate(program, one) for one in many]
    assert torch.equal(evaluate(program, stacked), torch.stack(values))
