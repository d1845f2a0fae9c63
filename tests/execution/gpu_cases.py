"""Cases for the GPU's kernel, beside the CPU's: in numba's simulator, as a program of its own, or on a card.

    NUMBA_ENABLE_CUDASIM=1 python -m tests.execution.gpu_cases

The simulator has a thread for every thread, so that shapes are small: it shows the arithmetic of places, of
orders and of barriers. Prints, as JSON, greatest differences and least sizes of results.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Constant, program_of
from losssearch.language.signature import Input, Role, Signature
from losssearch.language.term import Term
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


def losses(device: torch.device) -> dict[str, dict[str, float]]:
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
    rows = {
        "which": {"target": np.arange(ROWS) % DATA},
        "into": np.arange(ROWS)[::-1].copy(),
        "constants": [{"a": 1 + r / 10} for r in range(ROWS)],
        "scales": np.linspace(0.5, 2, ROWS),
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
        wanted, mine = both(tape, np.arange(ROWS) % len(made), given, device, blocks, threads, rows)
        found[kind] = {
            "gap": float((np.abs(mine - wanted) / (1 + np.abs(wanted))).max()),
            "least": float(np.abs(wanted).reshape(ROWS, -1).max(1).min()),
        }
    return found


def both(
    tape: Tape,
    chosen: NDArray[np.int64],
    given: Mapping[str, NDArray[np.float32]],
    device: torch.device,
    blocks: int,
    threads: int,
    rows: Mapping[str, Any],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the CPU's kernel gives, and what the GPU's."""
    [wanted] = Bound(tape, chosen, **rows).run(given)
    bound = GpuBound(tape, chosen, device=device, blocks=blocks, threads=threads, **rows)
    for _ in range(2):  # again in the same memory
        [mine] = bound.run({name: torch.from_numpy(array).to(device) for name, array in given.items()})
    return wanted, mine.cpu().numpy()


def opcodes(device: torch.device) -> dict[str, float]:
    """Every elementwise primitive, beyond its guards too, and on nan; the difference by its name."""
    numbers = [-80.0, -2.5, -1e-7, 0.0, 1e-7, 0.3, 1.0, 7.0, 61.0, math.nan]
    x = np.array(numbers * 10, np.float32)
    y = np.repeat(np.array(numbers, np.float32), 10)
    z = np.roll(x, 3)
    rows = {n: row for n, row in PRIMITIVES.items() if row.scalar is not None}
    axes = {f"x{k}": Input(f"x{k}", ("n",), Role.PREDICTION if k == 0 else Role.PROVIDED) for k in range(3)}
    signature = Signature(axes=("n",), inputs=axes)
    programs = []
    for name, row in rows.items():
        terms = [Term("name", (), f"x{k}") for k in range(row.arity)]
        if row.masks:
            terms[0] = Term("greater", (terms[0], Term("literal", (), 0.0)))
        programs.append(program_of(signature, Term(name, tuple(terms)), scalar=False))
    tape = Tape(programs, [("n",)], Layout("n", "", {"n": len(x)}))
    assert not tape.refused
    given = {"x0": x[None], "x1": y[None], "x2": z[None]}
    wanted, mine = both(tape, np.arange(len(programs)), given, device, 2, 8, {})
    found = {}
    for name, theirs, own in zip(rows, wanted, mine, strict=True):
        shown = np.isfinite(theirs) & (np.abs(theirs) < 1e30)  # powers of -80 leave single precision
        odd = np.isnan(theirs) != np.isnan(own)
        gap = np.abs(own - theirs)[shown] / (1 + np.abs(theirs[shown]))
        found[name] = math.inf if odd.any() else float(gap.max(initial=0.0))
    return found


def population() -> dict[str, float]:
    """A block of models, trained with the losses on either side, beside one that the kernel refuses."""
    signature = load_space("multiclass").signature
    texts = ["mean(-log_pt, 'n')", "mean((1 - p_t) ** b * -log_pt, 'n')", REFUSED]
    functions = [
        loss_gradient(parse(text, signature, {"b": Constant("b", 2.0, 0, 5)}), "logits", 0.5 + i)
        for i, text in enumerate(texts)
    ]
    runs = [Run(i, s, rate) for i in (0, 2, 1) for s in (0, 1) for rate in ((0.1, 0.2) if i else (0.1,))]
    task = Task(Setting(MLP((4,)), batch=8, epochs=1))
    wanted = [result.metric for result in train_population(task, functions, runs)]
    gpu.THREADS = 4
    slopes._kernel_on = lambda device: slopes.GpuSlopes
    mine = [result.metric for result in train_population(task, functions, runs)]
    gaps = [abs(a - b) / b for a, b in zip(mine, wanted, strict=True)]
    return {"gap": max(gaps), "runs": len(runs), "different": len(set(wanted))}


if __name__ == "__main__":
    here = torch.device("cpu")
    json.dump({**losses(here), "opcodes": opcodes(here), "population": population()}, sys.stdout)
