"""How does a candidate become a row of the store, and a row a candidate again?

What comes back from the database is text like any other: it goes through the parser and is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from losssearch.language.candidate import LOSS, Candidate
from losssearch.language.canonical import (
    canonical,
    key_of_canonical,
    structure_key_of_canonical,
)
from losssearch.language.formula import ConstantLike, format_program, parse
from losssearch.language.program import Constant, Program
from losssearch.spaces import Space
from losssearch.store.rows import CandidateRow


def candidate_row(
    loss: Program | Candidate,
    space: Space,
    *,
    scale: float | None = None,
    name: str | None = None,
    source: str | None = None,
    facts: Mapping[str, Any] | None = None,
    ran: Program | None = None,
) -> CandidateRow:
    """The row of a loss.

    Args:
        loss: One program, or a candidate of several parts.
        space: Where it can be read.
        scale, name, source, facts: As in `CandidateRow`.
        ran: The canonical form of a single program, if the caller has it.
    """
    candidate = loss if isinstance(loss, Candidate) else Candidate.of(loss)
    if LOSS in candidate.parts:
        ran = ran or canonical(candidate.loss)
        key, structure_key, text = key_of_canonical(ran), structure_key_of_canonical(ran), format_program(ran)
    else:
        key, structure_key = candidate.key, candidate.structure_key
        text = "\n".join(f"{name} = {canonical(p)}" for name, p in candidate.parts.items())
    return CandidateRow(
        key=key,
        space=space_id(space),
        parts={name: program.text for name, program in candidate.parts.items()},
        canonical=text,
        structure_key=structure_key,
        size=candidate.size,
        constants=constants_of(candidate),
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


def constants_of(loss: Program | Candidate) -> dict[str, list[float]]:
    return {c.name: [c.value, c.low, c.high] for c in loss.constants}


def candidate_of_row(row: CandidateRow, space: Space) -> Candidate:
    """A stored candidate with all its parts, checked anew."""
    return Candidate.parse(row.parts, space.signature, _named(row.constants))


def program_of_row(row: CandidateRow, space: Space) -> Program:
    """The program of a stored candidate that is trained, checked anew.

    Raises:
        FormulaError: It has several parts, each trained on its own; or it cannot be read any more.
    """
    if list(row.parts) == [LOSS]:
        return read_program(row.parts[LOSS], row.constants, space)
    return candidate_of_row(row, space).loss


def read_program(text: str, constants: Mapping[str, Any], space: Space) -> Program:
    """A program from its text and `{name: [value, low, high]}`."""
    return parse(text, space.signature, _named(constants))


def _named(constants: Mapping[str, Any]) -> dict[str, ConstantLike]:
    named: dict[str, ConstantLike] = {}
    for name, value in constants.items():
        number, low, high = (float(v) for v in value)
        named[name] = Constant(name, number, low, high)
    return named
