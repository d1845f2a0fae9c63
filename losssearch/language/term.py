"""What was written, before anyone checked it: a tree of operations.

A `Term` is what the parser reads, what a sampler grows and what a mutation cuts. It promises
nothing about types; `Program` does. Sub-terms may be shared (`a = ...; a + a`), so walks over a
term keep a memo by identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Data: TypeAlias = "str | float | tuple[str, ...] | tuple[tuple[str, str], ...] | None"

NAME = "name"
LITERAL = "literal"
INPUT = "input"
DEFINED = "defined"
CONSTANT = "constant"
SIZE = "size"
TERMINALS = frozenset({INPUT, DEFINED, CONSTANT, LITERAL, SIZE})


@dataclass(frozen=True, slots=True)
class Term:
    """One operation on sub-terms.

    Args:
        op: A primitive's name, or one of `name`, `literal` and the resolved terminals.
        args: Sub-terms.
        data: What the operation needs besides: a name, a number, axis names, or (to, from) pairs of
            `like`.
        position: Where it began in the text, for error messages; -1 when it was not written by a
            person.
    """

    op: str
    args: tuple[Term, ...] = ()
    data: Data = None
    position: int = field(default=-1, compare=False)


def literal(value: float) -> Term:
    return Term(LITERAL, (), float(value))


def name(text: str) -> Term:
    return Term(NAME, (), text)


def paths(term: Term) -> list[tuple[int, ...]]:
    """The path of every node of the tree, root first; a path lists argument indices."""
    found: list[tuple[int, ...]] = []
    stack: list[tuple[Term, tuple[int, ...]]] = [(term, ())]
    while stack:
        node, path = stack.pop()
        found.append(path)
        stack.extend((arg, (*path, i)) for i, arg in reversed(list(enumerate(node.args))))
    return found


def at(term: Term, path: tuple[int, ...]) -> Term:
    for i in path:
        term = term.args[i]
    return term


def replaced(term: Term, path: tuple[int, ...], by: Term) -> Term:
    """`term` with the sub-term at `path` replaced; only the nodes above it are made anew."""
    if not path:
        return by
    i, rest = path[0], path[1:]
    args = (*term.args[:i], replaced(term.args[i], rest, by), *term.args[i + 1 :])
    return Term(term.op, args, term.data)
