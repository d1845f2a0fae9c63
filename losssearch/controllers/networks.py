"""How does a controller with a policy network draw, learn and save itself?

It draws in blocks (see `rollouts`), with the weights that it has after all it was told, and learns by steps
of Adam. Beside its lessons it goes on imitating the best few losses that it was ever told of, start losses
included: that is its warm start, and later keeps a rare find from being forgotten.

The weights, with Adam's two running means, are saved as base64 text of little-endian float32, some 240 kB,
so that it goes on after a restart to the last bit.

Source:
    Abolafia et al. 2018, arXiv:1801.03526, Sec. 3, priority queue training, for the imitation of the best.
"""

from __future__ import annotations

import base64
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.controllers.base import Idea, Start, Told
from losssearch.controllers.derivation import Derivation, rewritten
from losssearch.controllers.lessons import Apprentice, Lesson
from losssearch.controllers.policies import Policy, Views, one_thread, views_of
from losssearch.controllers.rollouts import BLOCK, rolled_out
from losssearch.language.draws import Draws
from losssearch.spaces import Space

LARGEST_GRADIENT = 1.0  # its norm is cut to this
BEST = 16  # losses that are imitated


class Batch(NamedTuple):
    """Lessons as tensors; B lessons of up to T words.

    Args:
        views: What the network saw.
        words: Shape (B, T); what was written, 0 past the end.
        there: Shape (B, T); 1 for a word, 0 past the end.
        rewards: Shape (B,); in [-1, 1].
    """

    views: Views
    words: Tensor
    there: Tensor
    rewards: Tensor

    def rows(self, rows: slice) -> Batch:
        return Batch(self.views[rows], self.words[rows], self.there[rows], self.rewards[rows])


class NetworkController(Apprentice):
    """Proposes what its policy writes."""

    def __init__(self, space: Space, start: Start, seed: int, policy: Policy, rate: float) -> None:
        super().__init__(space, start, seed)
        self.policy = policy
        self.adam = torch.optim.Adam(policy.parameters(), lr=rate)
        self._blocks: dict[tuple[int, int], Derivation] = {}  # by number and attempt, until something is told
        #: Candidate -> score, words and mark, best first.
        self._best: dict[str, tuple[float, tuple[int, ...], tuple[int, float]]] = {}

    @abstractmethod
    def _study(self, batch: Batch, best: Batch | None) -> None:
        """Take steps of Adam for the lessons of a batch, and for the best losses so far."""

    def _propose(self, number: int, draws: Draws) -> Idea:
        attempt = len(self._tries)
        if (number, attempt) not in self._blocks:
            block = range(number, (number // BLOCK + 1) * BLOCK)
            found = rolled_out(self.rules, self.policy, self.seed, block, attempt)
            self._blocks.update({(n, attempt): derivation for n, derivation in found.items()})
        return self._idea(self._blocks.pop((number, attempt)), "policy")

    def _learn(self, told: Told) -> None:
        words, score = self._open.get(told.number), told.finite_score
        if told.key in self._best:
            words = self._best.pop(told.key)[1]
        news = all(told.mark != mark for _, _, mark in self._best.values())
        if words is not None and score is not None and news:
            self._best[told.key] = score, words, told.mark
            self._best = dict(sorted(self._best.items(), key=lambda one: one[1][0])[:BEST])
        if told.number < len(self.start):
            self._open.pop(told.number, None)  # the policy did not draw it
        super()._learn(told)

    def _practise(self, lessons: Sequence[Lesson]) -> None:
        best = [Lesson(words, 1.0) for _, words, _ in self._best.values()]
        with one_thread():
            self._study(self._batch(lessons), self._batch(best) if best else None)
        self._blocks.clear()

    def _batch(self, lessons: Sequence[Lesson]) -> Batch:
        words = torch.zeros(len(lessons), self.rules.nodes, dtype=torch.int64)
        there = torch.zeros(len(lessons), self.rules.nodes)
        for row, lesson in enumerate(lessons):
            words[row, : len(lesson.words)] = torch.tensor(lesson.words)
            there[row, : len(lesson.words)] = 1
        return Batch(
            views_of(self.rules, [rewritten(self.rules, one.words) for one in lessons]),
            words,
            there,
            torch.tensor([one.reward for one in lessons]),
        )

    def _descend(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), LARGEST_GRADIENT)
        self.adam.step()

    # State.

    def _state(self) -> dict[str, Any]:
        steps, moments = self._moments()
        return {
            **super()._state(),
            "best": [[key, score, list(words), mark] for key, (score, words, mark) in self._best.items()],
            "steps": steps,
            "weights": _packed(list(self.policy.parameters())),
            "means": _packed([mean for mean, _ in moments]),
            "squares": _packed([square for _, square in moments]),
        }

    def _moments(self) -> tuple[int, list[tuple[Tensor, Tensor]]]:
        """How many steps Adam has made, and its running means of each weight's gradient and its square."""
        known = [self.adam.state.get(p, {}) for p in self.policy.parameters()]
        zeros = [torch.zeros_like(p) for p in self.policy.parameters()]
        both = zip(known, zeros, strict=True)
        pairs = [(one.get("exp_avg", zero), one.get("exp_avg_sq", zero)) for one, zero in both]
        return max(int(one.get("step", 0)) for one in known), pairs

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._best = {
            str(key): (float(score), self._checked(words), (int(rung), float(value)))
            for key, score, words, (rung, value) in state["best"]
        }
        weights = list(self.policy.parameters())
        loaded, means, squares = (_unpacked(state[k], weights) for k in ("weights", "means", "squares"))
        steps = int(state["steps"])
        self.adam.state.clear()
        with torch.no_grad():
            for weight, new, mean, square in zip(weights, loaded, means, squares, strict=True):
                weight.copy_(new)
                if steps:
                    step = torch.tensor(float(steps))
                    self.adam.state[weight] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        self._blocks.clear()


def log_chances(log_probs: Tensor, batch: Batch) -> Tensor:
    """Log-probability of each word that was written, 0 past the end; shape (B, T)."""
    taken = log_probs.gather(-1, batch.words.unsqueeze(-1)).squeeze(-1)
    return taken * batch.there


def entropy(log_probs: Tensor, batch: Batch) -> Tensor:
    """Mean over all states of H = -sum_a p(a) log p(a), in nats; shape ()."""
    each = -(log_probs.exp() * log_probs).sum(-1)
    return (each * batch.there).sum() / batch.there.sum()


def _packed(tensors: Sequence[Tensor]) -> str:
    flat = torch.cat([t.detach().reshape(-1) for t in tensors]).numpy()
    return base64.b64encode(flat.astype("<f4").tobytes()).decode("ascii")


def _unpacked(text: str, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the shapes of `like`.

    Raises:
        ValueError: The text holds another count of numbers, or one that is not finite.
    """
    flat = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    wanted = sum(t.numel() for t in like)
    if flat.size != wanted or not math.isfinite(float(flat.sum())):
        raise ValueError(f"{wanted} finite weights were expected, but {flat.size} came")
    parts = torch.from_numpy(flat).split([t.numel() for t in like])
    return [part.clone().view(t.shape) for part, t in zip(parts, like, strict=True)]
