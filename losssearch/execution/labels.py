"""What is left of a loss where each sample has one class?

With target_c = 1 at the label t and 0 elsewhere, a value over the classes is two values, one at the
label and one at the others, and elementwise operations keep them apart. So

    sum_c f(x_c, target_c) = f(x_t, 1) + sum_{c != t} f(x_c, 0)

and one-hot rows are never made: x_t is gathered once, after the softmax, and the rest of the loss
runs on one number a sample. Where the second sum does not vanish and the target is only added to
something, that is done in place of the split: it walks over the classes once less. The result is a
program of the same language, equal to the first for one-hot targets; `words` says which of its
instructions go by index. Module and exporter both run it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from losssearch.execution import shortcuts
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Instruction, Program
from losssearch.language.signature import Kind
from losssearch.language.simplify import Simplifier
from losssearch.language.term import INPUT, SIZE, Term

Word = Callable[[Tensor, Tensor], Tensor]
_CLASSES = ("c",)
#: (Operation, whether it is over all classes but the label's) -> the same by index.
_WORDS: dict[tuple[str, bool], Word] = {
    ("dot", False): shortcuts.at_label,
    ("dot", True): shortcuts.off_label,
    ("max", True): shortcuts.max_off_label,
    ("logsumexp", True): shortcuts.log_off_label,
}
#: Who reads 1 - p_t finer than a logarithm of p_t can tell it, near p_t = 1.
_FINE = frozenset({"log", "div", "logsumexp"})


@dataclass(frozen=True)
class ByIndex:
    """A loss on class indices.

    Args:
        program: Equal to the loss for one-hot targets.
        words: Instruction -> what it is by index, and the instruction that it reads, (n, c).
        needed: Instructions that run; those that only made `1 - target` do not.
    """

    program: Program
    words: dict[int, tuple[Word, int]]
    needed: tuple[int, ...]


def by_index(program: Program, target: str) -> ByIndex | None:
    """The loss on class indices; None where one-hot rows are needed after all.

    Args:
        program: Canonical, over the axes "n" and "c" alone.
        target: Name of its target, over "n c".
    """
    signature = program.signature
    plane = signature.axes_of(("n", "c"))
    if any(step.axes & ~plane for step in program.instructions):
        return None
    special, words = _specialised(program, target, adds=False)
    if words is None or shortcuts.off_label in {word for word, _ in words.values()}:
        other, others = _specialised(program, target, adds=True)
        if others is not None and shortcuts.off_label not in {word for word, _ in others.values()}:
            special, words = other, others
    if words is None:
        return None
    needed: set[int] = set()
    stack = list(special.outputs)
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            stack.extend([words[i][1]] if i in words else special.instructions[i].args)
    return ByIndex(special, words, tuple(sorted(needed)))


def _specialised(
    program: Program, target: str, adds: bool
) -> tuple[Program, dict[int, tuple[Word, int]] | None]:
    """The program and its words; `adds` leaves x + target and x - target together."""
    special = _with_chances(_split(program, target, adds), target)
    return special, _words(special, target)


@dataclass(frozen=True)
class _Value:
    """A value as it is, at the label and at the other classes; None where these are not known apart."""

    whole: int
    at: int | None
    off: int | None

    @property
    def split(self) -> bool:
        return self.off != self.whole


def _split(program: Program, target: str, adds: bool) -> Program:
    b = Simplifier(program.signature, program.constants)
    classes = program.signature.bits["c"]
    label = b.name(target)
    values: list[_Value] = []
    for step in program.instructions:
        args = [values[i] for i in step.args]
        if step.op == INPUT and step.data == target:
            values.append(_Value(label, b.literal(1.0), b.literal(0.0)))
            continue
        whole = _reduced(b, step, args, label)
        if whole is None:
            whole = b.visit(step.op, [v.whole for v in args], step.data)
        if not b.step(whole).axes & classes:
            values.append(_Value(whole, whole, whole))
        elif adds and _summand(program, step, target):
            values.append(_Value(whole, None, None))
        elif args and PRIMITIVES[step.op].form is Form.ELEMENTWISE:
            at, off = (_applied(b, step, [getattr(v, k) for v in args]) for k in ("at", "off"))
            values.append(_Value(whole, at, off))
        elif any(v.split for v in args) or step.kind is Kind.MASK:
            values.append(_Value(whole, None, None))
        else:
            values.append(_Value(whole, b.apply("dot", (whole, label), _CLASSES), whole))
    return b.program([values[i].whole for i in program.outputs])


def _applied(b: Simplifier, step: Instruction, args: list[int | None]) -> int | None:
    return None if None in args else b.apply(step.op, cast("list[int]", args), step.data)


def _reduced(b: Simplifier, step: Instruction, args: list[_Value], label: int) -> int | None:
    """An operation over the classes, some of whose arguments differ at the label."""
    if step.data != _CLASSES or not any(v.split for v in args):
        return None
    ats, offs = [v.at for v in args], [v.off for v in args]
    if None in ats or None in offs:
        return None
    at, off = cast("list[int]", ats), cast("list[int]", offs)
    if step.op == "dot" or (step.op in ("sum", "mean") and len(args) == 1):
        here, elsewhere = (b.product_of(pair) if len(pair) > 1 else pair[0] for pair in (at, off))
        total = b.apply("add", (here, _others(b, elsewhere, label)))
        return b.apply("div", (total, _size(b))) if step.op == "mean" else total
    one_hot = len(args) == 2 and b.number(at[1]) == 1 and b.number(off[1]) == 0
    return at[0] if one_hot and step.op in ("max", "min", "logsumexp") and not args[0].split else None


def _others(b: Simplifier, x: int, label: int) -> int:
    """The sum of a value over all classes but the label's."""
    one = b.literal(1.0)
    if not b.step(x).axes & b.signature.bits["c"]:
        return b.product_of((x, b.apply("sub", (_size(b), one))))
    return b.apply("dot", (x, b.apply("sub", (one, label))), _CLASSES)


