"""What a GPU does, as far as it shows without one; and on one, where there is one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from losssearch.controllers.registry import make_controller
from losssearch.execution.card import in_memory, mlp_bytes, recorded
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.plan import MLP, Run, RunResult, Setting
from losssearch.execution.population import train_population
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space
from tests.execution.test_population import Task, programs_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.slow
def test_the_simulated_kernel_equals_the_cpus() -> None:
    command = [sys.executable, "-m", "tests.execution.simulated_gpu"]
    surroundings = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kind in ("values", "slopes"):
        assert found[kind]["gap"] < 1e-6
        assert found[kind]["least"] > 1e-3
    assert found["population"]["gap"] < 1e-5
    assert found["population"]["different"] == found["population"]["runs"]


def test_what_does_not_fit_the_memory_is_trained_in_halves() -> None:
    tried = []

    def train(members):
        tried.append(len(members))
        if len(members) > 3:
            raise torch.OutOfMemoryError("as torch says it")
        return [RunResult(Outcome.SCORED, float(i)) for i in members]

    assert [result.metric for result in in_memory(train, list(range(10)))] == list(range(10))
    assert tried == [10, 5, 2, 3, 5, 2, 3]

    def never(members):
        raise torch.OutOfMemoryError("as torch says it")

    with pytest.raises(torch.OutOfMemoryError):
        in_memory(never, [0, 1])


def test_the_memory_of_a_model_counts_what_it_holds() -> None:
    setting = Setting(MLP((64,)), batch=128)
    parameters = 65 * 64 + 65 * 10
    sgd = mlp_bytes(setting, 64, 10, 360)
    assert sgd > 4 * (2 * parameters + 2 * 74 * 128 + 74 * 360)
    adam = mlp_bytes(Setting(MLP((64,)), optimiser="adam", batch=128), 64, 10, 360)
    assert adam - sgd == 4 * 2 * parameters


def test_nothing_is_recorded_on_the_cpu() -> None:
    def function() -> None:
        pass

    assert recorded(function, torch.device("cpu")) is function


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.5, 3.0, 60.0])
def test_the_kernel_on_a_gpu_equals_the_cpus(scale: float) -> None:
    from losssearch.execution.kernel.gpu import GpuBound

    samples, classes, count = 128, 10, 64
    space = load_space("multiclass")
    proposals = make_controller("random", space, [], 3).ask(count)
    slopes = [gradient(canonical(p.program), ("logits",)) for p in proposals]
    slopes = [slope for slope in slopes if "logits" in slope.inputs]
    tape = Tape(slopes, [("n", "c")], Layout("n", "c", {"n": samples, "c": classes}))
    chosen = np.array([k for k in range(len(slopes)) if k not in tape.refused])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    given = {
        "logits": (rng.normal(size=(1, classes, samples)) * scale).astype(np.float32),
        "target": np.eye(classes, dtype=np.float32)[labels].T[None].copy(),
        "prior": np.full((1, classes), 1 / classes, np.float32),
        "count": np.full((1, classes), 100, np.float32),
        "progress": np.array([0.3], np.float32),
    }
    given = {name: given[name] for name in tape.inputs}
    [wanted] = Bound(tape, chosen).run(given)
    device = torch.device("cuda")
    tensors = {name: torch.from_numpy(array).to(device) for name, array in given.items()}
    [mine] = GpuBound(tape, chosen, device=device).run(tensors)
    [again] = GpuBound(tape, chosen, device=device, blocks=3, threads=64).run(tensors)
    assert torch.equal(mine, again)  # bit by bit, nan aside: whatever the launch
    found = mine.cpu().numpy()
    both = np.isfinite(wanted) & np.isfinite(found)
    assert (np.isfinite(wanted) == np.isfinite(found)).mean() > 0.99
    size = 1 + np.abs(np.where(both, wanted, 0)).max((1, 2), keepdims=True)
    gap = np.where(both, np.abs(found - wanted) / size, 0).max((1, 2))
    assert np.quantile(gap, 0.9) < 1e-4


@needs_gpu
@pytest.mark.gpu
def test_a_population_on_a_gpu_trains_as_on_the_cpu() -> None:
    losses = programs_of("cross_entropy", "brier", "focal")
    runs = [Run(loss, s, rate) for loss in (0, 1, 2) for s in (0, 1) for rate in (0.1, 0.2)]
    here, there = (train_population(Task(), losses, runs, device=device) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        assert other.metric == pytest.approx(one.metric, rel=1e-3)


@needs_gpu
@pytest.mark.gpu
def test_on_a_gpu_too_a_diverging_run_leaves_its_neighbours_alone() -> None:
    losses = programs_of("cross_entropy", "brier", "focal")
    calm = [Run(loss, s, 0.1) for loss in (0, 1, 2) for s in (0, 1)]
    wild = [Run(run.loss, run.split, 1e30 if run.loss == 1 else 0.1) for run in calm]
    before, after = (train_population(Task(), losses, runs, device="cuda") for runs in (calm, wild))
    for run, one, other in zip(calm, before, after, strict=True):
        if run.loss == 1:
            assert other.outcome is Outcome.DIVERGED
        else:
            assert one.curve == other.curve
            assert not math.isnan(one.metric or 0.0)
