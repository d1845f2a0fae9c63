"""LaTeX says what the formula says."""

from __future__ import annotations

import pytest
import ziamath
from hypothesis import given

from losssearch.errors import FormulaError
from losssearch.language.canonical import canonical
from losssearch.language.formula import parse
from losssearch.language.latex import definitions_to_latex, to_latex
from losssearch.language.program import Program
from losssearch.spaces import load_space, space_names
from tests.language.programs import SPACE, programs
from tests.language.test_properties import relaxed


def latex(text: str, **constants: float) -> str:
    return to_latex(parse(text, SPACE, constants, scalar=False))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-log(p_t)", r"-\log p_{t}"),
        ("(1 - p_t)**2 * 3", r"\left(1 - p_{t}\right)^2 \cdot 3"),
        ("(-u)**2", r"\left(-u\right)^2"),
        ("-(u**2)", "-u^2"),
        ("u - (w - u)", r"u - \left(w - u\right)"),
        ("u + -w", "u - w"),
        ("u * -w", r"u \cdot \left(-w\right)"),
        ("-u * w", r"-u \cdot w"),
        ("log(u * w)", r"\log \left(u \cdot w\right)"),
        ("log(u)**2", r"\left(\log u\right)^2"),
        ("exp(u)**2", r"\left(e^{u}\right)^2"),
        ("sum(p, 'c') * u", r"\left(\sum_{c} p\right) \cdot u"),
        ("u * sum(p, 'c')", r"u \cdot \sum_{c} p"),
        ("sum(p + 1, 'c')", r"\sum_{c} \left(p + 1\right)"),
        ("mean(u, 'n', w)", r"\frac{\sum_{n} w \cdot u}{\sum_{n} w}"),
        ("max(logits, 'c', 1 - target)", r"\max_{c:\, 1 - y > 0} z"),
        ("u / (w + 1)", r"\frac{u}{w + 1}"),
        ("gamma * u**alpha", r"\gamma \cdot u^{\alpha}"),
        ("c0 * width", r"c_{0} \cdot \text{width}"),
        ("prior * 1e-6 + C", r"\pi \cdot 10^{-6} + C"),
        ("where(u > 0, -u, 2)", r"\begin{cases} -u & u > 0 \\ 2 & \text{otherwise} \end{cases}"),
    ],
)
def test_a_formula_reads_as_in_a_textbook(text: str, expected: str) -> None:
    assert latex(text, gamma=2.0, alpha=1.5, c0=1.0, width=1.0) == expected


def test_names_that_would_look_the_same_are_spelled_out() -> None:
    assert latex("prior * pi", pi=3.0) == r"\text{prior} \cdot \text{pi}"


def test_definitions_are_explained() -> None:
    program = parse("mean(-log(p_t), 'n')", SPACE)
    assert definitions_to_latex(program) == {
        "p_{t}": r"\sum_{c} y \cdot p",
        "p": r"e^{\log p}",
        r"\log p": r"\operatorname{log\,softmax}_{c}\left(z\right)",
    }


def test_what_nobody_can_read_is_refused() -> None:
    text = "a0 = p_t + u; " + "".join(f"a{i + 1} = a{i} * a{i} + 1; " for i in range(8))
    program = parse(text + "mean(a8, 'n')", SPACE)
    to_latex(program)
    huge = canonical(program)
    if huge.size > 2000:
        with pytest.raises(FormulaError):
            to_latex(huge)


@pytest.mark.parametrize("name", space_names())
def test_every_classical_loss_can_be_drawn(name: str) -> None:
    space = load_space(name)
    texts: set[str] = set()
    for loss in space.losses.values():
        for program in loss.candidate.parts.values():
            if len(whole := to_latex(program)) < 500:  # the typesetter takes many seconds for more
                texts.add(whole)
            if len(brief := to_latex(canonical(program))) < 150:
                texts.add(brief)
            texts |= {f"{a} = {b}" for a, b in definitions_to_latex(program).items()}
    for text in texts:
        assert ziamath.Latex(text).svg().startswith("<svg")


@relaxed
@given(programs(depth=3))
def test_braces_and_parentheses_are_balanced(program: Program) -> None:
    text = to_latex(program)
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") == text.count(r"\right")
