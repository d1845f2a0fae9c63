"""How does a controller work where somebody else does the training?

It is asked for a loss, the screens say whether it deserves a training, and what became of it is told
whenever it is known. Known losses in other words get the score of the one they equal. The course of a
dialogue follows from the seed and from what was said and heard in which order, so it can be held again.
An answer costs a few milliseconds for each proposal that the screens look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from losssearch.controllers.base import Controller, Proposal, Told
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.language.tidy import tidied
from losssearch.outcomes import Outcome
from losssearch.screening.pipeline import Screens
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import Space

TRIES = 200  # proposals for one answer; then the last is taken as it is
CREDITED = (Outcome.DUPLICATE, Outcome.EQUIVALENT)


@dataclass(frozen=True)
class Said:
    """A loss to be trained.

    Args:
        number: Of the proposal; negative for a loss that was brought from outside.
        key: Of the candidate.
        program: As it shall be trained.
        scale: Factor for its gradient, see `gradient_scale`.
        origin: How it was made.
    """

    number: int
    key: str
    program: Program
    scale: float
    origin: str


@dataclass
class Dialogue:
    """One controller, its screens, and what was heard of its losses.

    Args:
        space: Where losses come from.
        controller: Who proposes.
        screens: None trains every proposal.
    """

    space: Space
    controller: Controller
    screens: Screens | None
    _scores: dict[str, float | None] = field(default_factory=dict, repr=False)

    def ask(self) -> Said:
        """The next loss that passes the screens; start losses come first."""
        for _ in range(TRIES):
            [proposal] = self.controller.ask(1)
            program = proposal.program if proposal.origin.startswith("start") else tidied(proposal.program)
            if self.screens is None:
                break
            verdict = self.screens.judge(program)
            program = verdict.case.written
            if verdict.rejection is None:
                break
            same_as = verdict.rejection.same_as
            self._reject(proposal, program, verdict.rejection.outcome, same_as or verdict.case.key)
        return self._said(proposal.number, program, proposal.origin)

    def bring(self, number: int, program: Program) -> Said:
        """A loss from outside, under a number below 0 that no proposal has."""
        if self.screens is not None:
            self.screens.judge(program)  # so that it is known
        return self._said(number, program, "given")

    def tell(self, said: Said, score: float | None, outcome: Outcome) -> None:
        """What became of a loss; lower is better, None or nan for a failure."""
        value = score if score is not None and math.isfinite(score) else None
        self._scores[said.key] = value
        size = said.program.size
        self.controller.tell([Told(said.number, said.key, said.program, value, outcome, size, 0)])

    def _said(self, number: int, program: Program, origin: str) -> Said:
        scale = gradient_scale(program, self.space)
        usable = math.isfinite(scale) and scale > 0
        return Said(number, candidate_key(program), program, scale if usable else 1.0, origin)

    def _reject(self, proposal: Proposal, program: Program, outcome: Outcome, key: str) -> None:
        score = self._scores.get(key) if outcome in CREDITED else None
        self.controller.tell([Told(proposal.number, key, program, score, outcome, program.size, 0)])
