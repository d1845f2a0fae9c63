"""The parser reads what it should, says what is wrong, and survives anything."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from losssearch.errors import FormulaError
from losssearch.language.formula import define, format_program, parse, parse_term
from tests.language.programs import SPACE

ALPHABET = "abcnxp_t019.+-*/()=,;<>'\"^ \t\n\\eE²٣λ∞\x00\U0001f600"


@settings(deadline=2000, max_examples=300)
@given(st.text(ALPHABET, max_size=60) | st.text(max_size=200))
@example("٣")
@example("-1e999")
@example("9" * 19_000)
@example("a" * 19_000)
@example("like(x, m=")
def test_any_text_is_a_program_or_a_formula_error(text: str) -> None:
    message = ""
    try:
        parse(text, SPACE)
    except FormulaError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "-" * 19_999,
        "(" * 9_999 + "1" + ")" * 9_999,
        "[" * 100_000,
        "log(" * 4_000 + "p" + ")" * 4_000,
        "2**" * 6_000 + "2",
        "1+" * 9_000 + "1",
        "x" * 1_000_000,
        "p_t+" * 250_000,
        "".join(f"a{i} = {'p_t' if not i else f'a{i - 1} + a{i - 1}'}; " for i in range(60)) + "a59",
        "where(" + "p_t > 0, " * 2_000 + "0)",
        "'" * 20_000,
        "mean(p_t, '" + "n " * 9_000 + "')",
        "é" * 20_000,
    ],
    ids=range(14),
)
def test_monstrous_text_is_refused_within_a_second(text: str) -> None:
    start = time.process_time()
    with pytest.raises(FormulaError):
        parse(text, SPACE)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("text", "says", "character"),
    [
        ("mean(-log(p_tt), 'n')", "did you mean 'p_t'", 11),
        ("mean(lgo(p_t), 'n')", "did you mean 'log'", 6),
        ("mean(p_t^2, 'n')", "Use ** for powers", 9),
        ("mean(p_t)", "For example mean(x, 'n')", 1),
        ("mean(max(p, 0), 'n')", "maximum(x, y)", 6),
        ("mean(p_t, 'c')", "has only the axes 'n'", 1),
        ("p_t", "Wrap it: mean(..., 'n')", 1),
        ("mean(p_t, 'n'", "expected ')'", 14),
        ("mean(p_t, 'n') p_t", "should end here", 16),
        ("mean(0 < p_t < 1, 'n')", "expected ')'", 14),
        ("mean(where(p_t, 1, 0), 'n')", "must be a mask", 6),
        ("mean(log(p_t, p_t), 'n')", "log takes 1 arguments", 6),
        ("mean(like(p_t, c='n'), 'c')", "no copy of", 6),
        ("mean(p_t, 'q')", "no axis is called 'q'", 1),
        ("mean(p_t, 'n', weight='n')", "takes no weight=", None),
        ("", "ends too early", 1),
    ],
)
def test_an_error_says_where_and_what_to_do(text: str, says: str, character: int | None) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text, SPACE)
    assert says in str(caught.value)
    if character is not None:
        assert f"at character {character}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("-p_t**2", "-(p_t**2)"),
        ("2**-1 * p_t", "(2**(-1)) * p_t"),
        ("p_t - p_t - p_t", "(p_t - p_t) - p_t"),
        ("p_t / p_t * p_t", "(p_t / p_t) * p_t"),
        ("2**p_t**p_t", "2**(p_t**p_t)"),
        ("-2 * p_t", "(-2) * p_t"),
        ("-2**p_t", "-(2**p_t)"),
        ("p_t + 1 > 2 * p_t", "(p_t + 1) > (2 * p_t)"),
        ("a = p_t + 1; a * a", "(p_t + 1) * (p_t + 1)"),
        ('sum(p, "c")', "sum(p, 'c')"),
    ],
)
def test_operators_bind_as_in_python(text: str, same: str) -> None:
    assert parse(text, SPACE, scalar=False) == parse(same, SPACE, scalar=False)


def test_what_a_definition_is_called_must_be_free() -> None:
    for name in ("logits", "n", "log", "2x", "a b", ""):
        with pytest.raises(FormulaError):
            define(SPACE, name, "p_t")


def test_constants_are_checked() -> None:
    for bad in (float("nan"), float("inf"), (5.0, 0.0, 1.0), "x", (1.0, 2.0)):
        with pytest.raises(FormulaError):
            parse("mean(k * p_t, 'n')", SPACE, {"k": bad})  # type: ignore[dict-item]
    with pytest.raises(FormulaError, match="name of an input"):
        parse("mean(p_t, 'n')", SPACE, {"logits": 1.0})
    program = parse("mean(k * p_t, 'n')", SPACE, {"k": (0.5, 0.0, 1.0)})
    assert program.with_constants({"k": 0.75}).constant("k").value == 0.75
    with pytest.raises(FormulaError, match="outside its range"):
        program.with_constants({"k": 2.0})
    with pytest.raises(FormulaError, match="did you mean 'k'"):
        program.with_constants({"kk": 0.5})


def test_numbers_are_read_back_as_they_were() -> None:
    for value in (1e-300, 0.1, 1 / 3, 123456789012345680.0, 1e15, 5e-324):
        program = parse(f"mean(p_t * {value!r}, 'n')", SPACE)
        assert parse(format_program(program), SPACE) == program


def test_positions_are_kept_for_errors_but_do_not_make_terms_differ() -> None:
    assert parse_term("a + b") == parse_term("  a  +  b ")
