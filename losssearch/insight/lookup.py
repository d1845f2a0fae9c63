"""Which loss does a person mean?

    focal            a classical loss; binary/focal the one of a space
    focal(gamma=5)   with some constants set
    wgan:generator   one part of a loss whose parts are trained each on its own
    demo/1, demo@17  a found one, by rank or by proposal; also by its key
    mean(abs(r), 'n')   a formula in the words of a space

A name costs the reading of the space files, some 20 ms each; a found loss one look into the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from losssearch.catalogue import everything, find, with_constants
from losssearch.errors import StoreError, UsageError
from losssearch.language.candidate import Candidate
from losssearch.language.formula import ConstantLike, parse
from losssearch.language.program import Program
from losssearch.records import candidate_row
from losssearch.result import Discovered
from losssearch.space_file import shortened
from losssearch.spaces import ClassicalLoss, Space, load_space
from losssearch.store.store import Store

FIRST_SPACE = "multiclass"  # the one a formula speaks of until another is named

_SETTING = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*([^=,()]+?)\s*", re.ASCII)
_NAMED = re.compile(r"([\w./@-]+)\s*\(((?:[^()=,]+=[^()=,]+)(?:,[^()=,]+=[^()=,]+)*)\)", re.ASCII)


def find_loss(
    reference: str,
    storage: str,
    space: str | Path | Space | None = None,
    constants: Mapping[str, ConstantLike] | None = None,
) -> Discovered:
    """The loss that a reference names.

    Args:
        reference: See the head of this file.
        storage: Database URL, for found losses; only opened when one is asked for.
        space: Where a classical name is looked up first, and whose words a formula uses; None means
            all shipped spaces in order, and `FIRST_SPACE` for a formula.
        constants: Values of constants, by name; of a formula also (value, low, high).

    Raises:
        UsageError: A constant is unknown, outside its range or no number.
        FormulaError: The formula cannot be read or is badly typed.
        SpaceError: There is no such space, or it has no such loss.
        StoreError: It is no classical loss, and the database has none of that name either.
    """
    given = dict(constants or {})
    if named := _NAMED.fullmatch(reference.strip()):
        for setting in named[2].split(","):
            name, value = read_setting(setting)
            given[name] = value
        name = named[1]
    elif "(" in reference:
        place = _space(space or FIRST_SPACE)
        return of_program(parse(reference, place.signature, given), place)
    else:
        name = reference.strip()
    found = _classical(name, space) or _found(name, storage)
    if not given:
        return found
    loss = ClassicalLoss(
        found.candidate.name or name, "", Candidate.of(found.program), found.candidate.source or ""
    )
    changed = with_constants(loss, _numbers(given))
    return of_program(changed, found.space, reference, loss.source)


def of_program(program: Program, space: Space, reference: str = "", source: str = "") -> Discovered:
    """A program as if it had been found; without a reference its text stands for it."""
    row = candidate_row(program, space, source=source or None)
    return Discovered(reference or program.text, program, space, row)


def read_setting(text: str) -> tuple[str, float]:
    """`gamma=2` as a name and a number.

    Raises:
        UsageError: It is not written so.
    """
    match = _SETTING.fullmatch(text)
    try:
        if match:
            return match[1], float(match[2])
    except ValueError:
        pass
    raise UsageError(f"A constant is set by NAME=NUMBER, such as gamma=2, but got {shortened(text)}.")


def split_list(text: str) -> list[str]:
    """References between commas; a comma within brackets belongs to a formula."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _classical(name: str, space: str | Path | Space | None) -> Discovered | None:
    whole, _, part = name.partition(":")
    where, _, bare = whole.rpartition("/")
    if "@" in name:
        return None
    own = space is not None and whole in _space(space).losses
    if not own and bare not in {loss.name for _, loss in everything()}:
        return None
    place, loss = find(bare, where or space)
    parts = loss.candidate.parts
    if part:
        if part not in parts:
            raise UsageError(f"The loss {bare!r} has no part {part!r}. It has {', '.join(parts)}.")
        return of_program(parts[part], place, name, loss.source)
    if not loss.candidate.is_one:
        raise UsageError(
            f"The loss {bare!r} has the parts {', '.join(parts)}, each trained on its own. Name one, such as "
            f"{whole}:{next(iter(parts))}."
        )
    row = candidate_row(loss.program, place, name=loss.name, source=loss.source)
    return Discovered(name, loss.program, place, row)


def _space(space: str | Path | Space) -> Space:
    return space if isinstance(space, Space) else load_space(space)


def _found(name: str, storage: str) -> Discovered:
    try:
        with Store.open(storage, read_only=True) as store:
            return Discovered.of_found(store.find(name), name)
    except StoreError as error:
        raise StoreError(f"{error} ({name!r} is no classical loss, so it was looked for there.)") from None


def _numbers(constants: Mapping[str, ConstantLike]) -> dict[str, float]:
    for name, value in constants.items():
        if not isinstance(value, (int, float)):
            raise UsageError(f"Constant {name!r} of a known loss is set by a number; its range stays.")
    return {name: value for name, value in constants.items() if isinstance(value, (int, float))}
