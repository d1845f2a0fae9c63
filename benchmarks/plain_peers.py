"""How does one search for a loss without this library? Three peers, written as a good user would write them.

    random    fresh trees, and start losses with one part changed
    optuna    TPE over one number a node, which are decoded to a tree; the start losses are its first trials
    gp        genetic programming with the steps of DEAP's `eaSimple`: tournaments of three, subtree
              crossover, subtree and constant mutation, and two elites; written out, so that nothing need be
              installed

Each candidate is trained on the splits and at the rates of our own first rung, one model after the other in
plain PyTorch, in as many processes as our search has workers. It is judged as cheaply as one would without
more thought: no tree twice, none that does not read prediction and target, no further step after nan, no
further split for a loss that learned nothing on the first.
"""

from __future__ import annotations

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from queue import Empty, SimpleQueue
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from benchmarks import plain_losses as plain
from benchmarks.plain_loop import WORST, get_ready, judge
from benchmarks.plain_losses import NODES, START, Tree

# What proposes.


class Peer(ABC):
    """Proposes trees, and hears how they did."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    @abstractmethod
    def ask(self) -> tuple[Tree, Any] | None:
        """A tree and a ticket; None while earlier ones must be answered first."""

    @abstractmethod
    def tell(self, ticket: Any, score: float) -> None:
        """The error of the tree of a ticket."""

    def fresh(self) -> Tree:
        while not plain.is_loss(tree := plain.grow(self.random.random)):
            pass
        return tree

    def changed(self, tree: Tree) -> Tree:
        """One subtree drawn anew, or one constant moved; the tree itself where that gives no loss."""
        found = list(plain.nodes(tree))
        place = self.random.randrange(len(found))
        if found[place].word == "constant":
            moved = found[place].value * math.exp(self.random.gauss(0, 0.5))
            new = replace(found[place], value=min(max(moved, plain.LEAST), plain.MOST))
        else:
            new = plain.grow(self.random.random, room=8, levels=3)
        child = plain.swapped(tree, place, new)
        return child if plain.is_loss(child) else tree


class Random(Peer):
    """Nothing is learned."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.start = list(START.values())

    def ask(self) -> tuple[Tree, Any]:
        if self.start:
            return self.start.pop(0), None
        if self.random.random() < 0.5:
            return self.fresh(), None
        return self.changed(self.random.choice(list(START.values()))), None

    def tell(self, ticket: Any, score: float) -> None:
        return


class Tpe(Peer):
    """Optuna's default sampler, over the numbers from which a tree grows."""

    names = tuple(f"g{i:02d}" for i in range(NODES))
    ranges: dict[str, BaseDistribution] = dict.fromkeys(names, FloatDistribution(0, 1))

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # several are open at once
        self.study = optuna.create_study(sampler=sampler)
        for tree in START.values():
            known = plain.codons(tree)
            self.study.enqueue_trial(dict(zip(self.names, known + [0.5] * (NODES - len(known)), strict=True)))

    def ask(self) -> tuple[Tree, Any]:
        while True:
            trial = self.study.ask(self.ranges)
            numbers = iter([min(trial.params[name], 1 - plain.EPS) for name in self.names])
            tree = plain.grow(numbers.__next__)
            if plain.is_loss(tree):
                return tree, trial
            self.study.tell(trial, WORST)

    def tell(self, ticket: Any, score: float) -> None:
        self.study.tell(ticket, score)


