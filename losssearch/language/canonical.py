"""When are two formulas the same loss? The canonical form, which is also what runs.

A program is rebuilt bottom up with its definitions expanded, and each step is written in its simplest known
form (`simplify.py`): sums and products sorted, differences and quotients in one form, literals folded (named
constants not), unstable words written stably. What one program of a signature taught is kept for the next
(`forms.py`).

Costs some tens of microseconds for a loss of twenty nodes, less when its parts were seen before, and nothing
for a program that is canonical already or whose form was asked for before.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from losssearch.language.forms import ValuesDecide, forms_of
from losssearch.language.program import Program
from losssearch.language.simplify import Simplifier
from losssearch.language.term import CONSTANT

VERSION = 1

_FORM = "canonical form"  # under which a program keeps its own; no field, so that it takes no part in ==


def canonical(program: Program) -> Program:
    """The program that runs: same meaning, one form, constants named c0, c1, ... by use."""
    form = program.__dict__.get(_FORM)
    if form is None:
        try:
            form = forms_of(program.signature).canonical(program)
        except ValuesDecide:
            form = canonical_alone(program)
        form.__dict__[_FORM] = True
        program.__dict__[_FORM] = form
    return program if form is True else form


def canonical_alone(program: Program) -> Program:
    """`canonical` without what other programs taught; slower, and the same."""
    simplifier = Simplifier(program.signature, program.constants)
    memo: list[int] = []
    for step in program.instructions:
        memo.append(simplifier.visit(step.op, [memo[i] for i in step.args], step.data))
    return _renamed(simplifier.program([memo[i] for i in program.outputs]))


def structure_key(program: Program) -> str:
    """The same for programs that differ only in the values of constants. 32 hex digits."""
    return structure_key_of_canonical(canonical(program))


def structure_key_of_canonical(program: Program) -> str:
    """`structure_key` of a program that is canonical already."""
    return digest(f"{VERSION}|{program.text}")


def candidate_key(program: Program) -> str:
    """The same exactly for programs with the same canonical form and constants. 32 hex digits."""
    return key_of_canonical(canonical(program))


def key_of_canonical(program: Program) -> str:
    """`candidate_key` of a program that is canonical already."""
    values = ",".join([repr(c.value) for c in program.constants])
    return digest(f"{VERSION}|{program.text}|{values}")


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _renamed(program: Program) -> Program:
    """Constants named by their order of use, so that a name chosen by a person is no difference."""
    taken = set(program.signature.inputs)
    names = [f"c{i}" if f"c{i}" not in taken else f"c{i}_" for i in range(len(program.constants))]
    new = dict(zip((c.name for c in program.constants), names, strict=True))
    return replace(
        program,
        instructions=tuple(
            s._replace(data=new[str(s.data)]) if s.op == CONSTANT else s for s in program.instructions
        ),
        constants=tuple(replace(c, name=new[c.name]) for c in program.constants),
    )
