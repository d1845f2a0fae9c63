"""Is the gradient finite, alive, and aware of the target? Asked on the stratified probes.

Finite everywhere, also at saturated predictions and in single precision. Not flat on *ordinary* predictions:
a bounded loss may be flat where it is saturated. Not blind: other targets give other gradients. Twice the
same batch gives the same value. If rising the loss would improve predictions, its sign is turned first.
"""

from __future__ import annotations

import torch

from losssearch.execution.reference import Compiled
from losssearch.language.signature import Role
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.probes import stratified

SMALLEST = 1e-10


class Probe(Screen):
    """Refuses what is not finite, flat, blind to the target, or dependent on the batch size."""

    name = "probe"
    title = "not finite, flat, blind to the target, or dependent on the batch size"

    def judge(self, case: Case) -> Rejection | None:
        probes = stratified(case.space.signature)
        with torch.no_grad():
            single = {name: value.float() for name, value in probes.inputs.items()}
            for value in (*Compiled(case.program)(single), *case.slope(single)):
                if not bool(torch.isfinite(value).all()):
                    return Rejection(Outcome.NOT_FINITE, "nan or inf in single precision")
        slope = case.slopes[0]
        if not bool(torch.isfinite(slope).all()):
            return Rejection(Outcome.NOT_FINITE, "nan or inf in double precision")
        ordinary = slope[probes.ordinary]
        if float(ordinary.abs().max()) < SMALLEST:
            return Rejection(Outcome.FLAT)
        alive = (
            (ordinary.abs() > SMALLEST).flatten(2).any(-1) if ordinary.ndim > 2 else ordinary.abs() > SMALLEST
        )
        if float(alive.double().mean()) < 0.1:
            return Rejection(Outcome.FLAT, "the gradient vanishes on nine samples of ten")
        if self._counts_samples(case):
            return Rejection(Outcome.BATCH_SIZE, "twice the same batch gives another value")
        if self._blind(case):
            return Rejection(Outcome.BLIND, "other targets give the same gradient")
        direction = probes.aligned.get(case.prediction)
        if direction is not None and self._rises(ordinary, direction[probes.ordinary]):
            case.flip()
        return None

    def _blind(self, case: Case) -> bool:
        probes = stratified(case.space.signature)
        targets = {
            name: probes.inputs[name].roll(1, dims=1)
            for name, spec in case.space.signature.inputs.items()
            if spec.role is Role.TARGET
        }
        with torch.no_grad():
            other = case.slope({**probes.inputs, **targets})[0]
            same = case.slope(probes.inputs)[0]
        return bool(torch.equal(other, same))

    def _counts_samples(self, case: Case) -> bool:
        inputs = stratified(case.space.signature).inputs
        along_n = {n for n, i in case.space.signature.inputs.items() if "n" in i.axes}
        twice = {n: torch.cat([v, v], dim=1) if n in along_n else v for n, v in inputs.items()}
        value = Compiled(case.program)
        with torch.no_grad():
            once, again = value(inputs)[0], value(twice)[0]
        return not torch.allclose(once, again, rtol=1e-6, atol=1e-9)

    def _rises(self, slope: torch.Tensor, direction: torch.Tensor) -> bool:
        """Whether descending the loss moves most samples the wrong way, weighed by how much they move."""
        return float((slope * direction).sum()) > 0
