"""How does a program become a row of the store, and a row a program again?

What comes back from the database is text like any other: it goes through the parser and is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from losssearch.language.canonical import (
    canonical,
    key_of_canonical,
    structure_key_of_canonical,
)
from losssearch.language.formula import ConstantLike, format_program, parse
from losssearch.language.program import Constant, Program
from losssearch.spaces import Space
from losssearch.store.rows import CandidateRow

PART = "loss"


def candidate_row(
    program: Program,
    space: Space,
    *,
    scale: float | None = None,
    name: str | None = None,
    source: str | None = None,
    facts: Mapping[str, Any] | None = None,
    ran: Program | None = None,
) -> CandidateRow:
    """The row of a candidate with one part; `ran` is its canonical form, if the caller has it."""
    ran = ran or canonical(program)
    return CandidateRow(
        key=key_of_canonical(ran),
        space=space_id(space),
        parts={PART: program.text},
        canonical=format_program(ran),
        structure_key=structure_key_of_canonical(ran),
        size=program.size,
        constants=constants_of(program),
        scale=scale,
        name=name,
        source=source,
        facts=facts or {},
    )


def space_id(space: Space) -> str:
    """By what a space is found again: the name of a shipped one, the path of a user's own."""
    from losssearch.spaces import space_names

    shipped = space.name in space_names() and space.path.parent.name == "search_spaces"
    return space.name if shipped else str(space.path.resolve())


def constants_of(program: Program) -> dict[str, list[float]]:
    return {c.name: [c.value, c.low, c.high] for c in program.constants}


def program_of_row(row: CandidateRow, space: Space) -> Program:
    """The program of a stored candidate, checked anew."""
    return read_program(row.parts[PART], row.constants, space)


def read_program(text: str, constants: Mapping[str, Any], space: Space) -> Program:
    """A program from its text and `{name: [value, low, high]}`."""
    named: dict[str, ConstantLike] = {}
    for name, value in constants.items():
        number, low, high = (float(v) for v in value)
        named[name] = Constant(name, number, low, high)
    return parse(text, space.signature, named)
