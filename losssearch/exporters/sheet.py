"""What is exported? A loss, where it comes from, and what speaks for it, whatever the format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.spaces import Space


@dataclass(frozen=True)
class Sheet:
    """A loss with its papers.

    Args:
        program: The loss.
        task: "multiclass", "binary" or "regression".
        space: Name of the space that its names come from.
        name: How people call it; any text.
        source: Where it comes from: a paper, a search.
        evidence: What speaks for it, plain data.
        facts: What is known of it without training, plain data.
    """

    program: Program
    task: str
    space: str = ""
    name: str = "found"
    source: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return candidate_key(self.program)

    @property
    def class_name(self) -> str:
        """An identifier made from the name's letters and digits: "focal" gives FocalLoss."""
        words = re.findall(r"[A-Za-z0-9]+", self.name)[:8]
        stem = "".join(word[0].upper() + word[1:] for word in words)[:48]
        stem = stem.removesuffix("Loss") or "Found"
        return ("Loss" if stem[0].isdigit() else "") + stem + "Loss"


class Named(Protocol):
    """What is known of a loss's name and source; None where it has none."""

    @property
    def name(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...


class Discovery(Protocol):
    """A loss that a search found, as far as an exporter looks."""

    @property
    def program(self) -> Program: ...
    @property
    def reference(self) -> str: ...
    @property
    def space(self) -> Space: ...
    @property
    def candidate(self) -> Named: ...
    def evidence(self) -> Mapping[str, Any]: ...


def sheet_of(loss: Sheet | Discovery) -> Sheet:
    """The papers of a loss that a search found, or a sheet as it is."""
    if isinstance(loss, Sheet):
        return loss
    program, space, known = loss.program, loss.space, loss.candidate
    name, source = known.name or loss.reference, known.source or ""
    return Sheet(program, space.task, space.name, name, source, dict(loss.evidence()))


def clean(text: object, limit: int = 2_000) -> str:
    """Text of a user on one line: what cannot be printed becomes a space."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[:limit])
    return " ".join(shown.split())
