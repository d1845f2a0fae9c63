"""Which loss is best when the answer is known?

A linear model with 4 slopes and an intercept, 400 samples, and noise whose law is known. No
unbiased fit of the slopes can beat the Cramer-Rao bound, and the negative log-likelihood of the
noise nearly reaches it. The error of a loss is its mean squared slope error over 50 data sets,
divided by that bound: 1 / efficiency, 1 is the limit (at 400 samples a loss may beat it by a few
percent). A loss is fitted by its gradient alone, deterministically; learning rates, weight decay
and epochs play no part. One run (one split: 50 data sets) takes some 20
milliseconds and up to 60 calls of the gradient, shared by all runs of a loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from losssearch.execution.plan import GradientFn, Run, RunResult, Setting, Split, Stage
from losssearch.execution.rows import on_rows
from losssearch.outcomes import Outcome
from losssearch.proxies.base import Proxy, Rung, generator, seed_of

DATA_SETS = 50
SLOPES = 4
_STEPS, _AVERAGED = 60, 20
_SAMPLES = {"default": 400, "small": 100}
_QUANTILE = 0.25  # of the asymmetric Laplace law

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


@dataclass(frozen=True)
class Noise:
    """A law of noise.

    Args:
        draw: Samples of a shape.
        information: Fisher information of its location, per sample.
    """

    draw: Draw
    information: float


def _asymmetric_laplace(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Density q (1 - q) exp(-r (q - [r < 0])), q = 1/4: its q-quantile is 0."""
    up = rng.exponential(1 / _QUANTILE, size)
    down = -rng.exponential(1 / (1 - _QUANTILE), size)
    return np.where(rng.random(size) < _QUANTILE, down, up)


