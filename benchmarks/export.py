"""How much does an exported loss cost beside the same loss written by hand?

The file that `export` writes and the module that `module_for` builds, forward and backward, against what an
expert would write in plain torch for class indices: one log_softmax, one gather, the numbers of the formula
folded in. The hand-written form has a guard only where this formula, with these constants, needs it for a
finite gradient (`GUARDS` says which); ours accepts every target, weight, reduction and dtype of the contract.
One thread, CPU time, call by call in turn (A B A B ...), medians of seven blocks and the spread of their
ratios; values and gradients must agree.

    python -m benchmarks.export [--full]

The short form compiles only two losses, at one shape; `--full` compiles all, at every shape (minutes).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losssearch.execution.module import module_for
from losssearch.exporters.registry import export
from losssearch.exporters.sheet import Sheet
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.spaces import load_space

RESULTS = Path(__file__).parent / "results"
SHAPES = ((4096, 1000), (2048, 100), (128, 10))
PAIRS = 7
COMPILED_IN_SHORT = ("cross_entropy", "focal")
Loss = Callable[[Tensor, Tensor], Tensor]

#: Two formulas as a search finds them, with their constants.
FOUND = {
    "found_1": (
        "mean(log((1 - p_t)*c2 + sigmoid(c0 - c1*margin) + p_t**C), 'n')",
        {"c0": (0.5, -4, 4), "c1": (1.0, -4, 4), "c2": (0.7, -4, 4)},
    ),
    "found_2": (
        "mean(sqrt(1 - p_t)*softplus(c0 - margin) - c1*dot(p, log_p, 'c'), 'n')",
        {"c0": (1.0, -4, 4), "c1": (0.1, -4, 4)},
    ),
}
GUARDS = {"found_2": "sqrt(1 - p_t) stays above sqrt(1e-12): at p_t = 1 its slope is infinite"}


# By hand.


def _log_pt(logits: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(logits, target, reduction="none")


def _margin(logits: Tensor, target: Tensor) -> Tensor:
    index = target[:, None]
    return logits.gather(1, index).squeeze(1) - logits.scatter(1, index, -float("inf")).amax(1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    log_pt = _log_pt(logits, target)
    return -(0.25 * (1 - log_pt.exp()) ** 2 * log_pt).mean()


def gce(logits: Tensor, target: Tensor) -> Tensor:
    return ((1 - (0.7 * _log_pt(logits, target)).exp()) / 0.7).mean()


def sce(logits: Tensor, target: Tensor) -> Tensor:
    log_pt = _log_pt(logits, target)
    return (4.0 * (1 - log_pt.exp()) - 0.1 * log_pt).mean()


def poly1(logits: Tensor, target: Tensor) -> Tensor:
    log_pt = _log_pt(logits, target)
    return (1 - log_pt.exp() - log_pt).mean()


def brier(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(1)
    p_t = p.gather(1, target[:, None]).squeeze(1)
    return (p.square().sum(1) - 2 * p_t + 1).mean()


def label_smoothing(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, label_smoothing=0.1)


def found_1(logits: Tensor, target: Tensor) -> Tensor:
    p_t = _log_pt(logits, target).exp()
    vote = torch.sigmoid(0.5 - _margin(logits, target))
    return ((1 - p_t) * 0.7 + vote + p_t ** logits.shape[1]).log().mean()


def found_2(logits: Tensor, target: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    p_t = log_p.gather(1, target[:, None]).squeeze(1).exp()
    hinge = F.softplus(1.0 - _margin(logits, target))
    return ((1 - p_t).clamp(min=1e-12).sqrt() * hinge - 0.1 * (log_p.exp() * log_p).sum(1)).mean()


BY_HAND: dict[str, Loss] = {
    f.__name__: f for f in (cross_entropy, focal, gce, sce, poly1, brier, label_smoothing, found_1, found_2)
}


def program_of(name: str) -> Program:
    """The row's loss in the loss language."""
    space = load_space("multiclass")
    if name in FOUND:
        formula, constants = FOUND[name]
        return parse(formula, space.signature, constants)
    return space.loss(name).program


