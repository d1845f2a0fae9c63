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
from collections.abc import Mapping, Sequence
from pathlib import Path

from losssearch.catalogue import everything, find, with_constants
from losssearch.errors import StoreError, UsageError
from losssearch.language.candidate import Candidate
from losssearch.language.formula import ConstantLike, parse
from losssearch.language.program import Program
from losssearch.records import candidate_row
from losssearch.result import Discovered
from losssearch.space_file import did_you_mean, shortened
from losssearch.spaces import ClassicalLoss, Space, load_space, space_names

FIRST_SPACE = "multiclass"  # the one a formula speaks of until another is named

_SETTING = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*([^=,()]+?)\s*", re.ASCII)
_NAMED = re.compile(r"([\w./@-]+)\s*\(((?:[^()=,]+=[^()=,]+)(?:,[^()=,]+=[^()=,]+)*)\)", re.ASCII)
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def find_loss(
    reference: str,
    storage: str | None,
    space: str | Path | Space | None = None,
    constants: Mapping[str, ConstantLike] | None = None,
) -> Discovered:
    """The loss that a reference names.

    Args:
        reference: See the head of this file.
        storage: Database URL, for found losses; only opened when one is asked for. None looks for none.
        space: Where a classical name is looked up first, and whose words a formula uses; None means
            all shipped spaces in order, and `FIRST_SPACE` for a formula.
        constants: Values of constants, by name; of a formula also (value, low, high).

    Raises:
        UsageError: A constant is unknown, outside its range or no number; or there is no such loss.
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
    found = _classical(name, space)
    if found is None:
        if storage is None:
            find(name, space)  # raises, and says what is near
        found = _found(name, storage or "")
    return changed(found, given, reference)


def changed(found: Discovered, constants: Mapping[str, ConstantLike], reference: str = "") -> Discovered:
    """A known loss with some constants set; without a reference its new text stands for it.

    Raises:
        UsageError: A constant is unknown, outside its range or no number.
    """
    if not constants:
        return found
    name, source = found.candidate.name or found.reference, found.candidate.source or ""
    loss = ClassicalLoss(name, "", Candidate.of(found.program), source)
    return of_program(with_constants(loss, _numbers(constants)), found.space, reference, source)


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


def read_settings(texts: Sequence[str] | None) -> dict[str, float]:
    """Each `NAME=NUMBER` as a name and a number; see `read_setting`."""
    return dict(read_setting(text) for text in texts or ())


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
    meant = where in space_names() and not bare.isdecimal()  # a search may be called so too
    if not (own or meant) and bare not in {loss.name for _, loss in everything()}:
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
    from losssearch.store.store import Store  # slow to load, and a classical loss needs none

    known = [loss.name for _, loss in everything()]
    try:
        with Store.open(storage, read_only=True) as store:
            return Discovered.of_found(store.find(name, also=known), name)
    except StoreError as error:
        if near := _WORD.fullmatch(name) and did_you_mean(name, known):
            raise StoreError(f"No loss is called {name!r}.{near} Found ones: {error}") from None
        raise StoreError(f"{error} ({name!r} is no classical loss, so it was looked for there.)") from None


def _numbers(constants: Mapping[str, ConstantLike]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in constants.items():
        if not isinstance(value, (int, float)):
            raise UsageError(
                f"Constant {name!r} of a known loss must be a number (its range stays), "
                f"but is {shortened(value)}."
            )
        numbers[name] = value
    return numbers
