"""How would a person write it? A proposal with its needless words taken out, definitions kept as they are.

Mutation leaves `-(-(x))`, `c / 1` and `x + -y` behind. The canonical form is for machines: it expands `p_t`
and `log_pt`. This is the same rewriting with the names left standing, and differences written as differences.
"""

from __future__ import annotations

from losssearch.errors import FormulaError
from losssearch.language.canonical import Simplifier
from losssearch.language.program import Builder, Program


def tidied(program: Program) -> Program:
    """The same loss, no longer than before; the program itself where nothing was to be gained."""
    simplifier = Simplifier(program.signature, program.constants, expand=False)
    builder = Builder(program.signature, program.constants)
    try:
        place: list[int] = []
        for step in program.instructions:
            args = [place[i] for i in step.args]
            place.append(simplifier.visit(step.op, args, step.data))
        plain = simplifier.program([place[program.outputs[-1]]])
        place = []
        for step in plain.instructions:
            args = [place[i] for i in step.args]
            if step.op == "add" and builder.instructions[args[1]].op == "neg":
                place.append(builder.apply("sub", (args[0], builder.instructions[args[1]].args[0])))
            else:
                place.append(builder.visit(step.op, args, step.data))
        tidy = builder.program([place[plain.outputs[-1]]])
    except FormulaError:  # a step on the way has axes that the space does not allow
        return program
    return tidy if tidy.size <= program.size else program
