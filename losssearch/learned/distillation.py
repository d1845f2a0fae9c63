"""Which formula does a black box compute, nearly?

A learned loss is turned back into the language by the search itself: a controller proposes programs, and
the score says how badly the best positive multiple of their gradient fits the learned loss's on probes:

    misfit = 1 - R^2 = min_a  sum |g - a f|^2 / sum |g|^2,   a >= 0,      g learned, f proposed

and, with a tenth of the weight, how badly that multiple of their value does: a loss is only its gradient
to whoever trains with it, but terms that add nothing to the gradient should not pile up. Constants of
promising programs are tuned by following the score's own gradient. The probes say where the formula
holds; a second set, drawn alike and never fitted, gives the figures that are reported. Half a minute of
one core tries some thousand programs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from losssearch.controllers.base import Proposal, Start, Told
from losssearch.controllers.registry import make_controller
from losssearch.errors import LossSearchError, UsageError
from losssearch.execution.conventions import bounded, unbounded
from losssearch.execution.parts import parts_of
from losssearch.execution.reference import Compiled
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.learned.watch import Progress, Watch, no_watch
from losssearch.outcomes import Outcome
from losssearch.spaces import Space

STAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLES, CLASSES = 96, 4
BATCH = 50
TUNED_SHARE = 0.3  # of the programs of a batch, the best: their constants are tuned
STEPS, RATE = 40, 0.15
VALUE_WEIGHT = 0.1


class Valued(Protocol):
    """A loss whose value a sample can be asked for."""

    def values(self, prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
        """Shape (..., n)."""


@dataclass(frozen=True)
class Distilled:
    """A formula in the place of a network.

    Args:
        program: Its constants are tuned.
        factor: What its value is multiplied by to come nearest.
        value_r2, gradient_r2: Share of the learned loss's variance, and of its squared gradient, that the
            formula explains, on probes that were not fitted; 1 is all. The value may differ by a constant.
            The gradient of a weighting is not that of its value (its weights have none): no formula fits
            both.
        tried: Programs that were scored.
    """

    program: Program
    factor: float
    value_r2: float
    gradient_r2: float
    tried: int


@dataclass(frozen=True)
class Probe:
    """Where two losses are compared: inputs (stages, n, ...), and the learned one's values and gradients."""

    inputs: Mapping[str, Tensor]
    values: Tensor
    slopes: Tensor


def distil(
    loss: Valued,
    space: Space,
    *,
    seconds: float = 30.0,
    programs: int | None = None,
    start: Sequence[str] | None = None,
    controller: str = "evolution",
    reach: float = 3.0,
    good_enough: float = 0.9999,
    seed: int = 0,
    watch: Watch = no_watch,
) -> Distilled:
    """Search for the formula that comes nearest to a learned loss.

    Args:
        loss: A `LearnedLoss`, or whatever has `values`.
        space: What may be written.
        seconds: Time to search.
        programs: Stop after so many instead, whatever the time: then the result depends on the seed alone.
        start: Classical losses to start from; None takes all that need no further data.
        controller: What proposes.
        reach: Typical size of predictions, in the unit of the loss's own training.
        good_enough: Stop when the score is below one less this.

    Raises:
        UsageError: An argument does not fit.
    """
    if seconds <= 0 or reach <= 0 or (programs is not None and programs < 1):
        raise UsageError(
            f"`seconds, reach > 0` and `programs >= 1` must hold, but got {seconds}, {reach} and {programs}."
        )
    fitted, fresh = (probe(loss, space, reach, number) for number in (seed, seed + 1))
    proposer = make_controller(controller, space, _start(space, start, fitted), seed)
    best: tuple[float, Program] | None = None
    began, tried = time.monotonic(), 0
    while True:
        scored = [_scored(p, space, fitted) for p in proposer.ask(BATCH)]
        able = sorted((s.score, i) for i, s in enumerate(scored) if s.score is not None)
        for _, i in able[: max(1, round(TUNED_SHARE * len(able)))]:
            scored[i] = _tuned(scored[i], space, fitted)
        proposer.tell(scored)
        tried += len(scored)
        for one in scored:
            if one.score is not None and (best is None or one.score < best[0]):
                best = one.score, one.program
        spent = time.monotonic() - began
        done, of = (tried, programs) if programs is not None else (round(spent), round(seconds))
        end = tried >= programs if programs is not None else spent >= seconds
        going = watch(Progress("distillation", done, of, best[0] if best else float("nan")))
        if end or not going or (best is not None and best[0] <= 1 - good_enough):
            break
    if best is None:
        raise UsageError(f"No program of the space {space.name} has a gradient on the probes.")
    factor, value_r2, gradient_r2 = fit(best[1], space, fresh)
    return Distilled(best[1], factor, value_r2, gradient_r2, tried)