def exported(name: str, folder: Path) -> nn.Module:
    """The loss from its exported file."""
    sheet = Sheet(program_of(name), "multiclass", "multiclass", name)
    path = export(sheet, folder / f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"exported_{name}", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss: nn.Module = getattr(module, sheet.class_name)()
    return loss


# The clock.


def value_and_slope(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


def seconds(losses: tuple[Loss, Loss], logits: Tensor, target: Tensor, repeats: int) -> tuple[float, float]:
    """Forward and backward: median CPU seconds of a call, the two in turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for loss, times in zip(losses, taken, strict=True):
            began = time.process_time()
            value_and_slope(loss, logits, target)
            times.append(time.process_time() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


def compare(ours: Loss, by_hand: Loss, logits: Tensor, target: Tensor) -> dict[str, float]:
    """Medians in microseconds, the ratio with its spread, and the largest relative gap."""
    gap = 0.0
    for mine, theirs in zip(
        value_and_slope(ours, logits, target), value_and_slope(by_hand, logits, target), strict=True
    ):
        gap = max(gap, float((mine - theirs).abs().max() / theirs.abs().max()))
    if not gap < 1e-4:
        raise RuntimeError(f"The two losses differ by {gap:.1e}.")
    both = (ours, by_hand)
    once = max(seconds(both, logits, target, 3))
    repeats = max(3, round(0.03 / once))
    pairs = [seconds(both, logits, target, repeats) for _ in range(PAIRS)]
    ratios = [a / b for a, b in pairs]
    return {
        "ours_us": statistics.median(a for a, _ in pairs) * 1e6,
        "by_hand_us": statistics.median(b for _, b in pairs) * 1e6,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "largest_gap": gap,
    }


def batch(samples: int, classes: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, generator=draw)
    return logits, torch.randint(classes, (samples,), generator=draw)


def keep_freed_memory() -> None:
    """Large blocks stay with the process, so that a call's time does not depend on the heap's history.

    Else glibc gives 16 MB tensors back or not, by what lies beside them, and a call costs 4 or 9 ms.
    """
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    libc.mallopt(trim_threshold, 1 << 30)
    libc.mallopt(mmap_threshold, 1 << 30)


def main(full: bool = False) -> None:
    """Print the table and write it as JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: exported(name, Path(folder)) for name in BY_HAND}
        modules = {name: module_for(program_of(name), "multiclass") for name in BY_HAND}
        for shape in SHAPES:
            logits, target = batch(*shape)
            for name, by_hand in BY_HAND.items():
                pairs: dict[str, tuple[Loss, Loss]] = {
                    "file, eager": (files[name], by_hand),
                    "module, eager": (modules[name], by_hand),
                }
                if full or (name in COMPILED_IN_SHORT and shape == SHAPES[0]):
                    torch.compiler.reset()
                    whole = {"fullgraph": True, "dynamic": False}
                    pairs["file, compiled"] = (
                        torch.compile(files[name], **whole),  # type: ignore[call-overload]
                        torch.compile(by_hand, **whole),  # type: ignore[call-overload]
                    )
                for how, (ours, theirs) in pairs.items():
                    row = {"loss": name, "how": how, "shape": list(shape)}
                    rows.append(
                        {**row, **compare(ours, theirs, logits, target), "guard": GUARDS.get(name, "")}
                    )
                    print(_line(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export.json").write_text(json.dumps(rows, indent=2) + "\n")


def _line(row: dict[str, object]) -> str:
    return (
        f"{row['loss']:16} {row['how']:15} {row['shape']!s:13} ours {row['ours_us']:9.1f} us   "
        f"by hand {row['by_hand_us']:9.1f} us   ratio {row['ratio']:5.2f} "
        f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f})   gap {row['largest_gap']:.0e}"
    )


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