class Gp(Peer):
    """Generations of a hundred, as in the tutorials of DEAP."""

    size, cross, mutate, elites, tournament = 100, 0.5, 0.3, 2, 3

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        trees = dict.fromkeys(START.values())
        while len(trees) < self.size:
            trees[self.fresh()] = None
        self.waiting = list(trees)
        self.open = 0
        self.judged: list[tuple[float, Tree]] = []

    def ask(self) -> tuple[Tree, Any] | None:
        if not self.waiting:
            if self.open:
                return None
            self._breed()
        self.open += 1
        tree = self.waiting.pop(0)
        return tree, tree

    def tell(self, ticket: Any, score: float) -> None:
        self.open -= 1
        self.judged.append((score, ticket))

    def _breed(self) -> None:
        parents = [self._winner() for _ in range(self.size - self.elites)]
        for i in range(1, len(parents), 2):
            if self.random.random() < self.cross:
                parents[i - 1], parents[i] = self.crossed(parents[i - 1], parents[i])
        children = [self.changed(t) if self.random.random() < self.mutate else t for t in parents]
        best = sorted(self.judged, key=lambda pair: (pair[0], plain.size(pair[1])))[: self.elites]
        self.waiting = [*(tree for _, tree in best), *children]
        self.judged = []

    def _winner(self) -> Tree:
        rivals = [self.random.choice(self.judged) for _ in range(self.tournament)]
        return min(rivals, key=lambda pair: pair[0])[1]

    def crossed(self, a: Tree, b: Tree) -> tuple[Tree, Tree]:
        """A subtree of each stands in the other's place; a child that is no loss gives way to its parent."""
        of_a, of_b = list(plain.nodes(a)), list(plain.nodes(b))
        i, k = self.random.randrange(len(of_a)), self.random.randrange(len(of_b))
        of_both = plain.swapped(a, i, of_b[k]), plain.swapped(b, k, of_a[i])
        return (
            of_both[0] if plain.is_loss(of_both[0]) else a,
            of_both[1] if plain.is_loss(of_both[1]) else b,
        )


PEERS: dict[str, Callable[[int], Peer]] = {"random": Random, "optuna": Tpe, "gp": Gp}


# The search.


@dataclass
class Trace:
    """What a peer's search has come to.

    Args:
        records: (seconds since the start, loss, score) of each loss that was the best so far.
        candidates: Proposals, repeated ones too; of these `judged` were trained.
        proposing_s: Time that went into proposals.
    """

    records: list[tuple[float, Tree, float]] = field(default_factory=list)
    candidates: int = 0
    judged: int = 0
    trainings: int = 0
    proposing_s: float = 0.0


def search(
    name: str, seed: int, budget_s: float, workers: int, watch: Callable[[float, Trace], None]
) -> Trace:
    """Let a peer search for so many seconds, getting ready included."""
    began = time.perf_counter()
    trace, own = Trace(), PEERS[name](seed)
    known: dict[Tree, float] = {}
    answers: SimpleQueue[tuple[Tree, Any, tuple[float, int] | BaseException]] = SimpleQueue()
    waiting = 0
    with get_context("spawn").Pool(workers, get_ready) as pool:  # which is ended, not waited for
        while (now := time.perf_counter() - began) < budget_s:
            asking = time.perf_counter()
            asked = own.ask() if waiting <= workers else None  # one more, so that no process waits
            trace.proposing_s += time.perf_counter() - asking
            if asked is not None:
                trace.candidates += 1
                tree, ticket = asked
                if tree in known:
                    own.tell(ticket, known[tree])
                else:
                    put = partial(_put, answers, tree, ticket)
                    pool.apply_async(judge, (tree,), callback=put, error_callback=put)
                    waiting += 1
                continue
            try:
                tree, ticket, answer = answers.get(timeout=budget_s - now)
            except Empty:
                break
            if isinstance(answer, BaseException):
                raise answer
            waiting -= 1
            known[tree], trainings = answer
            own.tell(ticket, known[tree])
            trace.judged += 1
            trace.trainings += trainings
            if known[tree] < (trace.records[-1][2] if trace.records else WORST):
                trace.records.append((time.perf_counter() - began, tree, known[tree]))
            watch(time.perf_counter() - began, trace)
    return trace


def _put(
    answers: SimpleQueue[Any], tree: Tree, ticket: Any, answer: tuple[float, int] | BaseException
) -> None:
    answers.put((tree, ticket, answer))
