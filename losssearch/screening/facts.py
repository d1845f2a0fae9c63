"""Do the cheap facts speak against it? Which inputs does it read at all?

Asked of the program alone: no data, no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from losssearch.language.signature import Role
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen


class Facts(Screen):
    """Refuses what cannot depend on prediction or target, as far as the space has them.

    Where several players learn from a loss, it must depend on a prediction of each.
    """

    name = "facts"
    title = "cannot depend on prediction or target"

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if self.judge(case) is None]

    def judge(self, case: Case) -> Rejection | None:
        inputs = case.space.signature.inputs
        read = {(inputs[n].role, inputs[n].player) for n in case.program.inputs}
        for role in (Role.PREDICTION, Role.TARGET):
            for player in dict.fromkeys(i.player for i in inputs.values() if i.role is role):
                if (role, player) not in read:
                    of = f" of the {player}" if player else ""
                    return Rejection(Outcome.BLIND, f"its canonical form reads no {role.value}{of}")
        return None
