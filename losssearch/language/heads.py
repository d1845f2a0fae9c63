"""Which part of a loss belongs to one sample, and how are the parts put together?

A loss that is a (weighted) mean over samples splits into a *body*, one value a sample, and a
*weight*:

    loss = sum_i weight_i * body_i / sum_i weight_i          (weight_i = 1 where there is none)

`reduction="none"`, `sum_and_count`, gradient accumulation and re-weighting rest on that. A loss
that looks at several samples at once (Dice over a batch, contrastive pairs, a maximum over samples)
is *coupled* and says why. One walk over the canonical instructions, each classified from its
arguments; under a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from losssearch.language.canonical import canonical
from losssearch.language.primitives import EPS, PRIMITIVES, Form
from losssearch.language.program import Instruction, Program
from losssearch.language.simplify import Simplifier
from losssearch.language.term import INPUT, SIZE, Data, Term


@dataclass(frozen=True)
class Split:
    """A loss as a weighted mean over samples. Constants keep the names that `canonical(program)`
    gave them.

    Args:
        body: One value a sample, over the axis of samples alone.
        weight: One weight a sample, or None for a plain mean.
        total: weight * body, one value a sample; exact where a ratio of sums has a weight of 0.
    """

    body: Program
    weight: Program | None
    total: Program


@dataclass(frozen=True)
class Coupled:
    """A loss that is no mean over samples; `why` is a sentence for a person."""

    why: str


# What a value is, seen from the samples.


@dataclass(frozen=True)
class _Free:
    """The same whatever the batch holds."""


@dataclass(frozen=True)
class _Each:
    """A value of one sample, from that sample alone."""


@dataclass(frozen=True)
class _Sum:
    """A sum of `term` over samples."""

    term: int


@dataclass(frozen=True)
class _Mean:
    """A mean of `body` over samples under `weight`; `total` is their product, None where it is just
    that.
    """

    body: int
    weight: int | None = None
    total: int | None = None


_Share: TypeAlias = "_Free | _Each | _Sum | _Mean | Coupled"
_FREE, _EACH = _Free(), _Each()


def split(program: Program, axis: str = "n") -> Split | Coupled:
    """Body and weight of a loss, or why there are none.

    Factors without the axis of samples move into the body, sums of means merge, and a value without
    samples (a penalty on parameters) is added to every sample's body.
    """
    if axis not in program.signature.bits:
        return Coupled(f"The space has no axis {axis!r} of samples.")
    return _Splitter(program, axis).split()


class _Splitter:
    def __init__(self, program: Program, axis: str) -> None:
        self.source = canonical(program)
        self.signature = program.signature
        self.axis, self.bit = axis, program.signature.bits[axis]
        self.copies = {a for a, origin in program.signature.copies.items() if origin == axis}
        self.builder = Simplifier(self.signature, self.source.constants)
        self.values: list[int] = []
        self.shares: list[_Share] = []

    def split(self) -> Split | Coupled:
        builder = self.builder
        for step in self.source.instructions:
            self.values.append(builder.visit(step.op, [self.values[i] for i in step.args], step.data))
            self.shares.append(self._share(step))
        share = self.shares[self.source.outputs[-1]]
        match share:
            case Coupled():
                return share
            case _Sum():
                return Coupled(f"It is a sum over '{self.axis}', not a mean, so it grows with the batch.")
            case _Mean(body, weight, total):
                pass
            case _:
                return Coupled(f"It does not reduce over the samples '{self.axis}'.")
        if weight is None:
            total = body
        elif total is None:
            total = builder.apply("mul", (weight, body))
        for index in (body, total):
            if builder.instructions[index].axes != self.bit:
                return Coupled("Its value is the same for every sample.")
        return Split(
            builder.program([body]),
            None if weight is None else builder.program([weight]),
            builder.program([total]),
        )

    def _share(self, step: Instruction) -> _Share:
        shares = [self.shares[i] for i in step.args]
        for share in shares:
            if isinstance(share, Coupled):
                return share
        if step.op == INPUT:
            axes = set(self.signature.axes_names(step.axes))
            if crossed := axes & self.copies:
                return Coupled(f"It compares samples with one another, along the axis {min(crossed)!r}.")
            return _EACH if step.axes & self.bit else _FREE
        if step.op == SIZE and (step.data == self.axis or step.data in self.copies):
            return _Sum(self.builder.literal(1.0))
        if all(isinstance(share, _Free) for share in shares):
            return _FREE
        row = PRIMITIVES[step.op]
        over: tuple[str, ...] = ()
        if row.has_axes and isinstance(step.data, tuple):
            over = tuple(a for d in step.data for a in ((d,) if isinstance(d, str) else d))
        if row.form is Form.COPY and (self.axis in over or self.copies & set(over)):
            return Coupled("It compares samples with one another, through 'like'.")
        whole = [isinstance(share, (_Sum, _Mean)) for share in shares]
        if self.axis in over:
            if any(whole):
                return self._mixed(step)
            return self._head(step, over)
        if not any(whole):
            return _EACH
        if step.axes & self.bit:
            return self._mixed(step)
        return self._outside(step, shares) or Coupled(f"It takes '{step.op}' of a value of the whole batch.")

    def _mixed(self, step: Instruction) -> Coupled:
        return Coupled(f"It takes '{step.op}' of one sample and a value of the whole batch.")

    def _head(self, step: Instruction, over: Sequence[str]) -> _Share:
        """A reduction over samples of values that belong to one sample each."""
        builder = self.builder
        rest = tuple(a for a in over if a != self.axis)
        values = [self.values[i] for i in step.args]
        if step.op in ("sum", "dot"):
            term = builder.apply("mul", values) if len(values) == 2 else values[0]
            return _Sum(self._summed(term, rest))
        if step.op != "mean":
            return Coupled(f"It takes '{step.op}' over the samples '{self.axis}'.")
        x = values[0]
        if len(values) == 1:
            return _Mean(self._reduced("mean", (x,), rest))
        weight = values[1]
        has = builder.instructions[weight].axes
        if not has & self.bit and builder.bounds[weight].low >= EPS and not rest:
            return _Mean(x)
        if not has & self.bit or has & ~self.bit & ~self.signature.axes_of(rest):
            left = self.signature.axes_text(has & ~self.bit & ~self.signature.axes_of(rest))
            return Coupled(
                f"Its mean has one weight for each of '{left}', not one a sample."
                if left
                else "Its mean has a weight that is the same for every sample."
            )
        inner = (x, weight) if has & ~self.bit else (x,)
        return _Mean(self._reduced("mean", inner, rest), self._summed(weight, rest))

    def _reduced(self, op: str, args: tuple[int, ...], axes: tuple[str, ...]) -> int:
        union = 0
        for i in args:
            union |= self.builder.instructions[i].axes
        present = tuple(a for a in axes if self.signature.bits[a] & union)
        return self.builder.apply(op, args, present) if present else args[0]

    def _summed(self, value: int, axes: Sequence[str]) -> int:
        """Sum over axes; one that the value lacks counts as often as it is long."""
        has = self.builder.instructions[value].axes
        lacking = [a for a in axes if not self.signature.bits[a] & has]
        value = self._reduced("sum", (value,), tuple(axes))
        for axis in lacking:
            value = self.builder.apply("mul", (value, self.builder.add(Term(SIZE, (), axis))))
        return value

    def _outside(self, step: Instruction, shares: list[_Share]) -> _Share | None:
        """What stands around a head: linear words go through it, others do not."""
        values = [self.values[i] for i in step.args]
        match step.op, shares:
            case "neg" | "like" | "detach", [share]:
                return self._through(step.op, share, values, 0, step.data)
            case "sum" | "mean", [share, *_] if all(isinstance(s, _Free) for s in shares[1:]):
                return self._through(step.op, share, values, 0, step.data)
            case "mul" | "dot", [share, _Free()]:
                return self._through(step.op, share, values, 0, step.data)
            case "mul" | "dot", [_Free(), share]:
                return self._through(step.op, share, values, 1, step.data)
            case "div", [share, _Free()]:
                return self._through(step.op, share, values, 0, step.data)
            case "div", [_Sum(top), _Sum(bottom)]:
                return self._ratio(top, bottom)
            case "div", [_Mean(top, None), _Mean(bottom, None)]:
                return self._ratio(top, bottom)
            case "add", [left, right]:
                return self._added(left, right, values)
        return None

    def _through(self, op: str, share: _Share, values: list[int], place: int, data: Data) -> _Share | None:
        def under(index: int) -> int:
            return self.builder.apply(op, [*values[:place], index, *values[place + 1 :]], data)

        match share:
            case _Sum(term):
                return _Sum(under(term))
            case _Mean(body, weight, total):
                return _Mean(under(body), weight, None if total is None else under(total))
        return None

    def _ratio(self, top: int, bottom: int) -> _Share | None:
        builder = self.builder
        if builder.number(bottom) == 1:
            return _Mean(top)
        if builder.instructions[bottom].axes != self.bit:
            return Coupled("It divides sums over samples that keep other axes.")
        return _Mean(builder.apply("div", (top, bottom)), bottom, top)

    def _added(self, left: _Share, right: _Share, values: list[int]) -> _Share | None:
        apply = self.builder.apply
        match left, right:
            case _Sum(a), _Sum(b):
                return _Sum(apply("add", (a, b)))
            case _Mean(a, w, s), _Mean(b, v, t):
                if w != v:
                    return Coupled("It adds two means over samples with different weights.")
                total = None
                if w is not None and (s is not None or t is not None):
                    total = apply(
                        "add",
                        [
                            apply("mul", (w, part)) if whole is None else whole
                            for part, whole in ((a, s), (b, t))
                        ],
                    )
                return _Mean(apply("add", (a, b)), w, total)
            case _Mean(a, w, s), _Free():
                return self._added_constant(a, w, s, values[1])
            case _Free(), _Mean(a, w, s):
                return self._added_constant(a, w, s, values[0])
            case _Sum(), _Free() | _Mean():
                return Coupled("It adds a sum over samples to what is no such sum.")
            case _Free() | _Mean(), _Sum():
                return Coupled("It adds a sum over samples to what is no such sum.")
        return None

    def _added_constant(self, a: int, w: int | None, s: int | None, free: int) -> _Mean:
        apply = self.builder.apply
        if w is not None and s is not None:
            s = apply("add", (s, apply("mul", (w, free))))
        return _Mean(apply("add", (a, free)), w, s)