def _size(b: Simplifier) -> int:
    return b.add(Term(SIZE, (), "c"))


def _with_chances(program: Program, target: str) -> Program:
    """The summed softmax of the other classes as 1 - p_t, where nobody needs it finer."""
    fine = {i for step in program.instructions if step.op in _FINE for i in step.args}
    b = Simplifier(program.signature, program.constants)
    memo: list[int] = []
    for i, step in enumerate(program.instructions):
        args = [memo[j] for j in step.args]
        found = _logs_of_chances(program, step, target) if i not in fine else None
        if found is None:
            memo.append(b.visit(step.op, args, step.data))
        else:
            log_pt = b.apply("dot", (memo[found], b.name(target)), _CLASSES)
            memo.append(b.apply("sub", (b.literal(1.0), b.apply("exp", (log_pt,)))))
    return b.program([memo[i] for i in program.outputs])


def _logs_of_chances(program: Program, step: Instruction, target: str) -> int | None:
    """The log_softmax in dot(exp(log_softmax), 1 - target)."""
    steps = program.instructions
    if step.op != "dot" or step.data != _CLASSES:
        return None
    for rest, p in (step.args, step.args[::-1]):
        if _is_rest(program, rest, target) and steps[p].op == "exp":
            inner = steps[p].args[0]
            return inner if steps[inner].op == "log_softmax" and steps[inner].data == _CLASSES else None
    return None


def _is_target(program: Program, i: int, target: str) -> bool:
    step = program.instructions[i]
    return step.op == INPUT and step.data == target


def _summand(program: Program, step: Instruction, target: str) -> tuple[Word, int] | None:
    """The x of x + target or x - target over samples and classes, and what that is by index."""
    steps = program.instructions
    if step.op != "add":
        return None
    for x, other in (step.args, step.args[::-1]):
        minus = steps[other].op == "neg"
        if _is_target(program, steps[other].args[0] if minus else other, target):
            full = steps[x].axes == program.signature.axes_of(("n", "c")) and steps[x].kind is Kind.REAL
            return (shortcuts.minus_label if minus else shortcuts.plus_label, x) if full else None
    return None


def _is_rest(program: Program, i: int, target: str) -> bool:
    """Whether an instruction is 1 - target."""
    steps = program.instructions
    step = steps[i]
    if step.op != "add":
        return False
    one, minus = (steps[j] for j in step.args)
    return one.data == 1.0 and minus.op == "neg" and _is_target(program, minus.args[0], target)


def _words(program: Program, target: str) -> dict[int, tuple[Word, int]] | None:
    """Instructions that go by index; None if the target is read in another way too."""
    steps = program.instructions
    whole = {i for i in range(len(steps)) if _is_target(program, i, target)}
    minus = {i for i, step in enumerate(steps) if step.op == "neg" and step.args[0] in whole}
    rest = {i for i in range(len(steps)) if _is_rest(program, i, target)}
    found: dict[int, tuple[Word, int]] = {}
    for i, step in enumerate(steps):
        touched = [j for j in step.args if j in whole | minus | rest]
        if not touched or i in minus | rest:
            continue
        word = _summand(program, step, target) or _word(program, step, touched, rest)
        if word is None or word[1] in touched:
            return None
        found[i] = word
    return None if set(program.outputs) & (whole | minus | rest) else found


def _word(program: Program, step: Instruction, touched: list[int], rest: set[int]) -> tuple[Word, int] | None:
    """An operation over the classes with the target, or 1 - target, as mask or factor."""
    word = _WORDS.get((step.op, touched[0] in rest))
    if word is None or step.data != _CLASSES or len(step.args) != 2 or len(touched) != 1:
        return None
    if step.op != "dot" and step.args[1] != touched[0]:
        return None
    x = step.args[1 - step.args.index(touched[0])]
    row = program.instructions[x]
    return (word, x) if row.axes & program.signature.bits["c"] and row.kind is Kind.REAL else None


__all__ = ["ByIndex", "by_index"]
