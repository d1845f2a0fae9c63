"""Small tasks that a user could have written; some are broken. Named by path in the tests."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace

import numpy as np

from losssearch.execution.plan import RunResult, Setting
from losssearch.outcomes import Outcome
from losssearch.proxies.base import Rung
from losssearch.proxies.user import blackbox, task


def _points():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 4)) + np.eye(3, 4)[y] * 2
    wrong = rng.random(240) < 0.3
    return x, np.where(wrong, rng.integers(0, 3, 240), y)


def points():
    return task(data=_points, budget=4, batch=32, name="points", rates=(0.1, 0.03))


def ladder():
    """The same on four rungs, of which losses climb two."""
    rungs = tuple(Rung(splits, 1) for splits in ((0,), (1, 2), (3, 4, 5), (6, 7, 8, 9)))
    return replace(points(), rungs=rungs)


@blackbox(space="multiclass")
def black(loss, budget, seed, device):
    return 0.1 + (len(loss.formula) % 7) / 100 + seed * 1e-4


@blackbox(space="multiclass")
def raises(loss, budget, seed, device):
    raise RuntimeError("no such GPU")


@blackbox(space="multiclass")
def answers_nan(loss, budget, seed, device):
    return math.nan


@blackbox(space="multiclass")
def hangs_on_brier(loss, budget, seed, device):
    if "2" in loss.formula:
        time.sleep(600)
    return 0.2


@blackbox(space="multiclass")
def dies_of_brier(loss, budget, seed, device):
    if "2" in loss.formula:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.2


def lucky():
    """The first rate is good on six splits of an audit, by luck, and bad on the others."""

    def result(run):
        lucky_here = 0.1 if run.split < 2006 else 0.4
        error = lucky_here if run.rate == 0.1 else 0.2
        return RunResult(Outcome.SCORED, error, {"error": error})

    def train(losses, runs):
        return [result(run) for run in runs]

    return replace(black, name="lucky", default=Setting(rates=(0.1, 0.3)), custom=train)
