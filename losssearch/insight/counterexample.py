"""What is the smallest example that refutes a fact?

A search for counter-examples works on a whole batch. Where the loss already lies above its chord for one
sample of it, that sample alone is the example that people can check by hand; only what the loss reads stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from losssearch.execution.reference import evaluate
from losssearch.language.facts import Fact, Facts, Verdict
from losssearch.language.program import Program

SLACK = 1e-7  # above the chord, of the values' size


def with_small_examples(program: Program, known: Facts) -> Facts:
    """The facts; a refuted convexity with one sample as its example, if one refutes it."""
    fact = known.convex
    if fact.verdict is not Verdict.REFUTED:
        return known
    small = _of_one_sample(program, fact)
    return known if small is None else replace(known, convex=small)


def _of_one_sample(program: Program, fact: Fact) -> Fact | None:
    signature = program.signature
    if "n" not in signature.axes or "n" in signature.copies.values():
        return None  # one sample of a batch of pairs is no pair
    left = _tensors(fact.counterexample["inputs"], program)
    right = left | _tensors(fact.counterexample["other"], program)
    count = max((len(v) for n, v in left.items() if "n" in signature.inputs[n].axes), default=0)
    for i in range(count):
        a, b = (
            {n: _sample(v, signature.inputs[n].axes, i) for n, v in side.items()} for side in (left, right)
        )
        between = {n: (a[n] + b[n]) / 2 if n in signature.predictions else v for n, v in a.items()}
        middle, *ends = (float(evaluate(program, x)) for x in (between, a, b))
        chord = sum(ends) / 2
        if middle > chord + SLACK * (1 + abs(middle) + abs(chord)):
            why = f"Between two predictions it is {middle:.6g}, above the mean {chord:.6g} of its ends."
            example = {
                "inputs": {n: v.tolist() for n, v in a.items()},
                "middle": middle,
                "chord": chord,
                "other": {n: v.tolist() for n, v in b.items() if n in signature.predictions},
            }
            return Fact(Verdict.REFUTED, why, example)
    return None


def _tensors(example: Mapping[str, Any], program: Program) -> dict[str, Tensor]:
    """The inputs that the loss reads, in double precision; masks stay masks."""
    found = {n: torch.tensor(v) for n, v in example.items() if n in program.inputs}
    return {
        n: v if v.dtype == torch.bool else torch.tensor(example[n], dtype=torch.float64)
        for n, v in found.items()
    }


def _sample(value: Tensor, axes: tuple[str, ...], i: int) -> Tensor:
    return value.narrow(axes.index("n"), i, 1) if "n" in axes else value