def _contaminated(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Normal with deviation 1, in a tenth of the samples 10."""
    return rng.normal(size=size) * np.where(rng.random(size) < 0.1, 10.0, 1.0)


NOISES: Mapping[str, Noise] = {
    "gaussian": Noise(lambda rng, size: rng.normal(size=size), 1.0),
    "laplace": Noise(lambda rng, size: rng.laplace(size=size), 1.0),
    "student-t3": Noise(lambda rng, size: rng.standard_t(3, size=size), 2 / 3),
    "cauchy": Noise(lambda rng, size: rng.standard_cauchy(size=size), 1 / 2),
    "logistic": Noise(lambda rng, size: rng.logistic(size=size), 1 / 3),
    "gumbel": Noise(lambda rng, size: rng.gumbel(size=size), 1.0),
    "asymmetric-laplace": Noise(_asymmetric_laplace, _QUANTILE * (1 - _QUANTILE)),
    "contaminated": Noise(_contaminated, 0.827),
}


@dataclass(frozen=True)
class Problem:
    """`DATA_SETS` regressions of one split.

    Args:
        design: Orthonormal rows times sqrt(n), (B, 5, n): the whitened design with its intercept.
        target: (B, n).
        truth: The true coefficients in the whitened basis, (B, 5).
        unwhiten: Whitened to slope coefficients, (B, 4, 5).
        start: A robust first fit, the same for every loss, (B, 5).
        bound: Cramer-Rao bound of the summed squared slope errors, (B,).
    """

    design: Tensor
    target: Tensor
    truth: Tensor
    unwhiten: Tensor
    start: Tensor
    bound: Tensor


@lru_cache(maxsize=128)
def problem(noise: str, seed: int, condition: str = "default", stage: Stage = "search") -> Problem:
    """The data sets of split number `seed`; true slopes and intercepts are standard normal."""
    law, n = NOISES[noise], _SAMPLES[condition]
    rng = generator("known-noise", noise, condition, stage, seed)
    x = np.concatenate([np.ones((DATA_SETS, n, 1)), rng.normal(size=(DATA_SETS, n, SLOPES))], axis=-1)
    truth = rng.normal(size=(DATA_SETS, SLOPES + 1))
    y = np.einsum("bnk,bk->bn", x, truth) + law.draw(rng, (DATA_SETS, n))
    q, r = np.linalg.qr(x)
    back = np.linalg.inv(r) * np.sqrt(n)
    covariance = np.linalg.inv(np.einsum("bnk,bnl->bkl", x, x)) / law.information
    bound = np.trace(covariance[:, 1:, 1:], axis1=1, axis2=2)
    design = torch.from_numpy(np.ascontiguousarray(q.transpose(0, 2, 1)) * np.sqrt(n))
    target = torch.from_numpy(y)
    return Problem(
        design,
        target,
        torch.from_numpy(np.einsum("bkl,bl->bk", r, truth) / np.sqrt(n)),
        torch.from_numpy(back[:, 1:]),
        _least_absolute(design, target),
        torch.from_numpy(bound),
    )


def _least_absolute(design: Tensor, target: Tensor, steps: int = 30) -> Tensor:
    """Least absolute residuals by reweighted least squares, (B, 5)."""
    weight = torch.ones_like(target)
    beta = torch.zeros_like(design[:, :, 0])
    for _ in range(steps):
        weighted = design * weight.unsqueeze(1)
        normal = torch.bmm(weighted, design.transpose(1, 2))
        beta = torch.linalg.solve(normal, torch.bmm(weighted, target.unsqueeze(-1)).squeeze(-1))
        weight = 1 / (target - _predict(design, beta)).abs().clamp_min(1e-3)
    return beta


def _predict(design: Tensor, beta: Tensor) -> Tensor:
    return torch.bmm(beta.unsqueeze(1), design).squeeze(1)


def fit(gradient: GradientFn, design: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """Coefficients (R, 5) at which the loss's gradient vanishes, near `start`.

    The design is white, so the Hessian of a loss of residuals is near c I. The curvature c is a
    running secant estimate of each data set; a step is gradient / c, at most thrice as long as the
    one before. The last steps are averaged: at kinks (absolute residuals) the gradient jumps and
    the iteration hops about the minimum.
    """
    beta: Tensor = start.clone()
    progress = torch.ones((), dtype=target.dtype)

    def slope(at: Tensor) -> Tensor:
        inputs = {"pred": _predict(design, at), "target": target, "progress": progress}
        found = gradient(inputs).to(design.dtype)
        return torch.bmm(found.unsqueeze(1), design.transpose(1, 2)).squeeze(1)

    tiny = torch.finfo(beta.dtype).tiny
    scale = (target - _predict(design, beta)).abs().median(1).values
    old = slope(beta)
    length = 0.1 * scale
    move = -old * (length / old.norm(dim=1).clamp_min(tiny)).unsqueeze(1)
    rise, run = torch.zeros_like(length), torch.zeros_like(length)
    total = torch.zeros_like(beta)
    for step in range(_STEPS):
        beta = beta + move
        new = slope(beta)
        rise = 0.7 * rise + (move * (new - old)).sum(1)
        run = 0.7 * run + move.square().sum(1)
        curvature = rise / run.clamp_min(tiny)
        longest = 3 * move.norm(dim=1)
        if bool((longest < 1e-9 * scale).all()):
            return beta
        steep = new.norm(dim=1)
        # where the loss curves down, go on downhill as far as allowed
        wanted = torch.where(curvature > 0, steep / curvature.clamp_min(tiny), longest)
        move = -new * (torch.minimum(wanted, longest) / steep.clamp_min(tiny)).unsqueeze(1)
        old = new
        if step >= _STEPS - _AVERAGED:
            total += beta
    return total / _AVERAGED


def train_known_noise(noise: str, gradients: Sequence[GradientFn], runs: Sequence[Run]) -> list[RunResult]:
    """Fits every run's loss to its split's data sets; rate, decay and epochs are not used."""
    results: dict[int, RunResult] = {}
    groups: dict[tuple[int, str], list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.loss, run.condition), []).append(i)
    for (loss, condition), members in groups.items():
        started = time.perf_counter()
        problems = [problem(noise, runs[i].split, condition, runs[i].stage) for i in members]
        design, target, start = (
            torch.cat([getattr(p, name) for p in problems]) for name in ("design", "target", "start")
        )
        try:
            with torch.no_grad():
                found = fit(on_rows(gradients[loss], *target.shape), design, target, start)
            answers = [_score(p, beta) for p, beta in zip(problems, found.split(DATA_SETS), strict=True)]
        except Exception as error:  # whatever a loss does, the others go on
            answers = [RunResult(Outcome.FAILED, detail=f"{type(error).__name__}: {error}")]
            answers *= len(members)
        seconds = (time.perf_counter() - started) / len(members)
        for i, answer in zip(members, answers, strict=True):
            results[i] = RunResult(answer.outcome, answer.metric, answer.metrics, [], seconds, answer.detail)
    return [results[i] for i in range(len(runs))]


def _score(problem: Problem, beta: Tensor) -> RunResult:
    wrong = torch.einsum("bkl,bl->bk", problem.unwhiten, beta - problem.truth).square().sum(1)
    ratio = float(wrong.sum() / problem.bound.sum())
    if not np.isfinite(ratio):
        return RunResult(Outcome.DIVERGED, detail="the fit gave nan or inf")
    # A mean over data sets may hide that some are fitted badly.
    worst = float((wrong / problem.bound).quantile(0.9))
    return RunResult(Outcome.SCORED, ratio, {"relative_mse": ratio, "upper_decile": worst})


def _split(noise: str, seed: int, condition: str, stage: Stage) -> Split:
    """The first data set, for people to look at; the fit uses all of `problem`."""
    first = problem(noise, seed, condition, stage)
    x, y = first.design[0].T.numpy().astype(np.float32), first.target[0].numpy().astype(np.float32)
    return Split(seed_of("known-noise", noise, stage, seed), (x, y), (x, y), (x, y))


def known_noise(noise: str) -> Proxy:
    """The regression with a law of noise out of `NOISES`."""
    return Proxy(
        name=f"known-noise-{noise}",
        title=f"Linear regression with {noise} noise; the best loss is known",
        space="regression",
        metric="relative_mse",
        guards=("upper_decile",),
        metric_maker=dict,
        draw=partial(_split, noise),
        default=Setting(rates=(1.0,), epochs=1),
        changes={"small": {}},
        second="small",
        rungs=(
            Rung(tuple(range(2)), 1),
            Rung(tuple(range(2, 10)), 1),
            Rung(tuple(range(10, 34)), 1, ("default", "small")),
        ),
        custom=partial(train_known_noise, noise),
        data_version="1, fitted by the kernel",
        sizes=(_SAMPLES["default"], 0),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {
    f"known-noise-{noise}": partial(known_noise, noise) for noise in NOISES
}
