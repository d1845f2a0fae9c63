"""What does an answer propose? Lines of text, read by our own parser and by nothing else.

A line is a JSON object `{"formula": "...", "constants": {"gamma": [2.0, 0, 5]}}`, or a formula as it stands.
Bullets, numbering and code fences around it are forgiven; anything that is no loss of the space is named
with the reason, and goes back to the proposer with the next question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from losssearch.errors import FormulaError
from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.language.sampling import Sampler
from losssearch.language.term import TERMINALS

MOST_LINES = 500
HEADS = {"mean", "sum", "div"}  # what heads are made of
_DECORATION = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+)|[`;,]+$")


@dataclass
class Answer:
    """What an answer held.

    Args:
        programs: Losses of the space, as written.
        refused: Text of a line and why it is no loss of the space.
    """

    programs: list[Program] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def read_answer(text: str, sampler: Sampler) -> Answer:
    """The losses in an answer."""
    answer = Answer()
    for line in text.splitlines()[:MOST_LINES]:
        line = _DECORATION.sub("", line.strip()).strip("` ")
        if "(" not in line:  # prose, fences, blank lines
            continue
        try:
            program = _read(line, sampler)
        except (FormulaError, ValueError, TypeError) as error:
            answer.refused.append((line[:200], str(error).splitlines()[0][:200]))
        else:
            answer.programs.append(program)
    return answer


def _read(line: str, sampler: Sampler) -> Program:
    formula: object = line
    constants: dict[str, Constant] = {}
    if line.startswith("{"):
        row = json.loads(line)
        formula = row.get("formula")
        given = row.get("constants") or {}
        if not isinstance(given, Mapping):
            raise ValueError('"constants" must be like {"gamma": [2.0, 0, 5]}')
        for name, value in given.items():
            number, low, high = value if isinstance(value, list) else (value, -10.0, 10.0)
            constants[name] = Constant(str(name), float(number), float(low), float(high))
    if not isinstance(formula, str):
        raise ValueError('a line needs a "formula"')
    program = parse(formula, sampler.grammar.signature, constants)
    if not sampler.has_head(program):
        raise ValueError(f"it is not of the form {sampler.grammar.head}")
    grammar = sampler.grammar
    strange = {step.op for step in program.instructions} - TERMINALS - grammar.primitives.keys() - HEADS
    if strange:
        raise ValueError(f"the search does not use {', '.join(sorted(strange))}")
    if not sampler.fits(program):
        raise ValueError(f"its body has more than {grammar.nodes} nodes or is deeper than {grammar.depth}")
    return program
