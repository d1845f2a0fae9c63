"""What must somebody know to write a loss of this space? The language in two pages, made from its tables.

Every word comes from the primitives' rows and from the space file, so that the text cannot say what the
parser does not do.
"""

from __future__ import annotations

from losssearch.language.primitives import PRIMITIVES
from losssearch.language.signature import Kind
from losssearch.spaces import Space

_PLAYERS = "Each player learns by the slopes in its own inputs alone; the formula holds a prediction of each."


def primer(space: Space) -> str:
    """The language and this space, for a reader who knows losses and nothing of either."""
    signature, search = space.signature, space.search
    inputs = [
        f"  {name}({', '.join(i.axes)}): {i.role.value}{f' of the {i.player}' if i.player else ''}, "
        f"from {i.low:g} to {i.high:g}" + (f"; {', '.join(sorted(i.properties))}" if i.properties else "")
        for name, i in signature.inputs.items()
        if name in search.terminals
    ]
    definitions = [
        f"  {name}({signature.axes_text(d.axes)}) = {d.text}"
        for name, d in signature.definitions.items()
        if name in search.terminals
    ]
    sizes = [name for name in signature.sizes if name in search.terminals]
    rows = [PRIMITIVES[name] for name in search.primitives]
    words = [f"  {row.usage}{' (a mask)' if row.result is Kind.MASK else ''}" for row in rows]
    axes = ", ".join(f"'{signature.axes_text(s)}'" for s in sorted(search.sets))
    return "\n".join(
        [
            f"A loss for {space.title.lower()} is one formula; lower is better. Its form is {space.head},",
            f"where body has at most {search.nodes} nodes and is at most {search.depth} deep.",
            f"Better predictions: {signature.better}.",
            *([_PLAYERS] if len(signature.players) > 1 else []),
            "",
            "Inputs, with their axes:",
            *inputs,
            "Defined names:",
            *definitions,
            *([f"Sizes of axes: {', '.join(sizes)}"] if sizes else []),
            "",
            "Functions and operators; nothing else exists:",
            *words,
            "",
            f"Values may have the axes {axes}; elementwise functions take the union of their arguments'.",
            "Logarithm, division, powers and square roots are guarded near zero: no epsilon is needed.",
            "A number that should be tuned is a named constant with a value and a range.",
        ]
    )
