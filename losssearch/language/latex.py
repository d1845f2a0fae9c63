r"""How does a textbook write this loss?

Printed from the rows' LaTeX templates, one instruction after the other. Each text carries how
tightly it binds, and a place that binds tighter puts parentheses around it. Definitions stand as
names (`p_{t}`); what they mean is in `definitions_to_latex`. Guards are not shown: `primitives` has
what happens beyond them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from losssearch.errors import FormulaError
from losssearch.language.formula import format_number
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import MAX_NODES, Instruction, Program, program_of
from losssearch.language.signature import Kind
from losssearch.language.term import CONSTANT, DEFINED, INPUT, LITERAL, SIZE

# How tightly a text binds, loosest first. OPEN is an operator that takes all that follows, such as
# a sum sign.
COMPARED, ADDED, OPEN, MULTIPLIED, RAISED, ATOM = range(6)

# Operators: how their text binds, and what each argument must at least bind like. All other rows
# follow from their template: an argument in braces or parentheses may be anything, a bare one must
# be an atom.
_BINDINGS: dict[str, tuple[int, tuple[int, ...]]] = {
    "add": (ADDED, (ADDED, OPEN)),
    "sub": (ADDED, (ADDED, OPEN)),
    "neg": (ADDED, (OPEN,)),
    "mul": (MULTIPLIED, (MULTIPLIED, OPEN)),
    "dot": (OPEN, (MULTIPLIED, OPEN)),
    "where": (OPEN, (COMPARED, COMPARED, COMPARED)),
}
for _op in ("greater", "greater_equal", "less", "less_equal", "equal"):
    _BINDINGS[_op] = (COMPARED, (ADDED, ADDED))

_WEIGHTED = {
    "sum": r"\sum_{{{axes}}} {w} \cdot {x}",
    "mean": r"\frac{{\sum_{{{axes}}} {w} \cdot {x}}}{{\sum_{{{axes}}} {w}}}",
    "logsumexp": r"\log\sum_{{{axes}}} {w} \cdot e^{{{raw}}}",
    "max": r"\max_{{{axes}:\, {mask}}} {x}",
    "min": r"\min_{{{axes}:\, {mask}}} {x}",
}

_GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|"
    "upsilon|phi|chi|psi|omega"
)
_USUAL = {
    "logits": "z",
    "logit": "z",
    "target": "y",
    "pred": r"\hat{y}",
    "prior": r"\pi",
    "lambda_": r"\lambda",
    "eps": r"\epsilon",
}


class _Text(NamedTuple):
    latex: str
    binding: int
    opposite: _Text | None = None  # the same without its leading minus sign, where it has one


def to_latex(program: Program) -> str:
    r"""A program with one output in LaTeX's math mode, for example `\operatorname{mean}_{n} -\log
    p_{t}`.

    Raises:
        FormulaError: More nodes than a formula may have (a gradient that was never meant to be
            read).
    """
    if program.size > MAX_NODES:
        raise FormulaError(f"{program.size} nodes are too many to be read as a formula")
    names = _names(program)
    texts: list[_Text] = []
    for step in program.instructions:
        texts.append(_step(program, step, [texts[i] for i in step.args], names))
    return texts[program.outputs[-1]].latex


def definitions_to_latex(program: Program) -> dict[str, str]:
    """The definitions that a program uses, those behind them too: LaTeX of the name -> LaTeX of its
    formula.
    """
    found: dict[str, str] = {}
    stack = [program]
    while stack:
        current = stack.pop()
        names = _names(current)
        for step in current.instructions:
            if step.op == DEFINED and (name := names[str(step.data)].latex) not in found:
                term = program.signature.definitions[str(step.data)].term
                inner = program_of(program.signature, term, scalar=False)
                found[name] = to_latex(inner)
                stack.append(inner)
    return found


def _names(program: Program) -> dict[str, _Text]:
    """Each name's letter; where two would look the same, both are spelled out."""
    signature = program.signature
    names = [*signature.inputs, *signature.definitions, *(c.name for c in program.constants)]
    letters = [_name(name) for name in names]
    sizes = [_size(axis).latex for axis in signature.axes]
    seen = [letter.latex for letter in letters] + sizes
    return {
        name: letter if seen.count(letter.latex) == 1 else _spelled(name)
        for name, letter in zip(names, letters, strict=True)
    }


def _name(name: str) -> _Text:
    if name in _USUAL:
        return _Text(_USUAL[name], ATOM)
    if name.startswith("log_") and len(name) > 4:
        rest = name[4:]
        if re.fullmatch(r"[a-z]t", rest):  # log_pt is the logarithm of p_t
            rest = f"{rest[0]}_t"
        return _Text(rf"\log {_name(rest).latex}", MULTIPLIED)
    base, _, below = name.partition("_")
    if not below and (match := re.fullmatch(r"([A-Za-z]+?)(\d+)", name)):
        base, below = match.groups()
    if not base:
        return _spelled(name)
    head = rf"\{base}" if _GREEK.fullmatch(base) else base if len(base) == 1 else _word(base)
    if not below:
        return _Text(head, ATOM)
    foot = below if len(below) == 1 or below.isdigit() else _word(below)
    return _Text(f"{head}_{{{foot}}}", ATOM)


def _spelled(name: str) -> _Text:
    return _Text(_word(name), ATOM)


def _word(word: str) -> str:
    return r"\text{" + word.replace("_", " ").strip() + "}" if word.strip("_") else r"\square"


def _size(axis: str) -> _Text:
    return _Text(axis.upper() if len(axis) == 1 else _word(axis.upper()), ATOM)


def _number(value: float) -> _Text:
    digits, _, exponent = format_number(abs(value)).partition("e")
    binding = ATOM
    if exponent:
        power = f"10^{{{int(exponent)}}}"
        digits, binding = (power, RAISED) if digits == "1" else (rf"{digits} \cdot {power}", MULTIPLIED)
    number = _Text(digits, binding)
    return _minus(number) if value < 0 else number


def _step(program: Program, step: Instruction, args: Sequence[_Text], names: dict[str, _Text]) -> _Text:
    if step.op == LITERAL:
        return _number(float(str(step.data)))
    if step.op == SIZE:
        return _size(str(step.data))
    if step.op in (INPUT, DEFINED, CONSTANT):
        return names[str(step.data)]
    if step.op == "neg":
        return _minus(args[0])
    if step.op == "mul" and args[0].opposite:
        return _minus(_filled("mul", (args[0].opposite, args[1])))
    if step.op == "add" and args[1].opposite:
        return _Text(f"{_wrapped(args[0], ADDED)} - {_wrapped(args[1].opposite, OPEN)}", ADDED)
    row = PRIMITIVES[step.op]
    axes = _axes(step)
    if row.has_weight and len(args) == 2:
        return _weighted(program, step, args, axes)
    return _filled(step.op, args, axes)


def _minus(text: _Text) -> _Text:
    return _Text(f"-{_wrapped(text, OPEN)}", ADDED, text)


def _axes(step: Instruction) -> str:
    if not isinstance(step.data, tuple):
        return ""
    return ", ".join(d if isinstance(d, str) else d[0] for d in step.data)


def _filled(op: str, args: Sequence[_Text], axes: str = "") -> _Text:
    """A row's template with each argument wrapped as its place needs."""
    row = PRIMITIVES[op]
    if op in _BINDINGS:
        binding, needs = _BINDINGS[op]
    elif row.form is Form.REDUCTION:
        binding, needs = OPEN, (COMPARED if op == "logsumexp" else OPEN,)
    else:
        needs = tuple(_need(row.latex, letter) for letter in "xyz"[: len(args)])
        binding = MULTIPLIED if max(needs) else RAISED
        if op in ("square", "pow", "like"):
            binding = RAISED
    texts = {letter: _wrapped(arg, need) for letter, arg, need in zip("xyz", args, needs, strict=False)}
    if binding == MULTIPLIED and args[-1].binding == OPEN and needs[-1] == OPEN:
        binding = OPEN
    return _Text(row.latex.format(**texts, axes=axes), binding)


def _need(template: str, letter: str) -> int:
    """COMPARED where the letter stands in braces or between \\left and \\right, else ATOM."""
    before = template[: template.index("{" + letter + "}")]
    enclosed = before.endswith("{{") or before.count(r"\left") > before.count(r"\right")
    return COMPARED if enclosed else ATOM


def _weighted(program: Program, step: Instruction, args: Sequence[_Text], axes: str) -> _Text:
    """A reduction with a weight or mask; only the latter needs no `> 0` under a maximum."""
    x, w = args
    index = program.instructions[step.args[1]]
    mask = w.latex if index.kind is Kind.MASK else f"{_wrapped(w, ADDED)} > 0"
    latex = _WEIGHTED[step.op].format(
        axes=axes, w=_wrapped(w, MULTIPLIED), x=_wrapped(x, OPEN), raw=x.latex, mask=mask
    )
    return _Text(latex, RAISED if step.op == "mean" else OPEN)


def _wrapped(text: _Text, need: int) -> str:
    return text.latex if text.binding >= need else rf"\left({text.latex}\right)"
