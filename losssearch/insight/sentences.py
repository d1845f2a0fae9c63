"""What can be said of a loss in plain words?

Each function of the table looks at what was proved or measured, and says one sentence or nothing. A sentence
carries its numbers, and whether it rests on a proof, on a counter-example or on a measurement along the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from losssearch.insight.against import fades, like_reference, pulls, same
from losssearch.insight.claims import Basis, Found, Sentence
from losssearch.insight.extremes import (
    bounded,
    bounded_value,
    gives_up,
    grows,
    levels_off,
    pushes_back,
    stops,
)
from losssearch.insight.measured import Measured
from losssearch.insight.shape import (
    adapts,
    assumes,
    convex,
    coupled,
    detached,
    kinks,
    monotone,
    sides,
    smooth,
    target_matters,
)

FROM_FACTS = ("convex", "monotone", "smooth", "detached", "coupled")
"""What needs no walk."""

SENTENCES: dict[str, Callable[[Measured], Found]] = {
    speak.__name__: speak
    for speak in (
        same, like_reference, fades, stops, pushes_back, pulls,
        bounded, levels_off, grows, gives_up, bounded_value,
        sides, target_matters, convex, monotone, kinks, smooth,
        adapts, assumes, detached, coupled,
    )
}  # fmt: skip
"""What may be said, in this order."""


def explain(m: Measured, names: Collection[str] = ()) -> tuple[Sentence, ...]:
    """The sentences that hold of a loss, in the order of `SENTENCES`; of some `names` only, if any."""
    said = [(name, speak(m)) for name, speak in SENTENCES.items() if not names or name in names]
    return tuple(Sentence(name, *found) for name, found in said if found)


__all__ = ["FROM_FACTS", "SENTENCES", "Basis", "Sentence", "explain"]
