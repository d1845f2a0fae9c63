"""What does a search leave in a user's hands? Losses that can be read, used and exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from losssearch.errors import UsageError
from losssearch.language.program import Program
from losssearch.records import program_of_row
from losssearch.spaces import Space, load_space
from losssearch.store.rows import CandidateRow, Found, ProposalRow, Ranked

if TYPE_CHECKING:
    from losssearch.execution.module import LossModule
    from losssearch.execution.named import NamedLoss


@dataclass(frozen=True)
class Discovered:
    """One loss of a search, or a classical one from the database.

    Args:
        reference: As commands name it, for example `demo/1`.
        program: The formula, checked.
        space: Its space.
        candidate: Its row.
        proposal: How this search came by it; None for a loss that belongs to no search.
    """

    reference: str
    program: Program
    space: Space = field(repr=False)
    candidate: CandidateRow = field(repr=False)
    proposal: ProposalRow | None = field(default=None, repr=False)

    @classmethod
    def of_row(cls, ranked: Ranked, space: Space, search: str) -> Discovered:
        program = program_of_row(ranked.candidate, space)
        return cls(f"{search}/{ranked.rank}", program, space, ranked.candidate, ranked.proposal)

    @classmethod
    def of_found(cls, found: Found, reference: str) -> Discovered:
        space = load_space(found.candidate.space)
        program = program_of_row(found.candidate, space)
        return cls(reference, program, space, found.candidate, found.proposal)

    @property
    def formula(self) -> str:
        return self.program.text

    @property
    def key(self) -> str:
        return self.candidate.key

    @property
    def score(self) -> float | None:
        """Lower is better; None where it was not trained."""
        return self.proposal.score if self.proposal else None

    @property
    def is_chosen(self) -> bool:
        """Whether it stands for its search."""
        return self.proposal is not None and self.proposal.is_chosen

    @property
    def latex(self) -> str:
        from losssearch.language.latex import to_latex

        return to_latex(self.program)

    def module(self, **arguments: Any) -> LossModule | NamedLoss:
        """The loss as a torch module: `loss(input, target)`, or of named tensors where that is too little.

        Args:
            arguments: See `LossModule` and `NamedLoss`.
        """
        from losssearch.execution.named import loss_module

        return loss_module(self.program, self.space.task, identity=self.reference, **arguments)

    def evidence(self) -> dict[str, Any]:
        """What speaks for it, as plain data for an exported file."""
        if self.proposal is None:
            return {}
        search = self.reference.partition("/")[0]
        return {"search": search, "score": self.score, **self.proposal.evidence}


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        name: Of the search.
        storage: Where it is kept.
        leaderboard: Its best losses; the first stands for the search.
        proposals: How many candidates it saw.
        front: The finalists that no other beats in score, guard metric and size at once.
    """

    name: str
    storage: str
    leaderboard: Sequence[Discovered]
    proposals: int
    front: Sequence[Discovered] = ()

    @property
    def best(self) -> Discovered:
        """The loss that stands for the search.

        Raises:
            UsageError: No candidate could be trained.
        """
        if not self.leaderboard:
            raise UsageError(
                f"The search {self.name!r} trained no loss among {self.proposals} candidates. "
                "Give it more time, or look at its log: losssearch leaderboard "
                f"{self.name} --storage {self.storage}"
            )
        return self.leaderboard[0]
