"""How long do value and gradient of a loss take? The kernel against torch autograd, one thread each.

Cross entropy and focal loss as one would write them in torch, and random losses of fifteen to twenty-four
nodes as the modules that a user gets. The kernel runs value and gradient for all rows of a population in one
call; autograd does one loss after the other, forward and backward. In turn (A B A B ...), medians and spread
of the ratios; both must agree.

    python -m benchmarks.kernel [samples] [pairs]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.population import random_losses
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.module import module_for
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.program import Program
from losssearch.spaces import load_space

RESULTS = Path(__file__).parent / "results"
CLASSES, ROWS, LOSSES = 10, 96, 16
Loss = Callable[[Tensor, Tensor], Tensor]


def by_hand_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, target)


def by_hand_focal(logits: Tensor, target: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)
    return (-0.25 * (1 - log_p.exp()) ** 2 * log_p).mean()


def contenders() -> dict[str, tuple[Sequence[Program], Sequence[Loss]]]:
    """Row of the table -> the programs for the kernel, and for each the loss as a torch function."""
    space = load_space("multiclass")
    focal = space.loss("focal").program.with_constants({"alpha": 0.25, "gamma": 2.0})
    random = [p for p in random_losses(3 * LOSSES) if p.inputs <= {"logits", "target"}][:LOSSES]
    return {
        "cross entropy": ([space.loss("cross_entropy").program], [by_hand_cross_entropy]),
        "focal": ([focal], [by_hand_focal]),
        f"{len(random)} random losses": (random, [module_for(p, "multiclass") for p in random]),
    }


def autograd(
    losses: Sequence[Loss], logits: Tensor, target: Tensor, repeats: int
) -> tuple[float, list[Tensor]]:
    """Seconds a loss, and the gradients."""
    slopes = []
    began = time.perf_counter()
    for _ in range(repeats):
        slopes = []
        for loss in losses:
            leaf = logits.clone().requires_grad_()
            loss(leaf, target).backward()
            slopes.append(leaf.grad)
    return (time.perf_counter() - began) / repeats / len(losses), [s for s in slopes if s is not None]


def main(samples: int = 128, pairs: int = 5) -> None:
    """Print the table and write it as JSON."""
    torch.set_num_threads(1)
    layout = Layout("n", "c", {"n": samples, "c": CLASSES})
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, CLASSES, generator=draw) * 2
    target = torch.randint(CLASSES, (samples,), generator=draw)
    rows: list[dict[str, object]] = []
    for name, (programs, losses) in contenders().items():
        both = [_value_and_slope(p) for p in programs]
        tape = Tape(both, [(), ("n", "c")], layout)
        bound = Bound(tape, np.arange(ROWS) % len(both))
        one_hot = torch.eye(CLASSES)[target]
        inputs = {
            "logits": np.repeat(logits.T.contiguous().numpy()[None], ROWS, 0),
            "target": one_hot.T.contiguous().numpy()[None],
        }
        outputs = bound.run(inputs)
        autograd(losses, logits, target, 3)
        ratios, mine, theirs = [], [], []
        for _ in range(pairs):
            began = time.perf_counter()
            for _ in range(10):
                bound.run(inputs, outputs)
            mine.append((time.perf_counter() - began) / 10 / ROWS)
            seconds, slopes = autograd(losses, logits, target, max(1, 200 // len(losses)))
            theirs.append(seconds)
            ratios.append(theirs[-1] / mine[-1])
        gap = max(
            float((torch.from_numpy(outputs[1][k].T) - slope).abs().max() / slope.abs().max())
            for k, slope in enumerate(slopes)
        )
        row = {
            "losses": name,
            "shape": [samples, CLASSES],
            "kernel_us": statistics.median(mine) * 1e6,
            "autograd_us": statistics.median(theirs) * 1e6,
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "largest_gap": gap,
        }
        rows.append(row)
        print(
            f"{name:18} ({samples}, {CLASSES})   kernel {row['kernel_us']:7.2f} us   "
            f"autograd {row['autograd_us']:7.1f} us   "
            f"ratio {row['ratio']:5.1f} ({min(ratios):.1f} to {max(ratios):.1f})   largest gap {gap:.0e}"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kernel.json").write_text(json.dumps(rows, indent=2) + "\n")


def _value_and_slope(program: Program) -> Program:
    """One program with two outputs: the loss and its gradient."""
    from losssearch.language.program import Builder

    slope = gradient(canonical(program), ("logits",))
    builder = Builder(slope.signature, slope.constants, strict=False)
    return builder.program([builder.add(canonical(program).term()), builder.add(slope.term())])


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
