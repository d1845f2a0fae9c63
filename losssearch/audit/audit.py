"""Is the found loss really better? The last judge: fresh data, equal tuning, paired statistics.

    tune     the found loss and every classical one get the same number of settings (constants, learning rate,
             weight decay; the number of epochs is read off the curve), on splits that the search did not use
    drop     after a first batch of settings only the best classical losses go on, with the start losses and
             what the controls found
    test     30 splits whose test samples no search and no tuning touched; the same splits for everyone
    compare  by the corrected resampled t test, against the classical loss that does best *here*

The table keeps the losing rows. About 40 seconds on two cores for digits.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from losssearch.audit.statistics import PairedComparison, corrected_t_test
from losssearch.duration import text_of
from losssearch.errors import UsageError
from losssearch.evaluation import Evaluator
from losssearch.language.program import Program
from losssearch.pools.open import open_pool
from losssearch.proxies.registry import exact, load_proxy
from losssearch.records import program_of_row
from losssearch.spaces import Space, load_space
from losssearch.store.rows import SearchRow
from losssearch.store.store import Store
from losssearch.tuning import (
    AUDIT_SPLITS,
    BATCH,
    CONFIRMING,
    Tuned,
    confirm,
    contender,
    error_at,
    try_settings,
)

PEERS = 10  # classical losses that are tuned to the end
EVERY_S = 10.0  # a step tells how far it is

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One loss in the table of an audit.

    Args:
        label: `demo/1`, or the name of a classical loss.
        kind: "found", "classical" or "control".
        formula: With its constants' tuned values in `constants`.
        rate, decay, epochs: Tuned setting.
        error: Mean error over the splits; per_split holds each.
        versus: The found loss against this one; None for the found loss itself.
    """

    label: str
    kind: str
    formula: str
    constants: dict[str, float]
    rate: float
    decay: float
    epochs: int
    error: float
    worst: float
    per_split: tuple[float, ...]
    versus: PairedComparison | None = None


