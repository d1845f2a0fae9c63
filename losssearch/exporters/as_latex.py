"""A loss as LaTeX: the formula, what its names mean, a table of constants. Needs amsmath."""

from __future__ import annotations

from losssearch.exporters.sheet import Sheet, clean
from losssearch.language.formula import format_number
from losssearch.language.latex import definitions_to_latex, to_latex

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def render(sheet: Sheet) -> str:
    """Lines that stand in any document with amsmath."""
    program = sheet.program
    lines = [f"% {_comment(sheet.name)}, {sheet.key}"]
    if sheet.source:
        lines.append(f"% {_comment(sheet.source)}")
    lines += [r"\begin{align*}", rf"L &= {to_latex(program)}"]
    for name, text in definitions_to_latex(program).items():
        lines[-1] += r" \\"
        lines.append(rf"{name} &= {text}")
    lines.append(r"\end{align*}")
    if program.constants:
        lines += [r"\begin{tabular}{lrrr}", r"constant & value & low & high \\ \hline"]
        lines += [
            rf"{escaped(c.name)} & {_number(c.value)} & {_number(c.low)} & {_number(c.high)} \\"
            for c in program.constants
        ]
        lines.append(r"\end{tabular}")
    if sheet.source:
        lines.append(f"Source: {escaped(sheet.source)}")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text of a user as LaTeX that only prints it."""
    return "".join(_SPECIAL.get(c, c) for c in clean(text))


def _comment(text: str) -> str:
    return clean(text).replace("^^", "^ ^")  # ^^M would end the comment


def _number(value: float) -> str:
    return rf"${format_number(value)}$" if abs(value) < float("inf") else r"$\infty$"
