"""How good are many losses, each trained on several splits and at several rates?

Trains all runs of a call at once, in blocks of stacked models, on the CPU or a GPU. Runs that share a
split share batches and initial weights whatever their loss, so that differences between losses are not
drowned in luck. A loss is only its gradient: its value is never read. A run that diverges keeps its
slot, full of nan, and disturbs no neighbour.

What a training costs, and how far that is from what the machine could do, is in `docs/performance.md`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from losssearch.errors import ProxyError
from losssearch.execution.card import in_memory, models_that_fit, recorded
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.plan import (
    MLP,
    GradientFn,
    Run,
    RunResult,
    Setting,
    Stage,
    Trainable,
)
from losssearch.execution.products import rounded
from losssearch.execution.slopes import Batch, Slots, who_answers
from losssearch.execution.stacked import Learners, StackedMLP, StackedModules
from losssearch.outcomes import Outcome

#: Models trained side by side on the CPU. Fewer stay in the cache, more share a step's overhead.
BLOCK = 96


def train_population(
    proxy: Trainable,
    gradients: Sequence[GradientFn],
    runs: Sequence[Run],
    *,
    device: str = "cpu",
    block: int | None = None,
) -> list[RunResult]:
    """Trains every run and measures its error.

    Args:
        proxy: Data, settings and metrics.
        gradients: One function a loss: inputs with a leading run dimension to dL/dprediction,
            scaled. It must neither keep nor write its inputs, which are buffers.
        runs: What to train; `run.loss` indexes `gradients`.
        device: Where the models live.
        block: Greatest number of models trained side by side; None takes what suits the cache, or what fits
            the GPU's memory.

    Returns:
        One result a run, in the order asked. A loss that raises or diverges is an outcome, not an
        exception.

    Raises:
        ProxyError: An unknown condition, or splits of unequal sizes.
    """
    results: dict[int, RunResult] = {}
    on = torch.device(device)
    with torch.cuda.device(on) if on.type == "cuda" else nullcontext():
        for setting, group in _groups(proxy, runs):

            def train(members: Sequence[int], setting: Setting = setting) -> list[RunResult]:
                with rounded(setting.precision, on):
                    return _Block(proxy, setting, gradients, [runs[i] for i in members], on).train()

            fit = BLOCK if on.type == "cpu" else models_that_fit(proxy, setting, runs[group[0]], on)
            for members in _blocks(group, runs, block or fit):
                results.update(zip(members, in_memory(train, members), strict=True))
    return [results[i] for i in range(len(runs))]


def _groups(proxy: Trainable, runs: Sequence[Run]) -> Iterator[tuple[Setting, list[int]]]:
    """Runs that can be stacked: the same condition, stage and number of epochs, of losses on the same splits.

    A block has a slot on every split: a loss that is wanted on two of ten would idle on eight.
    """
    kinds: dict[tuple[str, Stage, int], dict[int, list[int]]] = {}
    for i, run in enumerate(runs):
        epochs = proxy.setting(run.condition).epochs if run.epochs is None else run.epochs
        kinds.setdefault((run.condition, run.stage, epochs), {}).setdefault(run.loss, []).append(i)
    groups: dict[tuple[str, Stage, int, frozenset[int]], list[int]] = {}
    for kind, by_loss in kinds.items():
        for own in by_loss.values():
            splits = frozenset(runs[i].split for i in own)
            groups.setdefault((*kind, splits), []).extend(own)
    for (condition, _, _, _), members in groups.items():
        yield proxy.setting(condition), members


def _blocks(group: Sequence[int], runs: Sequence[Run], limit: int) -> Iterator[list[int]]:
    """Cuts a group between losses, so that the runs of a loss stay in one call of its gradient."""
    by_loss: dict[int, list[int]] = {}
    for i in group:
        by_loss.setdefault(runs[i].loss, []).append(i)
    waiting: list[int] = []
    for members in by_loss.values():
        if waiting and len(waiting) + len(members) > limit:
            yield waiting
            waiting = []
        waiting += members
        if len(waiting) > limit:  # one loss with very many runs: cut between splits
            waiting.sort(key=lambda i: runs[i].split)
            while len(waiting) > limit:
                yield waiting[:limit]
                waiting = waiting[limit:]
    if waiting:
        yield waiting


class _Block:
    """Runs that are trained side by side, on a grid of slots x splits."""

    def __init__(
        self,
        proxy: Trainable,
        setting: Setting,
        gradients: Sequence[GradientFn],
        runs: Sequence[Run],
        device: torch.device,
    ) -> None:
        self._started = time.perf_counter()
        self.proxy, self.setting, self.gradients, self.runs = proxy, setting, gradients, runs
        self.device = device
        first = runs[0]
        self.epochs = setting.epochs if first.epochs is None else first.epochs
        self.audit = first.stage == "audit"
        numbers = sorted({run.split for run in runs})
        self.data = [proxy.split(number, first.condition, first.stage) for number in numbers]
        self._place(numbers)

    def _place(self, numbers: Sequence[int]) -> None:
        """Gives each run a slot; one that a loss does not need on a split idles (rate 0)."""
        column = {number: s for s, number in enumerate(numbers)}
        cells: dict[int, list[list[int]]] = {}
        for i, run in enumerate(self.runs):
            cells.setdefault(run.loss, [[] for _ in numbers])[column[run.split]].append(i)
        self.slots: list[Slots] = []
        self.place: list[tuple[int, int]] = [(0, 0)] * len(self.runs)
        losses = {loss: self.gradients[loss] for loss in cells}
        self.answers = who_answers(losses, self.proxy.prediction, self._layout(), self.device)
        start = 0
        for answer in self.answers:
            own = []
            for loss in answer.order:
                columns = cells[loss]
                stop = start + max(len(found) for found in columns)
                own.append(Slots(loss, start, stop))
                for s, found in enumerate(columns):
                    for k, i in enumerate(found):
                        self.place[i] = (start + k, s)
                start = stop
            answer.place(own)
            self.slots += own
        self.rate = torch.zeros(start, len(numbers))
        self.decay = torch.zeros(start, len(numbers))
        for run, (k, s) in zip(self.runs, self.place, strict=True):
            self.rate[k, s], self.decay[k, s] = run.rate, run.decay
        self.rate, self.decay = self.rate.to(self.device), self.decay.to(self.device)

    def _layout(self) -> Layout:
        """Samples and classes of a batch; the space's axes are called n and c."""
        x, y = self.data[0].train
        sizes = {"n": min(self.setting.batch, len(x))}
        if self.proxy.classes:
            sizes["c"] = y.shape[1]
        return Layout("n", "c" if self.proxy.classes else "", sizes)

    def _stack(self, pick: str) -> tuple[Tensor, Tensor]:
        """Features (S, samples, ...) and targets (S, samples, c) of "train", "valid" or "test"."""
        pairs = [getattr(split, pick) for split in self.data]
        sizes = {(x.shape, y.shape) for x, y in pairs}
        if len(sizes) > 1:
            raise ProxyError(
                f"the splits of one condition must have equal sizes, but the {pick} parts have the "
                f"shapes {sorted(map(str, sizes))}. Cut every split of the data alike."
            )
        x = torch.stack([torch.as_tensor(x) for x, _ in pairs]).to(self.device)
        y = torch.stack([torch.as_tensor(y) for _, y in pairs]).to(self.device)
        if isinstance(self.setting.model, MLP):  # the column of ones carries the first layer's bias
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
        return x, y if self.proxy.classes else y.unsqueeze(-1)

    def _learners(self, features: int) -> Learners:
        seeds = [split.seed for split in self.data]
        model, outputs = self.setting.model, self.proxy.classes or 1
        if isinstance(model, MLP):
            return StackedMLP(model, self.setting, seeds, features - 1, outputs, self.rate, self.decay)
        return StackedModules(model, self.setting, seeds, outputs, self.rate, self.decay)

    def train(self) -> list[RunResult]:
        """All epochs of all runs."""
        with torch.no_grad():
            return self._train()

    def _train(self) -> list[RunResult]:
        x, y = self._stack("train")
        judges = {"valid": self._stack("valid")}
        if self.audit:
            judges["test"] = self._stack("test")
        learners = self._learners(x.shape[-1])
        orders = [torch.Generator().manual_seed(split.seed + 1) for split in self.data]
        batch = min(self.setting.batch, x.shape[1])
        steps = x.shape[1] // batch
        points: list[tuple[int, dict[str, Tensor]]] = []
        rows = torch.empty(len(orders), steps * batch, dtype=torch.long, device=self.device)
        train = self._epoch(learners, x, y, rows)
        for epoch in range(self.epochs):
            for order, own in zip(orders, rows, strict=True):
                own.copy_(torch.randperm(x.shape[1], generator=order)[: steps * batch])
            train()
            last = epoch + 1 == self.epochs
            if last or (epoch + 1) % self.setting.evaluate_every == 0:
                points.append((epoch + 1, self._judge(learners, judges, last)))
                finite = learners.finite().cpu()
                for slots in self.slots:
                    slots.alive = bool(finite[slots.start : slots.stop].any())
        return self._results(points, learners.finite())

    def _epoch(self, learners: Learners, x: Tensor, y: Tensor, rows: Tensor) -> Callable[[], None]:
        """A function that trains on the samples that `rows`, (S, steps * batch), holds when it is called."""
        slots, splits = self.rate.shape
        batch = min(self.setting.batch, x.shape[1])
        steps = rows.shape[1] // batch
        provided = self._provided()
        gradient = x.new_zeros(splits, slots, y.shape[-1], batch).permute(1, 0, 3, 2)
        xs, ys = x[:, : steps * batch].clone(), y[:, : steps * batch].clone()
        targets = ys.new_empty(steps, splits, y.shape[-1], batch)
        done = torch.zeros((), dtype=torch.float64, device=self.device)

        def epoch() -> None:
            for s in range(splits):
                torch.index_select(x[s], 0, rows[s], out=xs[s])
                torch.index_select(y[s], 0, rows[s], out=ys[s])
            targets.copy_(ys.view(splits, steps, batch, -1).permute(1, 0, 3, 2))
            for step in range(steps):
                prediction = learners.forward(xs[:, step * batch : (step + 1) * batch])
                progress = (done / (self.epochs * steps)).to(x.dtype)
                asked = Batch(prediction, targets[step], progress, provided, gradient)
                for answer in self.answers:
                    answer(asked)
                learners.learn(gradient)
                done.add_(1)

        if learners.repeats and all(answer.repeats for answer in self.answers):
            return recorded(epoch, self.device)
        return epoch

    def _provided(self) -> dict[str, Tensor]:
        """`prior`, `count`, ... with a leading split dimension."""
        return {
            name: torch.stack([torch.as_tensor(split.provided[name]).float() for split in self.data]).to(
                self.device
            )
            for name in self.data[0].provided
        }

    def _judge(
        self, learners: Learners, judges: Mapping[str, tuple[Tensor, Tensor]], last: bool
    ) -> dict[str, Tensor]:
        """Errors (K, S) on each part of the data; the guards too at the end."""
        found = {}
        headline = "test" if self.audit else "valid"
        for part, (x, y) in judges.items():
            prediction = learners.predict(x).flatten(0, 1)
            target = y.expand(self.rate.shape[0], *y.shape).flatten(0, 1)
            if self.proxy.classes is None:
                prediction, target = prediction.squeeze(-1), target.squeeze(-1)
            for name, function in self.proxy.metric_functions.items():
                if name == self.proxy.metric or (last and part == headline):
                    key = part if name == self.proxy.metric else name
                    found[key] = function(prediction, target).view(self.rate.shape)
        return found

    def _results(self, points: Sequence[tuple[int, dict[str, Tensor]]], finite: Tensor) -> list[RunResult]:
        headline = "test" if self.audit else "valid"
        seconds = (time.perf_counter() - self._started) / len(self.runs)
        tables = [(e, {name: t.tolist() for name, t in found.items()}) for e, found in points]
        alive = finite.tolist()
        failures = {slots.loss: slots.failure for slots in self.slots}
        results = []
        for run, (k, s) in zip(self.runs, self.place, strict=True):
            curve = [(epoch, float(table[headline][k][s])) for epoch, table in tables]
            end = {name: float(table[k][s]) for name, table in tables[-1][1].items()}
            metric = end.pop(headline)
            if failures[run.loss]:
                outcome, detail = Outcome.FAILED, failures[run.loss]
            elif not alive[k][s]:
                outcome, detail = Outcome.DIVERGED, "a parameter became nan or inf"
            elif not (metric == metric and abs(metric) != float("inf")):
                outcome, detail = Outcome.INVALID, f"the error is {metric}"
            else:
                outcome, detail = Outcome.SCORED, ""
            if outcome is not Outcome.SCORED:
                results.append(RunResult(outcome, seconds=seconds, detail=detail))
                continue
            if self.audit:
                best = min(tables, key=lambda point: (point[1]["valid"][k][s], point[0]))
                end["early_stopped"] = float(best[1]["test"][k][s])
            end[self.proxy.metric] = metric
            results.append(RunResult(outcome, metric, end, curve, seconds))
        return results
