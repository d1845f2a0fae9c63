"""What does a search look for, and which losses are known already? One TOML file a task.

A space names axes, inputs (which are predicted, which are targets), definitions, what a search may
use, and the classical losses of its task, each a formula or several. Shipped files lie in
`search_spaces/` and are found by place, never by import; a user's own file is given by its path. A
file that loads is right: every formula in it has been parsed and typed. Costs some 20 ms a file; the
same content is not checked twice.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from losssearch.errors import FormulaError, SpaceError, UsageError
from losssearch.language.candidate import LOSS, Candidate
from losssearch.language.formula import define, parse, parse_term
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Constant, Program
from losssearch.language.signature import AxisSet, Input, Role, Signature
from losssearch.language.term import NAME, Term, at, paths
from losssearch.lines import Line, line_of
from losssearch.space_file import NAME as ORDINARY_NAME
from losssearch.space_file import (
    InputRow,
    LineRow,
    LossRow,
    SpaceFile,
    checked,
    did_you_mean,
    one_line,
    read,
    shortened,
    where,
)

if TYPE_CHECKING:
    from losssearch.language.grammar import Grammar

BODY = "body"  # what a head calls the formula that a search proposes

_SHIPPED = Path(__file__).parents[1] / "search_spaces"
_FIRST = ("multiclass", "binary", "regression")  # a bare name is looked up in these first


@dataclass(frozen=True)
class ClassicalLoss:
    """A loss that people know, as an ordinary candidate with a name.

    Args:
        name: In snake_case; stable, since people, databases and tests use it.
        title: One line for people.
        candidate: The checked formulas with their constants, mostly one.
        source: Paper with arXiv id or journal, or an honest word that there is none.
        seed: Whether a search of its space may start from it.
    """

    name: str
    title: str
    candidate: Candidate
    source: str
    seed: bool = True

    @property
    def program(self) -> Program:
        """The formula that is trained.

        Raises:
            UsageError: There are several, each trained on its own.
        """
        if not self.candidate.is_one:
            parts = ", ".join(self.candidate.parts)
            raise UsageError(
                f"The loss {self.name!r} is no single formula: its parts {parts} are trained each on its "
                "own. Take one of `loss.candidate.parts`."
            )
        return self.candidate.loss

    @property
    def requires(self) -> tuple[str, ...]:
        """Inputs beside prediction and target that a caller must provide, in declared order."""
        usual = (Role.PREDICTION, Role.TARGET)
        inputs, read = self.candidate.signature.inputs, self.candidate.inputs
        return tuple(n for n in inputs if n in read and inputs[n].role not in usual)


@dataclass(frozen=True)
class SearchSettings:
    """What a search of the space may use.

    Args:
        primitives: Primitives that it may write, each with the weight with which it is drawn.
        terminals: Names of the inputs, definitions and axis sizes that it may write.
        rightness: Terminal -> 1 if it rises as the prediction gets better, -1 if it falls, 2 if its
            size falls. Growth by role is made of these.
        sets: Axis sets that a value of a proposed formula may have.
        nodes, depth: Largest body; the head does not count.
        mix: Shares of the ways to propose, "role", "mutation" and "growth"; they sum to 1.
    """

    primitives: Mapping[str, float]
    terminals: tuple[str, ...]
    rightness: Mapping[str, int]
    sets: frozenset[AxisSet]
    nodes: int
    depth: int
    mix: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Space:
    """A checked space file.

    Args:
        name: The file's name without `.toml`.
        title: One line for people.
        task: Name of the shipped space whose predictions and targets it shares, so that the proxies
            and modules of that one fit; its own name if it shares none.
        path: Where the file lies.
        signature: What the names in a formula mean.
        head: Formula around the proposed `body`, for example `mean(body, 'n')`.
        search: What a search may use.
        screens: Names of the screens that apply, in order.
        losses: Classical losses by name, in the file's order.
        reference: Name of the loss to whose gradient the others are scaled.
        digest: Hash of the content; comments, layout and lines do not count. 64 hex digits.
        lines: Along which its losses are shown, by name.
    """

    name: str
    title: str
    task: str
    path: Path
    signature: Signature
    head: str
    search: SearchSettings
    screens: tuple[str, ...]
    losses: Mapping[str, ClassicalLoss]
    reference: str
    digest: str
    lines: Mapping[str, Line]

    def loss(self, name: str) -> ClassicalLoss:
        """The classical loss of that name.

        Raises:
            SpaceError: The space has none.
        """
        if name not in self.losses:
            hint = did_you_mean(name, self.losses) or f" It has {', '.join(self.losses)}."
            raise SpaceError(f"The space {self.name!r} has no loss {shortened(name)}.{hint}")
        return self.losses[name]

    @cached_property
    def seeds(self) -> tuple[ClassicalLoss, ...]:
        """The losses that a search may start from: it proposes single formulas."""
        return tuple(loss for loss in self.losses.values() if loss.seed and loss.candidate.is_one)

    @cached_property
    def grammar(self) -> Grammar:
        """What a search may write, as samplers take it."""
        from losssearch.language.grammar import Grammar

        search = self.search
        return Grammar(
            signature=self.signature,
            primitives=search.primitives,
            terminals=search.terminals,
            sets=search.sets,
            nodes=search.nodes,
            depth=search.depth,
            head=self.head,
            rightness=search.rightness,
        )


def space_names() -> tuple[str, ...]:
    """Names of the shipped spaces: multiclass, binary, regression, then the others by name."""
    found = sorted(path.stem for path in _SHIPPED.glob("*.toml"))
    return tuple(sorted(found, key=lambda n: _FIRST.index(n) if n in _FIRST else len(_FIRST)))


def load_space(name_or_path: str | Path) -> Space:
    """The space of a name, or of a file.

    Args:
        name_or_path: A shipped space such as "multiclass", or a path: text that holds a separator
            or ends in `.toml`. A file that has changed is read anew.

    Raises:
        SpaceError: There is no such space or file, or something in it does not fit.
    """
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in text or "\\" in text
    if is_path or text.endswith(".toml"):
        path = Path(text)
    elif text in (names := space_names()):
        path = _SHIPPED / f"{text}.toml"
    else:
        hint = did_you_mean(text, names) or f" There are {', '.join(names)}."
        raise SpaceError(
            f"No space is called {shortened(text)}.{hint} "
            "A file of your own is given by its path, such as ./mine.toml."
        )
    return _build(path, read(path))


@lru_cache(maxsize=64)
def _build(path: Path, content: bytes) -> Space:
    return _Reader(path, *checked(path, content)).space()


class _Reader:
    """Turns a file of the right shape into a space; checks names, axes and formulas on the way."""

    def __init__(self, path: Path, file: SpaceFile, digest: str) -> None:
        self.path, self.file, self.digest = path, file, digest
        self.sizes = {axis.upper() for axis in file.axes}

    def space(self) -> Space:
        file = self.file
        signature = self.signature()
        head = self.head(signature)
        search = self.search(signature)
        self.check_once(file.screens, "screens")
        for screen in file.screens:
            self.check_name(screen, "screens")
        losses = {name: self.loss(signature, name, row) for name, row in file.losses.items()}
        if file.reference not in losses:
            raise self.unknown("loss", file.reference, losses, "reference")
        return Space(
            name=self.path.stem,
            title=file.title,
            task=file.task,
            path=self.path,
            signature=signature,
            head=head,
            search=search,
            screens=tuple(file.screens),
            losses=MappingProxyType(losses),
            reference=file.reference,
            digest=self.digest,
            lines=MappingProxyType({name: self.line(signature, name, r) for name, r in file.lines.items()}),
        )

    # Axes, inputs and definitions.

    def signature(self) -> Signature:
        file = self.file
        axes, copies = tuple(file.axes), self.copies()
        inputs = {name: self.input(name, row) for name, row in file.inputs.items()}
        about = {name: axis.about for name, axis in file.axes.items() if axis.about}
        bare = Signature(axes, inputs, copies, None, {}, file.better, about)
        self.check_task(bare)
        self.check_players(bare)
        self.check_there(bare)
        sets = frozenset(self.axis_set(bare, text, "sets") for text in file.sets)
        signature = replace(bare, sets=sets)
        for name, text in file.define.items():
            self.check_name(name, "define", name)
            if name in self.sizes:
                raise self.error("The name is taken: it is the size of an axis.", "define", name)
            try:
                signature = define(signature, name, text)
            except FormulaError as error:
                raise self.error(error, "define", name) from None
        return signature

    def copies(self) -> dict[str, str]:
        copies: dict[str, str] = {}
        originals = [name for name, axis in self.file.axes.items() if axis.copy_of is None]
        for name, axis in self.file.axes.items():
            self.check_name(name, "axes", name)
            if name != name.lower():
                raise self.error("Write an axis in small letters; capitals mean its size.", "axes", name)
            if axis.copy_of is None:
                continue
            if axis.copy_of not in originals:
                raise self.unknown("axis", axis.copy_of, originals, "axes", name, "copy_of")
            copies[name] = axis.copy_of
        return copies

    def input(self, name: str, row: InputRow) -> Input:
        place = "inputs", name
        self.check_name(name, *place)
        if name in self.file.axes or name in self.sizes:
            raise self.error("An input cannot be named like an axis or its size.", *place)
        if row.role not in (roles := [role.value for role in Role]):
            raise self.unknown("role", row.role, roles, *place, "role")
        axes = row.axes.split()
        for axis in axes:
            if axis not in self.file.axes:
                raise self.unknown("axis", axis, self.file.axes, *place, "axes")
        order = [axis for axis in self.file.axes if axis in axes]
        if axes != order:
            remedy = f"Name each axis once, in the order of the space: '{' '.join(order)}'."
            raise self.error(remedy, *place, "axes")
        low, high = row.range
        if not low < high:
            what = f"`low < high` must hold, but got {low:g} and {high:g}."
            raise self.error(what, *place, "range")
        for text in row.properties:
            kind, _, axis = text.partition(" over ")
            if text != "one_hot" and not (kind in ("simplex", "one_hot") and axis in axes):
                remedy = "Write 'simplex over' or 'one_hot over' and one of its axes."
                what = f"There is no property {shortened(text)}. {remedy}"
                raise self.error(what, *place, "properties")
        role = Role(row.role)
        if row.player:
            self.check_name(row.player, *place, "player")
            if not role.is_differentiable:
                what = f"Only a prediction or a parameter is a player's, but the role is {role.value}."
                raise self.error(what, *place, "player")
        properties = frozenset(row.properties)
        return Input(name, tuple(axes), role, low, high, properties, row.player, row.there, row.about)

    def check_task(self, signature: Signature) -> None:
        """Something is predicted; a file that takes part in a shipped task predicts the same."""
        if not signature.predictions:
            raise self.error("One input at least has the role 'prediction'.", "inputs")
        task = self.file.task
        if task not in space_names():
            if task != self.path.stem:
                known = [self.path.stem, *space_names()]
                raise self.unknown("task", task, known, "task")
            return
        shipped = _SHIPPED / f"{task}.toml"
        if self.path.resolve() == shipped.resolve():
            return
        for role in (Role.PREDICTION, Role.TARGET):
            wanted, seen = (_of_role(s, role) for s in (load_space(task).signature, signature))
            if wanted != seen:
                raise self.error(
                    f"The task {task!r} has {wanted or 'no input'} of role {role.value}, but here is "
                    f"{seen or 'none'}. For inputs of your own, write task = {self.path.stem!r}.",
                    "inputs",
                )

    def check_players(self, signature: Signature) -> None:
        """Every player predicts, and where there are several, whatever moves is somebody's."""
        inputs = signature.inputs
        if len(signature.players) > 1 and (
            nobodys := [n for n in signature.differentiable if not inputs[n].player]
        ):
            players = ", ".join(repr(p) for p in signature.players if p)
            what = f"There are players: say whose it is, such as {players}."
            raise self.error(what, "inputs", nobodys[0], "player")
        for player in signature.players:
            if all(inputs[n].player != player for n in signature.predictions):
                raise self.error(f"The player {player!r} has no prediction.", "inputs")

    def check_there(self, signature: Signature) -> None:
        """What says which entries of an input are there is a mask over axes of that input."""
        masks = [i for i in signature.inputs.values() if i.role is Role.MASK]
        for name, given in signature.inputs.items():
            fitting = [mask.name for mask in masks if set(mask.axes) <= set(given.axes)]
            if given.there and (given.role is Role.MASK or given.there not in fitting):
                raise self.unknown("mask over its axes", given.there, fitting, "inputs", name, "there")

    def axis_set(self, signature: Signature, text: str, *place: str) -> AxisSet:
        for axis in text.split():
            if axis not in signature.bits:
                raise self.unknown("axis", axis, signature.axes, *place)
        return signature.axes_of(text)

    # What a search may use.

    def head(self, signature: Signature) -> str:
        head = self.file.head
        try:
            if ";" in head:
                raise self.error("A head has no local names.", "head")
            term = parse_term(head)
            if sum(_is_body(at(term, path)) for path in paths(term)) != 1:
                what = f"A head holds the name {BODY!r} once, as in mean({BODY}, 'n')."
                raise self.error(what, "head")
            body = Input(BODY, signature.axes_names(_body_axes(signature, term)))
            inputs = {**signature.inputs, BODY: body}
            parse(head, replace(signature, inputs=inputs))
        except FormulaError as error:
            raise self.error(error, "head") from None
        return head

    def search(self, signature: Signature) -> SearchSettings:
        row = self.file.search
        for name in row.primitives:
            if name not in PRIMITIVES:
                raise self.unknown("primitive", name, PRIMITIVES, "search", "primitives")
        self.check_once(row.terminals, "search", "terminals")
        known = [*signature.inputs, *signature.definitions, *signature.sizes]
        for name in row.terminals:
            if name not in known:
                what = "input, definition or axis size"
                raise self.unknown(what, name, known, "search", "terminals")
        for name in row.rightness:
            if name not in row.terminals:
                raise self.unknown("terminal", name, row.terminals, "search", "rightness")
        sets = frozenset(self.axis_set(signature, text, "search", "sets") for text in row.sets)
        for axes in sorted(sets - (signature.sets or frozenset())):
            what = f"'{signature.axes_text(axes)}' is not among the `sets` of the space."
            raise self.error(what, "search", "sets")
        mix = {"role": row.mix.role, "mutation": row.mix.mutation, "growth": row.mix.growth}
        if not math.isclose(sum(mix.values()), 1.0, abs_tol=1e-9):
            what = f"The shares must sum to 1, but sum to {sum(mix.values()):g}."
            raise self.error(what, "search", "mix")
        return SearchSettings(
            primitives=MappingProxyType(dict(row.primitives)),
            terminals=tuple(row.terminals),
            rightness=MappingProxyType(dict(row.rightness)),
            sets=sets,
            nodes=row.nodes,
            depth=row.depth,
            mix=MappingProxyType(mix),
        )

    def loss(self, signature: Signature, name: str, row: LossRow) -> ClassicalLoss:
        self.check_name(name, "losses", name)
        constants: dict[str, Constant] = {}
        for key, given in row.constants.items():
            place = "losses", name, "constants", key
            self.check_name(key, *place)
            if key in self.sizes or key in PRIMITIVES:
                raise self.error("The name is taken.", *place)
            if not (math.isfinite(given.low) and math.isfinite(given.high)):
                raise self.error("`low` and `high` must be finite.", *place)
            try:
                constants[key] = Constant(key, given.value, given.low, given.high, given.learnable)
            except FormulaError as error:
                raise self.error(error, *place) from None
        candidate = self.candidate(signature, name, row, constants)
        for key in constants:
            if key not in candidate.constant_values:
                raise self.error("The formula does not use it.", "losses", name, "constants", key)
        return ClassicalLoss(name, row.title, candidate, row.source, row.seed)

    def candidate(
        self, signature: Signature, name: str, row: LossRow, constants: Mapping[str, Constant]
    ) -> Candidate:
        if (row.formula is None) != bool(row.parts):
            raise self.error("A loss has a `formula`, or a table of `parts`.", "losses", name)
        if row.formula is not None:
            try:
                return Candidate.of(parse(row.formula, signature, constants))
            except FormulaError as error:
                raise self.error(error, "losses", name, "formula") from None
        taken = {*signature.inputs, *signature.definitions, *constants, *signature.axes, *self.sizes}
        for part, text in row.parts.items():
            place = "losses", name, "parts", part
            self.check_name(part, *place)
            if part in taken or part in PRIMITIVES:
                raise self.error("The name is taken.", *place)
            if part != LOSS:
                try:
                    parse(text, signature, constants)
                except FormulaError as error:
                    raise self.error(error, *place) from None
        try:
            return Candidate.parse(row.parts, signature, constants)
        except FormulaError as error:
            raise self.error(error, "losses", name, "parts", LOSS) from None

    def line(self, signature: Signature, name: str, row: LineRow) -> Line:
        self.check_name(name, "lines", name)
        low, high = row.range
        try:
            return line_of(row.title, row.x, (low, high), row.inputs, signature)
        except FormulaError as error:
            raise self.error(error, "lines", name) from None

    # Messages.

    def error(self, what: object, *place: str) -> SpaceError:
        return SpaceError(f"{one_line(self.path)}: {where(place)}{what}")

    def unknown(self, what: str, name: str, known: Iterable[str], *place: str) -> SpaceError:
        known = list(known)
        hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
        return self.error(f"No {what} is called {shortened(name)}.{hint}", *place)

    def check_name(self, name: str, *place: str) -> None:
        if not ORDINARY_NAME.fullmatch(name) or keyword.iskeyword(name):
            rule = "letters, digits and _, a letter first, at most 64, no word of Python"
            raise self.error(f"{shortened(name)} is no name. A name has {rule}.", *place)

    def check_once(self, names: list[str], *place: str) -> None:
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise self.error(f"{shortened(twice)} stands twice.", *place)


def _of_role(signature: Signature, role: Role) -> str:
    """The inputs of a role and their axes: logits over 'n c'."""
    found = [i for i in signature.inputs.values() if i.role is role]
    return ", ".join(f"{i.name} over '{' '.join(i.axes)}'" for i in found)


def _is_body(term: Term) -> bool:
    return term.op == NAME and term.data == BODY


def _body_axes(signature: Signature, head: Term) -> AxisSet:
    axes = 0
    for path in paths(head):
        data = at(head, path).data
        if isinstance(data, tuple):
            axes |= signature.axes_of(str(axis) for axis in data)
    return axes
