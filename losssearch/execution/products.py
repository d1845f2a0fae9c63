"""At which precision are matrices multiplied?

In a training of small models most of the time goes into products. Their factors may be rounded: "tf32" keeps
10 bits of a number on a CUDA device, "bf16" 7 bits on a CUDA device and on CPUs that have instructions for
it. Sums, weights, activations, optimisers and the losses themselves stay in single precision, and so does
everything on a device that knows no such products. A module of somebody else's is under torch's autocast
with "bf16" on CUDA, which rounds its activations too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor

from losssearch.execution.plan import Precision

_LOG = logging.getLogger(__name__)
_ON_CUDA = {"fp32": "highest", "tf32": "high", "bf16": "high"}  # as torch calls them; bf16 is cast besides


@contextmanager
def rounded(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of single precision take factors of this precision, in the whole process.

    On CUDA convolutions and recurrent layers round by default; not here.
    """
    cuda = device.type == "cuda"
    rounds = precision == "bf16" and not cuda and cpu_rounds()
    with _products(_ON_CUDA[precision] if cuda else "medium" if rounds else "highest"):
        if not cuda:
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "fp32"):
            yield


@contextmanager
def _products(word: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(word)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def cpu_rounds() -> bool:
    """Whether this CPU multiplies bf16: tried once on a number that bf16 has not; told in the log."""
    number = torch.full((1, 64, 64), 1 + 2**-10)
    with _products("medium"):
        found = bool(torch.bmm(number, number).max() == 64)
    if not found:
        _LOG.warning("this CPU has no products of bf16: they are done in single precision")
    return found


def casting(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For models that others wrote, where a device does not round by itself."""
    if precision == "bf16" and device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


class Products:
    """Batched products of single-precision tensors.

    Args:
        precision, device: Where a device does not round by itself, factors are cast.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._casts = precision == "bf16" and device.type == "cuda"

    def multiply(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """out = a b, for (R, n, k) and (R, k, m)."""
        if self._casts:
            return out.copy_(_cast(a, b))
        return torch.bmm(a, b, out=out)

    def add(self, start: Tensor, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """out = start + a b."""
        if self._casts:
            return torch.add(start, _cast(a, b), out=out)
        return torch.baddbmm(start, a, b, out=out)

    def accumulate(self, into: Tensor, a: Tensor, b: Tensor, keep: float) -> None:
        """into = keep * into + a b."""
        if self._casts:
            into.mul_(keep).add_(_cast(a, b))
        else:
            into.baddbmm_(a, b, beta=keep)


def _cast(a: Tensor, b: Tensor) -> Tensor:
    """The product of factors in bf16, summed and given in single precision."""
    return torch.bmm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32)
