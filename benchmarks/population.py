"""How many losses are judged a second: all trained at once, or one after the other as one would write it?

The task: random multiclass losses of about twenty nodes, each trained on digits with 40 % wrong labels: an
MLP 64-64-10, 200 batches of 128, SGD with momentum, two splits and two learning rates a loss. One thread
each, in turn (A B A B ...), medians and spread of the ratios. The peer is a plain PyTorch loop over the same
module that a user gets from `module()`. Errors of both must agree: the same data, batches and first weights.
On a GPU both run there, and the time holds everything, from formulas to errors. Another precision is that of
the population's products; the loop stays in single precision, since rounding made it slower on a CPU.

    python -m benchmarks.population [losses] [pairs] [device] [precision]
    python -m benchmarks.population 2048 5 cuda
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from losssearch.controllers.registry import make_controller
from losssearch.execution.module import module_for
from losssearch.execution.plan import MLP, Run
from losssearch.execution.reference import loss_gradient
from losssearch.execution.stacked import initial_weights
from losssearch.language.program import Program
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy
from losssearch.screening.pipeline import Screens
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import load_space

RESULTS = Path(__file__).parent / "results"
EPOCHS = 40  # of five batches: 200 steps


def random_losses(count: int) -> list[Program]:
    """Losses of 15 to 24 nodes that pass every screen."""
    space = load_space("multiclass")
    controller, screens = make_controller("random", space, [], 1), Screens.of(space)
    found: list[Program] = []
    while len(found) < count:
        for proposal in controller.ask(64):
            verdict = screens.judge(proposal.program)
            if verdict.rejection is None and verdict.case.written.size >= 15:
                found.append(verdict.case.written)
    return found[:count]


def stacked(proxy: Proxy, losses: list[Program], runs: list[Run], device: str) -> list[float]:
    """All at once."""
    space = load_space("multiclass")
    gradients = [loss_gradient(p, "logits", gradient_scale(p, space)) for p in losses]
    return [r.metric if r.metric is not None else float("nan") for r in proxy.train(gradients, runs, device)]


def looped(proxy: Proxy, losses: list[Program], runs: list[Run], device: str) -> list[float]:
    """One after the other, as one would write it."""
    space, errors = load_space("multiclass"), []
    for run in runs:
        program = losses[run.loss]
        scale = gradient_scale(program, space)
        split, setting = proxy.split(run.split), proxy.setting()
        x, y = (torch.as_tensor(a, device=device) for a in split.train)
        classes = y.argmax(1)
        counts = torch.as_tensor(split.provided["count"])
        given = {"prior": torch.as_tensor(split.provided["prior"]), "count": counts}
        provided = {k: v for k, v in given.items() if k in program.inputs}
        loss = module_for(program, "multiclass", scale=scale, provided=provided).to(device)
        model = _model(split.seed).to(device)
        optimiser = torch.optim.SGD(model.parameters(), run.rate, setting.momentum, weight_decay=run.decay)
        order = torch.Generator().manual_seed(split.seed + 1)
        steps = len(x) // setting.batch
        for epoch in range(EPOCHS):
            rows = torch.randperm(len(x), generator=order)[: steps * setting.batch].to(device)
            for k, batch in enumerate(rows.split(setting.batch)):
                if "progress" in program.inputs:
                    loss.set_progress((epoch * steps + k) / (EPOCHS * steps))
                optimiser.zero_grad()
                loss(model(x[batch]), classes[batch]).backward()
                optimiser.step()
        with torch.no_grad():
            valid, truth = (torch.as_tensor(a, device=device) for a in split.valid)
            errors.append(float((model(valid).argmax(1) != truth.argmax(1)).float().mean()))
    return errors


def _model(seed: int) -> nn.Module:
    """The stacked trainer's initial weights in an ordinary model."""
    layers = initial_weights(MLP((64,)), 64, 10, seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        for layer, (weight, bias) in zip((model[0], model[2]), layers, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return model


def main(count: int = 64, pairs: int = 5, device: str = "cpu", precision: str = "fp32") -> None:
    """Print the table and write it as JSON."""
    torch.set_num_threads(1)
    proxy, losses = load_proxy(f"digits-noisy@{precision}"), random_losses(count)
    runs = [Run(i, s, r, 0.01, EPOCHS) for i in range(count) for s in (0, 1) for r in (0.04, 0.08)]
    few = runs[:: max(1, len(runs) // 16)]  # the loop is slow: some of the runs tell its rate
    stacked(proxy, losses[:2], runs[:4], device)  # warm-up: data, kernels
    looped(proxy, losses[:1], runs[:1], device)
    ratios, rows = [], []
    for _ in range(pairs):
        began = time.perf_counter()
        mine = stacked(proxy, losses, runs, device)
        middle = time.perf_counter()
        theirs = looped(proxy, losses, few, device)
        end = time.perf_counter()
        a, b = len(runs) / (middle - began), len(theirs) / (end - middle)
        same = mine[:: max(1, len(runs) // 16)]
        gaps = [abs(x - y) for x, y in zip(same, theirs, strict=True) if x == x and y == y]
        ratios.append(a / b)
        rows.append({"stacked_per_second": a, "looped_per_second": b, "ratio": a / b})
        print(
            f"stacked {a:6.1f}/s   looped {b:6.1f}/s   ratio {a / b:5.1f}   "
            f"median gap of errors {statistics.median(gaps):.4f}",
            flush=True,
        )
    print(f"ratio: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}")
    words = ["population", *["gpu"][: device != "cpu"], *[precision][: precision != "fp32"]]
    about = {} if device == "cpu" else {"device": torch.cuda.get_device_name(device)}
    about |= {"precision": precision}
    RESULTS.mkdir(exist_ok=True)
    found = {**about, "losses": count, "pairs": rows}
    (RESULTS / f"{'-'.join(words)}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]), *sys.argv[3:5])
