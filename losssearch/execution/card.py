"""What is special about a GPU: how many models fit its memory, and that launching costs more than running.

A step of small models is some thirty launches of a few microseconds each, for work that takes less. So an
epoch is recorded once as a CUDA graph and played again. On the CPU all of it steps aside.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from losssearch.execution.plan import MLP, Run, RunResult, Setting, Trainable

SHARE = 0.8  # of the memory that is free
MOST = 8192  # models side by side: then a card is busy, and the tables are still made in a second
ANY_MODULE = 512  # models of a kind whose size nobody knows; halved until they fit
NUMBER = 4  # bytes


def recorded(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same function, recorded on a GPU at its second call and played from then on.

    Its launches must be the same at every call, on the same memory. The first call runs as it is: it compiles
    and allocates what the others use again.
    """
    if device.type != "cuda":
        return function
    graph: torch.cuda.CUDAGraph | None = None
    warm = False

    def call() -> None:
        nonlocal graph, warm
        if not warm:
            function()
            warm = True
            return
        if graph is None:
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):  # records; nothing runs yet
                function()
        graph.replay()

    return call


def models_that_fit(proxy: Trainable, setting: Setting, run: Run, device: torch.device) -> int:
    """How many models may stand side by side, by the memory that is free."""
    if not isinstance(setting.model, MLP) or device.type != "cuda":
        return ANY_MODULE
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    split = proxy.split(run.split, run.condition, run.stage)
    parts = [part for part in (split.valid, split.test) if part is not None]
    features, outputs = split.train[0].shape[1] + 1, proxy.classes or 1
    bytes_each = mlp_bytes(setting, features, outputs, max(len(x) for x, _ in parts))
    return max(1, min(MOST, int(SHARE * free / bytes_each)))


def mlp_bytes(setting: Setting, features: int, outputs: int, judged: int) -> int:
    """About the memory of one perceptron while it trains and is judged on so many samples."""
    assert isinstance(setting.model, MLP)
    sizes = (features, *setting.model.hidden, outputs)
    parameters = sum((i + 1) * o for i, o in pairwise(sizes))
    states = 4 if setting.optimiser == "adam" else 2
    layers = sum(sizes[1:])
    training = 2 * layers * setting.batch + 5 * outputs * setting.batch  # activations; the losses' memory
    judging = (layers + 4 * outputs) * judged
    rounded_too = 1.5 if setting.precision == "bf16" else 1.0  # factors in half the bytes, and a product
    return int(rounded_too * NUMBER * (states * parameters + training + judging))


def in_memory(train: Callable[[Sequence[int]], list[RunResult]], members: Sequence[int]) -> list[RunResult]:
    """`train(members)`, in halves where the GPU's memory does not suffice.

    Raises:
        torch.OutOfMemoryError: One model alone does not fit.
    """
    try:
        return train(members)
    except torch.OutOfMemoryError:
        if len(members) == 1:
            raise
    gc.collect()  # outside the handler, whose traceback holds the tensors
    torch.cuda.empty_cache()
    half = len(members) // 2
    return [*in_memory(train, members[:half]), *in_memory(train, members[half:])]