@dataclass(frozen=True)
class Report:
    """The table of an audit, best first, and what follows from it."""

    search: str
    proxy: str
    metric: str
    splits: int
    rows: tuple[Row, ...]

    @property
    def found(self) -> Row:
        return next(row for row in self.rows if row.kind == "found")

    @property
    def best_classical(self) -> Row | None:
        return next((row for row in self.rows if row.kind == "classical"), None)

    @property
    def is_discovery(self) -> bool:
        """Whether the whole interval of the difference to the best classical loss lies below zero."""
        best = self.best_classical
        return best is not None and best.versus is not None and best.versus.high < 0

    def summary(self) -> dict[str, Any]:
        best = self.best_classical
        return {
            "search": self.search,
            "proxy": self.proxy,
            "metric": self.metric,
            "splits": self.splits,
            "error": self.found.error,
            "best_classical": best.label if best else None,
            "discovery": self.is_discovery,
            **({"versus": asdict(best.versus)} if best and best.versus else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary(), "rows": [asdict(row) for row in self.rows]}

    def sentence(self) -> str:
        """The verdict, as a person reads it."""
        best, found = self.best_classical, self.found
        if best is None or best.versus is None:
            return f"{found.label} has {self.metric} {found.error:.4f} over {self.splits} fresh splits."
        gap = best.versus
        verdict = "is better than" if self.is_discovery else "is not shown to be better than"
        return (
            f"{found.label} ({self.metric} {found.error:.4f}) {verdict} the best tuned classical loss, "
            f"{best.label} ({best.error:.4f}): difference {gap.difference:+.4f}, 95 % interval "
            f"[{gap.low:+.4f}, {gap.high:+.4f}], t = {gap.t:.2f}, {gap.splits} splits of samples that no "
            "search saw."
        )


class _Steps:
    """Says what begins, and while it lasts how many trainings were made so far."""

    def __init__(self, say: Say) -> None:
        self.say, self.step, self.began = say, "", clock.monotonic()
        self.said = self.began

    def begin(self, step: str) -> None:
        self.step, self.said = step, clock.monotonic()
        self.say(f"{step}.")

    def watch(self, trained: int) -> None:
        now = clock.monotonic()
        if now - self.said >= EVERY_S:
            self.said = now
            self.say(f"{self.step}: {trained} trainings so far, {text_of(now - self.began)}.")


@dataclass
class _Peer:
    """A loss on its way through the audit."""

    label: str
    kind: str
    tuned: Tuned


@dataclass
class Audit:
    """The audit of one search.

    Args:
        name: Of the search.
        storage: Its database.
        controls: Names of other searches whose chosen loss is judged beside it, such as a random one.
        splits: Fresh splits, two or more.
        settings: Tried for every loss.
        workers: As in a search.
    """

    name: str
    storage: str = "sqlite:///losses.db"
    controls: Sequence[str] = ()
    splits: int = 30
    settings: int = 32
    workers: str = "processes"
    seed: int = 0
    _evaluator: Evaluator = field(init=False, repr=False)
    _space: Space = field(init=False, repr=False)
    _start: set[str] = field(init=False, repr=False)

    def run(self, say: Say = lambda line: None) -> Report:
        """Tune, test, compare, store.

        Raises:
            UsageError: The search has no trained loss, or an argument does not fit.
        """
        if self.splits < 2 or self.settings < 1:
            raise UsageError(
                "`splits >= 2` and `settings >= 1` must hold, "
                f"but got splits={self.splits}, settings={self.settings}."
            )
        with ExitStack() as stack:
            store = stack.enter_context(Store.open(self.storage, create=False))
            search = store.search(self.name)
            self._space = load_space(search.space)
            self._start = {self._space.reference, *search.config.get("start", ())}
            task = exact(search.proxy)  # whatever the search rounded
            proxy = load_proxy(task)
            pool = stack.enter_context(open_pool(self.workers))
            self._evaluator = Evaluator(store, pool, self._space, proxy, task)
            peers, steps = self._peers(store), _Steps(say)
            self._evaluator.watch = steps.watch
            self._tune(peers, steps)
            steps.begin(f"Testing {len(peers)} losses on {self.splits} fresh splits")
            report = self._test(peers, search)
            store.add_audit(
                search, proxy.protocol.hash, [asdict(row) for row in report.rows], report.summary()
            )
            return report

    def _peers(self, store: Store) -> list[_Peer]:
        peers = []
        for name in (self.name, *self.controls):
            best = store.leaderboard(name, limit=1)
            if not best:
                raise UsageError(f"The search {name!r} has no trained loss. Run it first.")
            kind = "found" if name == self.name else "control"
            program = program_of_row(best[0].candidate, self._space)
            peers.append(_Peer(f"{name}/1", kind, self._tuned(program)))
        proxy = self._evaluator.proxy
        given = proxy.given
        for loss in self._space.seeds:
            if set(loss.requires) <= given:
                peers.append(_Peer(loss.name, "classical", self._tuned(loss.program)))
        return peers

    def _tuned(self, program: Program) -> Tuned:
        return Tuned.of(program, self._evaluator.proxy, self.seed)

    def _tune(self, peers: list[_Peer], steps: _Steps) -> None:
        """The same number of settings for everyone; in place, so that dropped peers leave the list."""
        tried = 0
        while tried < self.settings:
            batch = min(BATCH, self.settings - tried)
            settings = f"settings {tried + 1} to {tried + batch} of {self.settings}"
            steps.begin(f"Tuning {len(peers)} losses, {settings}")
            try_settings([p.tuned for p in peers], batch, self._evaluator, AUDIT_SPLITS)
            if tried == 0:
                classical = sorted((p for p in peers if p.kind == "classical"), key=lambda p: p.tuned.value)
                stay = [p for i, p in enumerate(classical) if i < PEERS or p.label in self._start]
                peers[:] = [p for p in peers if p.kind != "classical"] + stay
            tried += batch
        steps.begin(f"Confirming the best settings of {len(peers)} losses on {len(CONFIRMING)} more splits")
        confirm([p.tuned for p in peers], self._evaluator)

    def _test(self, peers: Sequence[_Peer], search: SearchRow) -> Report:
        able = [(peer, *peer.tuned.best) for peer in peers if peer.tuned.best is not None]
        if not able or able[0][0].kind != "found":
            raise UsageError(f"The chosen loss of {self.name!r} could not be trained again.")
        contenders = [contender(trial, range(self.splits), "audit", self._space) for _, _, trial, _ in able]
        rows = []
        tested = zip(able, self._evaluator.evaluate(contenders), strict=True)
        for (peer, _, trial, epochs), results in tested:
            errors = tuple(error_at(result, epochs) for result in results)
            rows.append(
                Row(
                    peer.label, peer.kind, trial.program.text, trial.program.constant_values,
                    trial.knobs["rate"], trial.knobs["decay"], epochs,
                    float(np.mean(errors)), max(errors), errors,
                )
            )  # fmt: skip
        proxy = self._evaluator.proxy
        train, test = proxy.sizes
        found = rows[0]
        compared = [found]
        for row in rows[1:]:
            gaps = [a - b for a, b in zip(found.per_split, row.per_split, strict=True)]
            versus = corrected_t_test(gaps, train, test) if all(map(math.isfinite, gaps)) else None
            compared.append(replace(row, versus=versus))
        compared.sort(key=lambda row: (row.error, row.label))
        return Report(self.name, proxy.name, proxy.metric, self.splits, tuple(compared))
