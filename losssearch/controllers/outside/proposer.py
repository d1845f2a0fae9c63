"""Somebody from outside proposes: a command or a chat server is told how things stand, and answers formulas.

It is given the language (made from the primitives), the space, the best losses so far and why others were
refused. When it does not answer, answers nonsense or has used up its calls, proposals are drawn at random
instead, and say so in their origin: a search never waits for a server that is down.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from losssearch.controllers.base import Controller, Idea, Proposal, Start, Told, read_back, written
from losssearch.controllers.outside.answers import read_answer
from losssearch.controllers.outside.lines import Command, Line, NoAnswer, Server
from losssearch.controllers.outside.primer import primer
from losssearch.controllers.random import Fresh
from losssearch.language.draws import Draws
from losssearch.language.program import Program
from losssearch.spaces import Space

CALLS = 500  # a search; each may cost money
ATTEMPTS = 3  # for one question
PATIENCE = 3  # questions in a row without an answer, after which nobody is asked until the next round
PAUSE_S = 0.5  # before the second attempt; doubles
ASKED = 32  # losses a question
BEST, FAILED = 12, 12  # remembered and told
_LOG = logging.getLogger(__name__)

TASK = (
    'Answer with one JSON object a line and nothing else: {"formula": "...", "constants": {"name": '
    '[value, low, high]}}. "constants" may be left out. Be bold: losses that differ in shape from those '
    "seen teach more than variations of them."
)


class Outside(Controller):
    """Proposals from a line to somebody else.

    Args:
        space, start, seed: As for every controller; `seed` draws what is filled in.
        line: How to ask.
        calls: Questions that a search may ask in all.
    """

    def __init__(self, space: Space, start: Start, seed: int, line: Line, calls: int = CALLS) -> None:
        super().__init__(space, start, seed)
        self.line, self.calls = line, calls
        self.used = 0  # questions asked, repeated attempts counted
        self.fresh = Fresh(space, self.sampler, start)
        self._language = primer(space)
        self._waiting: deque[Program] = deque()
        self._best: list[tuple[float, dict[str, Any]]] = []
        self._failed: deque[tuple[str, str]] = deque(maxlen=FAILED)
        self._silent = 0

    def ask(self, count: int) -> list[Proposal]:
        self._silent = 0
        return super().ask(count)

    def _propose(self, number: int, draws: Draws) -> Idea:
        while not self._waiting and self._silent < PATIENCE and self.used < self.calls:
            self._question(number)
        if self._waiting:
            return Idea(self._waiting.popleft(), (), "outside")
        idea = self.fresh.draw(draws)
        return idea._replace(origin=f"filled in: {idea.origin}")

    def _question(self, number: int) -> None:
        """Ask once; seed and number are for commands that draw lots of their own."""
        request = {
            "language": self._language,
            "task": TASK,
            "seed": self.seed,
            "number": number,
            "best": [{"score": score, **row} for score, row in self._best],
            "failed": [{"formula": formula, "why": why} for formula, why in self._failed],
            "count": ASKED,
        }
        try:
            text = self._patiently(request)
        except NoAnswer as reason:
            _LOG.warning("the proposer gave no answer: %s", reason)
            self._silent += 1
            return
        answer = read_answer(text, self.sampler)
        self._failed.extend(answer.refused)
        fresh = [program for program in answer.programs if self._key(program) not in {None, *self._known}]
        self._failed.extend((p.text, "it was proposed before") for p in answer.programs if p not in fresh)
        self._waiting.extend(fresh)
        if not answer.programs and not answer.refused:
            self._failed.append((text.strip()[:200], "no line of this is a formula"))
        self._silent = 0 if fresh else self._silent + 1

    def _patiently(self, request: Mapping[str, Any]) -> str:
        for attempt in range(ATTEMPTS):
            self.used += 1
            try:
                return self.line.ask(request)
            except NoAnswer as reason:
                if not reason.again or attempt + 1 == ATTEMPTS or self.used >= self.calls:
                    raise
                time.sleep(PAUSE_S * 2**attempt)
        raise NoAnswer("never asked")

    def _learn(self, told: Told) -> None:
        row = written(told.program)
        score = told.finite_score
        if score is None:
            self._failed.append((row["formula"], told.outcome.value))
            return
        row["constants"] = {name: value[:3] for name, value in row["constants"].items()}
        self._best = [(s, r) for s, r in self._best if r["formula"] != row["formula"]]
        bisect.insort(self._best, (score, row), key=lambda pair: pair[0])
        del self._best[BEST:]

    def _state(self) -> dict[str, Any]:
        return {
            "used": self.used,
            "waiting": [written(program) for program in self._waiting],
            "best": [[score, row] for score, row in self._best],
            "failed": [list(pair) for pair in self._failed],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        signature = self.space.signature
        self.used = int(state["used"])
        self._waiting = deque(read_back(row, signature) for row in state["waiting"])
        self._best = [(float(score), dict(row)) for score, row in state["best"]]
        self._failed = deque(((str(f), str(why)) for f, why in state["failed"]), maxlen=FAILED)


class FromCommand(Outside):
    """`command:WORDS`: a program of the user's own."""

    def __init__(self, space: Space, start: Start, seed: int = 0, *, command: str = "") -> None:
        super().__init__(space, start, seed, Command(command))


class FromServer(Outside):
    """`openai:ADDRESS?model=NAME`: a server that speaks the OpenAI chat protocol."""

    def __init__(self, space: Space, start: Start, seed: int = 0, *, address: str = "") -> None:
        super().__init__(space, start, seed, Server(address))
