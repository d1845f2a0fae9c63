"""Is the gradient finite, alive, and aware of the target? Asked on the stratified probes.

Finite everywhere, also at saturated predictions and in single precision. Not flat on *ordinary* predictions:
a bounded loss may be flat where it is saturated. Not blind: other targets give other gradients. Twice the
same batch gives the same value. If rising the loss would improve predictions, its sign is turned first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from losssearch.execution.reference import Compiled
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Instruction, Program
from losssearch.language.term import SIZE
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.measure import SMALLEST, Reading, readings
from losssearch.screening.probes import stratified

_SAME_TWICE = frozenset({"mean", "max", "min", "any"})  # over samples that are there twice


class Probe(Screen):
    """Refuses what is not finite, flat, blind to the target, or dependent on the batch size."""

    name = "probe"
    title = "not finite, flat, blind to the target, or dependent on the batch size"

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        found = readings([case.program for case in cases], [case.string for case in cases])
        for case, reading in zip(cases, found, strict=True):
            case.reading = reading
        return [case for case in cases if self._refuses(case.known_reading) is None]

    def judge(self, case: Case) -> Rejection | None:
        reading = case.known_reading
        rejection = self._refuses(reading)
        if rejection is not None:
            return rejection
        if _counts_samples(case.program):
            return Rejection(Outcome.BATCH_SIZE, "twice the same batch gives another value")
        if not reading.sees_target:
            return Rejection(Outcome.BLIND, "other targets give the same gradient")
        if reading.rises:
            case.flip()
        return None

    def _refuses(self, reading: Reading) -> Rejection | None:
        if not reading.is_finite_in_single:
            return Rejection(Outcome.NOT_FINITE, "nan or inf in single precision")
        if not reading.is_finite_in_double:
            return Rejection(Outcome.NOT_FINITE, "nan or inf in double precision")
        if reading.peak < SMALLEST:
            return Rejection(Outcome.FLAT)
        if reading.alive < 0.1:
            return Rejection(Outcome.FLAT, "the gradient vanishes on nine samples of ten")
        return None


def _counts_samples(program: Program) -> bool:
    """Whether its value changes when every sample is there twice; most show by their words that not."""
    signature = program.signature
    samples = {axis for axis in signature.axes if signature.copies.get(axis, axis) == "n"}
    if not any(_may_count(step, samples) for step in program.instructions):
        return False
    inputs = stratified(signature).inputs
    along_n = {n for n, i in signature.inputs.items() if "n" in i.axes}
    twice = {n: torch.cat([v, v], dim=1) if n in along_n else v for n, v in inputs.items()}
    value = Compiled(program)
    with torch.no_grad():
        once, again = value(inputs)[0], value(twice)[0]
    return not torch.allclose(once, again, rtol=1e-6, atol=1e-9)


def _may_count(step: Instruction, samples: set[str]) -> bool:
    if not step.args:
        return step.op == SIZE and step.data in samples
    if step.data is None or step.op in _SAME_TWICE:
        return False
    axes = cast("tuple[str, ...]", step.data)
    return PRIMITIVES[step.op].form is not Form.COPY and not samples.isdisjoint(axes)
