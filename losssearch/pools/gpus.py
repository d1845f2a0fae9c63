"""How are the GPUs of one machine used?

As its cores are: one local process each, which sees one card and trains on it whatever is trained as a
population. A card trains thousands of small models in the time of a few, so a job here holds many more.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping

from losssearch.errors import PoolError
from losssearch.pools.crew import Hand, check_size
from losssearch.pools.processes import Guard, ProcessHand, ProcessPool
from losssearch.pools.worker import DEVICE

VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuPool(ProcessPool):
    """Local processes, one per GPU; see `ProcessPool`.

    Args:
        size: Number of GPUs; None for all that this process sees.

    Raises:
        PoolError: There are not that many.
        UsageError: `size >= 1` does not hold.
    """

    appetite = 16

    def __init__(self, size: int | None = None, *, tasks: Mapping[str, str] | None = None) -> None:
        if size is not None:
            check_size(size)
        there = _cards()
        if not there or (size or 0) > len(there):
            raise PoolError(
                f"The pool 'gpu' needs {size or 1} GPU{'s'[: (size or 1) > 1]}, but {_seen(len(there))}."
            )
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for card in there:
            self._free.put(card)
        super().__init__(size or len(there), tasks=tasks)

    def _new_hand(self) -> Hand:
        return GpuHand(self._tasks, self._guard, self._free)


class GpuHand(ProcessHand):
    """One local process with a card of its own.

    Args:
        free: Names of the cards that nobody has.
    """

    def __init__(self, tasks: Mapping[str, str] | None, guard: Guard, free: queue.SimpleQueue[str]) -> None:
        card = free.get()
        super().__init__(tasks, guard, {VISIBLE: card, DEVICE: "cuda"})
        self._free, self._held = free, [card]

    def dispose(self) -> None:
        super().dispose()
        while self._held:
            self._free.put(self._held.pop())


def _cards() -> list[str]:
    """What CUDA calls the GPUs that this process sees."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or list(map(str, range(count))))[:count]


def _seen(count: int) -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for CPUs; install one for CUDA"
    return f"torch sees {count}" if count else f"torch {torch.__version__} sees none; does nvidia-smi?"
