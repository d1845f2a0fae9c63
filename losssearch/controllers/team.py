"""How do several controllers share the numbers of one search?

A team looks like one controller. Each number belongs to one member, who is asked at that very number, so
that its randomness is its own and it knows its proposals again when their results come. An idea that
anybody had before is asked for again: a controller remembers what it said, and says something else. All
members know the start losses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from losssearch.controllers.base import Controller, Idea, Start, Told
from losssearch.language.draws import Draws
from losssearch.spaces import Space


class Team(Controller):
    """A controller made of others.

    Args:
        members: Made for the same space, start losses and seed.
    """

    def __init__(self, space: Space, start: Start, seed: int, members: Mapping[str, Controller]) -> None:
        super().__init__(space, start, seed)
        self.members = dict(members)

    @abstractmethod
    def _member(self, number: int) -> str:
        """Who makes a proposal."""

    @abstractmethod
    def _concerns(self, name: str, told: Told) -> bool:
        """Whether a member is told of a result."""

    def tell(self, results: Sequence[Told]) -> None:
        for name, member in self.members.items():
            member.tell([told for told in results if self._concerns(name, told)])

    def _learn(self, told: Told) -> None:
        self.tell([told])

    def _propose(self, number: int, draws: Draws) -> Idea:
        name = self._member(number)
        idea = self._asked(name, number)
        return idea._replace(origin=f"{name}: {idea.origin}")

    def _accept(self, number: int, idea: Idea) -> None:
        if number < len(self.start):
            for name in self.members:
                self._asked(name, number)

    def _asked(self, name: str, number: int) -> Idea:
        member = self.members[name]
        member.number = number
        [proposal] = member.ask(1)
        return Idea(proposal.program, proposal.parents, proposal.origin)

    def _state(self) -> dict[str, Any]:
        return {"members": {name: member.state() for name, member in self.members.items()}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        if set(state["members"]) != set(self.members):
            raise ValueError(f"its members are {', '.join(state['members'])}")
        for name, member in self.members.items():
            member.restore(state["members"][name])
