"""How would a person write it? A proposal with its needless words taken out, definitions kept as they are.

Mutation leaves `-(-(x))`, `c / 1` and `x + -y` behind. The canonical form is for machines: it expands `p_t`
and `log_pt`. This is the same rewriting with the names left standing, and differences written as differences.
"""

from __future__ import annotations

from losssearch.errors import FormulaError
from losssearch.language.drafts import drafts_of
from losssearch.language.forms import ValuesDecide, forms_of
from losssearch.language.program import Program
from losssearch.language.simplify import Simplifier
from losssearch.language.term import Term


def tidied(program: Program) -> Program:
    """The same loss, no longer than before; the program itself where nothing was to be gained."""
    try:
        plain = _plain(program)
        drafts = drafts_of(program.signature)
        tidy = drafts.written(drafts.place(_with_differences(plain)), plain.constants)
    except FormulaError:  # a step on the way has axes that the space does not allow
        return program
    return tidy if tidy.size <= program.size else program


def _plain(program: Program) -> Program:
    try:
        return forms_of(program.signature, expand=False).simplest(program)
    except ValuesDecide:
        simplifier = Simplifier(program.signature, program.constants, expand=False)
        place: list[int] = []
        for step in program.instructions:
            place.append(simplifier.visit(step.op, [place[i] for i in step.args], step.data))
        return simplifier.program([place[program.outputs[-1]]])


def _with_differences(plain: Program) -> Term:
    """The tree with x + -y written as x - y."""
    terms: list[Term] = []
    for step in plain.instructions:
        args = tuple([terms[i] for i in step.args])
        if step.op == "add" and args[1].op == "neg":
            terms.append(Term("sub", (args[0], args[1].args[0])))
        else:
            terms.append(Term(step.op, args, step.data))
    return terms[plain.outputs[-1]]
