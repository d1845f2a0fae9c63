"""At which precision are matrices multiplied?

In a training of small models most of the time goes into products. Their factors may be rounded: "tf32" keeps
10 bits of a number on a CUDA device, "bf16" 7 bits on a CUDA device and on CPUs that have instructions for
it. Sums, weights, activations, optimisers and the losses themselves stay in single precision, and so does
everything on a device that knows no such products.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from losssearch.execution.plan import Precision

_LOG = logging.getLogger(__name__)
_ON_CUDA = {"fp32": "ieee", "tf32": "tf32", "bf16": "tf32"}  # the last is for what is not cast


@contextmanager
def rounded(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of single precision take factors of this precision; by default convolutions on CUDA round."""
    backends: Any = torch.backends
    if device.type == "cuda":
        places, wanted = (backends.cuda.matmul, backends.cudnn.conv), _ON_CUDA[precision]
    else:
        places = backends.mkldnn.matmul, backends.mkldnn.conv
        wanted = "bf16" if precision == "bf16" and _has_bf16() else "ieee"
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = wanted
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@cache
def _has_bf16() -> bool:
    """Whether this CPU multiplies bf16; asked once, and told in the log."""
    found = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not found:
        _LOG.warning("this CPU has no products of bf16: they are done in fp32")
    return found


def casting(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For models that others wrote: CUDA has no products that round to bf16 by themselves."""
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
