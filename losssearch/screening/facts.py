"""Do the cheap facts speak against it? Which inputs does it read at all?

Asked of the program alone: no data, no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from losssearch.language.signature import Role
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen


class Facts(Screen):
    """Refuses what cannot depend on prediction or target."""

    name = "facts"
    title = "cannot depend on prediction or target"

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if self.judge(case) is None]

    def judge(self, case: Case) -> Rejection | None:
        read = {case.space.signature.inputs[n].role for n in case.program.inputs}
        for role in (Role.PREDICTION, Role.TARGET):
            if role not in read:
                return Rejection(Outcome.BLIND, f"its canonical form reads no {role.value}")
        return None
