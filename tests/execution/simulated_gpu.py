"""Runs the GPU's kernel in numba's simulator, beside the CPU's; a program of its own, see `test_gpu.py`.

    NUMBA_ENABLE_CUDASIM=1 python simulated_gpu.py

The simulator has a thread for every thread, so that shapes are small: it shows the arithmetic of places, of
orders and of barriers. Prints the greatest difference a case.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from losssearch.execution import slopes
from losssearch.execution.kernel import gpu
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.gpu import GpuBound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.plan import MLP, Run, Setting
from losssearch.execution.population import train_population
from losssearch.execution.reference import loss_gradient
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.formula import parse
from losssearch.language.program import Constant
from losssearch.spaces import load_space
from tests.execution.test_population import Task

LAYOUT = Layout("n", "c", {"n": 7, "c": 3})
FORMULAS = [
    "mean(-log_pt, 'n')",
    "mean(a * logits / N, 'n c') + progress",
    "mean(where(any(logits > 2, 'c'), dot(logits, logits, 'c'), 0), 'n')",
    "sum(square(mean(logits, 'n')) * prior, 'c')",
    "max(sum(logits, 'c'), 'n') - min(sum(logits, 'c'), 'n')",
    "mean(logsumexp(logits, 'c') - logsumexp(logits, 'c', target), 'n')",
    "sum(softmax(logits, 'n') * target, 'n c')",
    "mean((1 - p_t) ** b * -log_pt * a, 'n') + mean(sqrt(abs(p_t - 0.3)), 'n')",
]
REFUSED = "mean(-dot(like(target, d='c'), like(log_p, d='c'), 'd'), 'n')"
ROWS, DATA = 9, 3  # rows, and rows of the inputs that they share


def kernel() -> dict[str, dict[str, float]]:
    """Values and slopes of many losses, rows dealt out of order, with constants and scales of their own."""
    space = load_space("multiclass")
    constants = {"a": Constant("a", 1.7, 0, 5), "b": Constant("b", 2.2, 0, 5)}
    programs = [canonical(parse(text, space.signature, constants)) for text in FORMULAS]
    rng = np.random.default_rng(0)
    target = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (DATA, 7))]
    inputs = {
        "logits": rng.normal(size=(ROWS, 3, 7)).astype(np.float32) * 3,
        "target": np.ascontiguousarray(target.transpose(0, 2, 1)),
        "prior": np.array([[0.2, 0.3, 0.5]], np.float32),
        "progress": np.array([0.25], np.float32),
    }
    found = {}
    cases = [
        ("values", programs, (), 1, 4),
        ("slopes", [gradient(program, ("logits",)) for program in programs], ("n", "c"), 3, 8),
    ]
    for kind, made, axes, blocks, threads in cases:
        tape = Tape(made, [axes], LAYOUT, scaled=True)
        assert not tape.refused, tape.refused
        given = {name: inputs[name] for name in tape.inputs}
        chosen = np.arange(ROWS) % len(made)
        rows = {
            "which": {"target": np.arange(ROWS) % DATA},
            "into": np.arange(ROWS)[::-1].copy(),
            "constants": [{"a": 1 + r / 10} for r in range(ROWS)],
            "scales": np.linspace(0.5, 2, ROWS),
        }
        [wanted] = Bound(tape, chosen, **rows).run(given)
        bound = GpuBound(tape, chosen, device=torch.device("cpu"), blocks=blocks, threads=threads, **rows)
        for _ in range(2):  # again in the same memory
            [mine] = bound.run({name: torch.from_numpy(array) for name, array in given.items()})
        found[kind] = {
            "gap": float((np.abs(mine.numpy() - wanted) / (1 + np.abs(wanted))).max()),
            "least": float(np.abs(wanted).reshape(ROWS, -1).max(1).min()),
        }
    return found


def population() -> dict[str, float]:
    """A block of models, trained with the losses on either side, beside one that the kernel refuses."""
    signature = load_space("multiclass").signature
    texts = ["mean(-log_pt, 'n')", "mean((1 - p_t) ** b * -log_pt, 'n')", REFUSED]
    losses = [
        loss_gradient(parse(text, signature, {"b": Constant("b", 2.0, 0, 5)}), "logits", 0.5 + i)
        for i, text in enumerate(texts)
    ]
    runs = [Run(i, s, rate) for i in (0, 2, 1) for s in (0, 1) for rate in ((0.1, 0.2) if i else (0.1,))]
    task = Task(Setting(MLP((4,)), batch=8, epochs=1))
    wanted = [result.metric for result in train_population(task, losses, runs)]
    gpu.THREADS = 4
    slopes._kernel_on = lambda device: slopes.GpuSlopes
    mine = [result.metric for result in train_population(task, losses, runs)]
    gaps = [abs(a - b) / b for a, b in zip(mine, wanted, strict=True)]
    return {"gap": max(gaps), "runs": len(runs), "different": len(set(wanted))}


if __name__ == "__main__":
    json.dump({**kernel(), "population": population()}, sys.stdout)
