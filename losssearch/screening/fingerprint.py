"""Is it a known loss up to one positive factor?

Two losses are the *same* when their gradients in all differentiable inputs agree to 1e-8 on the stratified
probes up to one factor common to all batches: the known result is credited. They are *step-size variants*
when the factor changes from batch to batch (a squared cross entropy, a schedule in front of it): that is
tagged, never called a discovery, but trained. Looking up costs two dictionary reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen

AGREE = 1e-8
VARIANT = "step-size variant of"
_BUCKET = 1e-5


@dataclass(frozen=True)
class _Known:
    key: str
    text: str
    directions: Tensor
    sizes: Tensor


class Fingerprint(Screen):
    """Remembers the gradient direction of every loss that passed all screens."""

    name = "fingerprint"
    title = "the gradient of a known loss up to one factor"

    def __init__(self) -> None:
        self._known: dict[int, list[_Known]] = {}
        self._projection: Tensor | None = None

    def judge(self, case: Case) -> Rejection | None:
        print_ = self._print(case)
        bucket = self._bucket(print_)
        for near in (bucket - 1, bucket, bucket + 1):
            for known in self._known.get(near, ()):
                if known.directions.shape != print_.directions.shape:
                    continue
                if float((known.directions - print_.directions).abs().max()) > AGREE:
                    continue
                ratio = print_.sizes - known.sizes
                alive = torch.isfinite(ratio)
                if float(ratio[alive].max() - ratio[alive].min()) <= AGREE:
                    return Rejection(Outcome.EQUIVALENT, f"same as {known.text}", known.key)
                tag = f"{VARIANT} {known.text}"
                if tag not in case.tags:
                    case.tags.append(tag)
        return None

    def admit(self, case: Case) -> None:
        print_ = self._print(case)
        self._known.setdefault(self._bucket(print_), []).append(print_)

    def _print(self, case: Case) -> _Known:
        """Direction of each batch's gradient, and the logarithm of its size."""
        flat = torch.cat([s.reshape(s.shape[0], -1) for s in case.slopes], dim=1)
        sizes = flat.norm(dim=1, keepdim=True)
        directions = flat / sizes.clamp(min=1e-300)
        return _Known(case.key, case.written.text, directions, sizes.squeeze(1).log())

    def _bucket(self, print_: _Known) -> int:
        shape = print_.directions.shape
        if self._projection is None or self._projection.shape != shape:
            generator = torch.Generator().manual_seed(3)
            self._projection = torch.randn(shape, generator=generator, dtype=torch.float64)
        return round(float((print_.directions * self._projection).sum()) / _BUCKET)