def probe(loss: Valued, space: Space, reach: float, seed: int) -> Probe:
    """Predictions near and far from their targets, at five stages of training."""
    draw = torch.Generator().manual_seed(seed)
    wrt, kind = space.signature.predictions[0], space.task
    shape = (len(STAGES), SAMPLES)
    size = reach * 10 ** (-1.5 * torch.rand(*shape, generator=draw))
    if kind == "regression":
        target = reach / 2 * torch.randn(*shape, generator=draw)
        prediction = target + size * torch.randn(*shape, generator=draw)
    elif kind == "multiclass":
        label = torch.randint(0, CLASSES, shape, generator=draw)
        target = torch.eye(CLASSES)[label]
        right = (torch.rand(*shape, generator=draw) < 0.5).float()
        prediction = size[..., None] * (
            torch.randn(*shape, CLASSES, generator=draw) + right[..., None] * target
        )
    else:
        raise UsageError(f"Learned losses are distilled for regression and multiclass, not for {kind!r}.")
    progress = torch.tensor(STAGES)
    inputs = {wrt: prediction.double(), "target": target.double(), "progress": progress.double()}
    leaf = inputs[wrt].clone().requires_grad_()
    stages = inputs["progress"].reshape(-1, *[1] * (leaf.ndim - 1))
    values = loss.values(leaf, inputs["target"], stages)
    (slopes,) = torch.autograd.grad(values.sum(), leaf)
    known = {name: value for name, value in inputs.items() if name in space.signature.inputs}
    return Probe(known, values.detach(), slopes)


def fit(program: Program, space: Space, at: Probe) -> tuple[float, float, float]:
    """Best factor, value R^2 and gradient R^2 of a formula.

    Raises:
        UsageError: It couples or weighs samples.
    """
    run = _runner(program, space)
    if run is None:
        raise UsageError(f"{program.text} gives no value of each sample on its own.")
    values, slopes = run(at, {}, False)
    factor = _factor(slopes, at.slopes)
    value_r2 = 1 - float(_value_misfit(values * factor, at.values))
    return factor, value_r2, 1 - float(_misfit(slopes, at.slopes))


def _start(space: Space, names: Sequence[str] | None, at: Probe) -> Start:
    """The named losses, or all that read nothing but what the probes have."""
    if names is not None:
        unknown = sorted(set(names) - set(space.losses))
        if unknown:
            raise UsageError(f"The space {space.name} has no loss {unknown[0]!r}.")
        return [(name, space.losses[name].program) for name in names]
    able = [loss for loss in space.seeds if set(loss.program.inputs) <= set(at.inputs)]
    return [(loss.name, loss.program) for loss in able]


#: Probe, constants and whether to keep the graph, to values and gradients of each sample.
Run = Callable[[Probe, Mapping[str, Tensor], bool], tuple[Tensor, Tensor]]


