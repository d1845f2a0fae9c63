"""Is what could not be proved of a loss false? Counter-examples, found in fp64, checked again.

Random inputs on the operating ranges, hard labels, a few scales; the canonical program looks for a
counter-example, and the program as written (definitions expanded, no rewrite, every guard on) must
confirm it. About ten milliseconds; a fact that survives stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from losssearch.execution.reference import Compiled, compiled, loss_gradient
from losssearch.language.facts import Fact, Facts, Verdict
from losssearch.language.program import Builder, Program
from losssearch.language.signature import Input, Role, Signature

if TYPE_CHECKING:
    from torch import Generator, Tensor

SAMPLES, CLASSES, REACH = 6, 4, 100.0
SLACK = 1e-7


def refuted(program: Program, known: Facts, *, seed: int = 0, draws: int = 8) -> Facts:
    """The facts, with those that were unknown and have a counter-example now refuted."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    probes = [probe(program.signature, generator, scale) for scale in _scales(draws)]
    run = _Twice(program)
    found: dict[str, Fact] = {}
    for name, look in (("convex", _bent), ("batch_free", _grows), ("monotone", _rises)):
        if getattr(known, name).verdict is not Verdict.UNKNOWN:
            continue
        for inputs in probes:
            fact = look(program, run, inputs, generator)
            if fact is not None:
                found[name] = fact
                break
    return replace(known, **found)  # type: ignore[arg-type]


def _scales(draws: int) -> Iterator[float]:
    for k in range(draws):
        yield (0.5, 2.0, 5.0, 10.0)[k % 4]


class _Twice:
    """A value by the canonical program, and once more by the program as written."""

    def __init__(self, program: Program) -> None:
        builder = Builder(program.signature, program.constants, strict=False, expand=True)
        written = builder.program([builder.add(program.term())])
        self._fast, self._slow = compiled(program), Compiled(written, plain=False)

    def __call__(self, inputs: Mapping[str, Tensor]) -> float:
        return float(self._fast(inputs)[0])

    def again(self, inputs: Mapping[str, Tensor]) -> float:
        return float(self._slow(inputs)[0])


def probe(
    signature: Signature,
    generator: Generator,
    scale: float,
    sizes: tuple[int, int] = (SAMPLES, CLASSES),
) -> dict[str, Tensor]:
    """Random inputs in fp64: predictions of that scale, hard labels, the rest in its range.

    Sizes are of "n" and its copies, and of every other axis.
    """
    return {name: _drawn(item, signature, generator, scale, sizes) for name, item in signature.inputs.items()}


def _drawn(
    item: Input, signature: Signature, generator: Generator, scale: float, sizes: tuple[int, int]
) -> Tensor:
    import torch

    samples = {"n", *(a for a, origin in signature.copies.items() if origin == "n")}
    shape = [sizes[axis not in samples] for axis in item.axes]
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if item.role is Role.MASK:
        return normal > 0
    over = [a for a in item.axes if {f"simplex over {a}", f"one_hot over {a}"} & item.properties]
    if over:
        dim = item.axes.index(over[0])
        if item.role is Role.TARGET:
            return (normal == normal.amax(dim, keepdim=True)).to(normal.dtype)
        return normal.softmax(dim)
    if item.role is Role.TARGET and (item.low, item.high) == (0.0, 1.0):
        return (normal > 0).to(normal.dtype)
    if item.role in (Role.PREDICTION, Role.TARGET):
        return (normal * scale).clamp(item.low, item.high)
    low = max(item.low, -REACH)
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    return low + share * (min(item.high, low + REACH) - low)


def _example(inputs: Mapping[str, Tensor], **values: float) -> dict[str, object]:
    return {"inputs": {name: tensor.tolist() for name, tensor in inputs.items()}, **values}


def _bent(program: Program, run: _Twice, inputs: Mapping[str, Tensor], generator: Generator) -> Fact | None:
    """Above its chord at the middle."""
    import torch

    names = program.signature.predictions
    moves = {n: torch.randn(inputs[n].shape, generator=generator, dtype=torch.float64) for n in names}
    left = {**inputs, **{n: inputs[n] - moves[n] for n in names}}
    right = {**inputs, **{n: inputs[n] + moves[n] for n in names}}
    for value in (run, run.again):
        middle, chord = value(inputs), (value(left) + value(right)) / 2
        if not middle > chord + SLACK * (1 + abs(middle) + abs(chord)):
            return None
    return Fact(
        Verdict.REFUTED,
        f"Between two predictions it is {middle:.6g}, above the mean {chord:.6g} of its ends.",
        _example(left, middle=middle, chord=chord) | {"other": {n: right[n].tolist() for n in names}},
    )


def _grows(program: Program, run: _Twice, inputs: Mapping[str, Tensor], generator: Generator) -> Fact | None:
    """Changes when every sample is given twice."""
    import torch

    signature = program.signature
    samples = {"n", *(a for a, origin in signature.copies.items() if origin == "n")}
    double = dict(inputs)
    for name, item in signature.inputs.items():
        for dim, axis in enumerate(item.axes):
            if axis in samples:
                double[name] = torch.cat([double[name], double[name]], dim)
    for value in (run, run.again):
        once, twice = value(inputs), value(double)
        if not abs(twice - once) > SLACK * (1 + abs(once) + abs(twice)):
            return None
    return Fact(
        Verdict.REFUTED,
        f"With every sample twice it is {twice:.6g} and not {once:.6g}.",
        _example(inputs, once=once, twice=twice),
    )


def _rises(program: Program, run: _Twice, inputs: Mapping[str, Tensor], generator: Generator) -> Fact | None:
    """Rises along a small step of the true logit up (or, without classes, towards the target)."""
    signature = program.signature
    targets = [n for n, i in signature.inputs.items() if i.role is Role.TARGET]
    if len(targets) != 1 or len(signature.predictions) != 1:
        return None
    [target], [prediction] = targets, signature.predictions
    if signature.inputs[target].axes != signature.inputs[prediction].axes:
        return None
    item, z, t = signature.inputs[target], inputs[prediction], inputs[target]
    if item.properties:
        better = t
    elif (item.low, item.high) == (0.0, 1.0):
        better = 2 * t - 1
    else:
        better = t - z
    slope = float((loss_gradient(program, prediction)(inputs) * better).sum())
    if not slope > SLACK:
        return None
    step = 1e-4
    moved = {**inputs, prediction: z + step * better}
    for value in (run, run.again):
        before, after = value(inputs), value(moved)
        if not after > before + 1e-12 * (1 + abs(before)):
            return None
    return Fact(
        Verdict.REFUTED,
        f"A step of {step:g} to the better raises it from {before:.9g} to {after:.9g}.",
        _example(inputs, before=before, after=after),
    )