def _runner(program: Program, space: Space) -> Run | None:
    """A program as a function of constants under the names that it was written with; None if coupled."""
    parts = parts_of(program, space.task)
    if parts.coupled or len(parts.program.outputs) != 1:
        return None
    compiled, wrt = Compiled(parts.program), space.signature.predictions[0]

    def run(at: Probe, constants: Mapping[str, Tensor], graph: bool) -> tuple[Tensor, Tensor]:
        leaf = at.inputs[wrt].detach().requires_grad_()
        values = compiled({**at.inputs, wrt: leaf}, constants)[0].expand_as(at.values)
        if not values.requires_grad:
            return values, torch.zeros_like(leaf)
        (slopes,) = torch.autograd.grad(
            values.sum(), leaf, create_graph=graph, allow_unused=True, materialize_grads=True
        )
        return (values, slopes) if graph else (values.detach(), slopes)

    return run


def _factor(slopes: Tensor, wanted: Tensor) -> float:
    """The multiple that comes nearest; never negative, for the formula must pull the same way."""
    return max(0.0, float((slopes * wanted).sum() / slopes.square().sum().clamp_min(1e-30)))


def _misfit(slopes: Tensor, wanted: Tensor) -> Tensor:
    """1 - R^2 of the best multiple >= 0, as a differentiable number in [0, 1]."""
    along = (slopes * wanted).sum().clamp_min(0.0)
    size = slopes.square().sum().clamp_min(1e-30)
    return 1 - along.square() / (size * wanted.square().sum())


def _value_misfit(values: Tensor, wanted: Tensor) -> Tensor:
    """1 - R^2 of values up to a constant."""
    gap, spread = values - wanted, wanted - wanted.mean()
    return (gap - gap.mean()).square().sum() / spread.square().sum()


def _score(values: Tensor, slopes: Tensor, at: Probe) -> Tensor:
    """What the search makes small, differentiable in the constants."""
    along, size = (slopes * at.slopes).sum(), slopes.square().sum().clamp_min(1e-30)
    value = _value_misfit(values * (along.clamp_min(0.0) / size), at.values)
    return _misfit(slopes, at.slopes) + VALUE_WEIGHT * value.clamp_max(1.0)


def _scored(proposal: Proposal, space: Space, at: Probe) -> Told:
    """A proposal with its score; without where it reads what the probes lack, couples samples or fails."""
    program = proposal.program
    told = Told(proposal.number, candidate_key(program), program, None, Outcome.NOT_FINITE, program.size, 0)
    if not set(program.inputs) <= set(at.inputs):
        return told
    try:
        run = _runner(program, space)
    except LossSearchError:  # such as a formula that simplifies to no loss
        return told
    if run is None:
        return told
    score = float(_score(*run(at, {}, False), at))
    return replace(told, score=score, outcome=Outcome.SCORED) if math.isfinite(score) else told


def _tuned(told: Told, space: Space, at: Probe) -> Told:
    """The same structure with constants that fit better, if there are any to tune."""
    free = [c for c in told.program.constants if c.low < c.high]
    run = _runner(told.program, space)
    if not free or run is None or told.score is None:
        return told
    raws = [unbounded(c.value, c.low, c.high).double().requires_grad_() for c in free]
    adam = torch.optim.Adam(raws, RATE)
    best, values = told.score, {c.name: c.value for c in free}
    for _ in range(STEPS):
        now = {c.name: bounded(raw, c.low, c.high) for c, raw in zip(free, raws, strict=True)}
        score = _score(*run(at, now, True), at)
        if not bool(torch.isfinite(score)) or not score.requires_grad:  # no constant reaches the loss
            break
        if float(score.detach()) < best:
            best, values = float(score.detach()), {name: float(v.detach()) for name, v in now.items()}
        adam.zero_grad()
        score.backward()
        if not all(raw.grad is None or bool(torch.isfinite(raw.grad)) for raw in raws):
            break
        adam.step()
    program = told.program.with_constants(values)
    return replace(told, program=program, key=candidate_key(program), score=best)
