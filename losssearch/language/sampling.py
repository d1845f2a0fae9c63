"""How is a loss drawn at random so that it has a chance to be one?

Terms grow from the top by the wanted type: kind, axes, sign, and whether predictions and target
must occur below. A table of least completions keeps every draw inside the node and depth limits.
Free growth rarely gives a loss that teaches anything, so there is growth *by role* too: a weight,
never negative, times a rising function of how wrong the prediction is, plus a free term. Where
several players learn from one loss, each has such a term of its own. One proposal, type check
included, takes about a tenth of a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from losssearch.errors import FormulaError
from losssearch.language.bounds import bounds
from losssearch.language.canonical import canonical
from losssearch.language.drafts import Drafts, drafts_of
from losssearch.language.draws import Draws
from losssearch.language.formula import parse, parse_term
from losssearch.language.grammar import TARGET, Grammar, Terminal, Want, bits_of_players, need_of
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.productions import Productions
from losssearch.language.program import Constant, Instruction, Program
from losssearch.language.signature import AxisSet, Kind
from losssearch.language.term import CONSTANT, LITERAL, NAME, Term, at, literal, name, paths

FREE_TRIES = 20


_LITERALS = (1.0, 1.0, 2.0, 0.5, 3.0, 0.1)

# How wrong is the prediction? `x` is a terminal of known rightness; each is never negative.
_WRONG_SHARE = ("1 - x", "1 - x", "-log(x)", "1 - x**a", "(1 - x)**a")
_WRONG_LOG = ("-x", "-x", "1 - exp(a*x)", "1 - exp(x)", "log(1 - x)")
_WRONG_SCORE = (
    "softplus(b - a*x)",
    "sigmoid(b - a*x)",
    "sigmoid(-a*x)",
    "relu(b - x)",
    "1 - tanh(a*x - b)",
    "exp(-a*x)",
)
_WRONG_SIZE = (
    "abs(x)",
    "square(x)",
    "log(1 + square(x/a))",
    "tanh(square(x/a))",
    "sqrt(1 + square(x/a))",
)
# Rising functions of something that is never negative.
_RISING = (
    "u**a", "log(1 + a*u)", "tanh(a*u)", "1 - exp(-a*u)", "u / (a + u)", "sqrt(u)", "square(u)",
    "minimum(u, a)", "softplus(a*(u - b))", "u * (1 + a*u)", "exp(a*u)", "sigmoid(a*(u - b))",
    "u + a*sqrt(u)", "u + a*square(u)",
)  # fmt: skip
# Weights, from a wrongness.
_WEIGHT = ("exp(-a*u)", "1 / (1 + a*u)", "u**a", "1 + a*u", "a + exp(-b*u)", "1 - a*exp(-u)")


Side = Sequence[tuple[Terminal, int]]  # terminals of known rightness, with their directions


class Sketch:
    """A term in the making, and the constants that it has been given."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self.constants: dict[str, Constant] = {}
        self._taken = set(taken)

    def constant(self, value: float, low: float, high: float) -> Term:
        """A new named constant of three digits."""
        value = min(max(float(f"{value:.3g}"), low), high)
        return self.adopted(Constant("c", value, low, high))

    def adopted(self, constant: Constant) -> Term:
        """A constant of another program, under a new name."""
        i = len(self.constants)
        while (name := f"c{i}") in self._taken or name in self.constants:
            i += 1
        self.constants[name] = Constant(name, constant.value, constant.low, constant.high, constant.learnable)
        return Term(CONSTANT, (), name)


class Sampler:
    """Draws terms and programs of a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar, self.signature = grammar, grammar.signature
        for op in grammar.primitives:
            if op not in PRIMITIVES:
                raise FormulaError(f"no primitive is called {op!r}")
        self.head = parse_term(grammar.head)
        self.body_path = _place_of_body(self.head)
        self.body_axes = self._axes_under_head()
        self.terminals = [self._terminal(n) for n in grammar.terminals]
        names = {str(t.term.data): t for t in self.terminals}
        self.right = [(names[n], d) for n, d in (grammar.rightness or {}).items() if n in names]
        self._players = bits_of_players(self.signature)
        #: The same, player by player: what speaks of no other.
        self.sides = [[(t, d) for t, d in self.right if not t.need & ~TARGET & ~bit] for bit in self._players]
        self._penalised = [t for t in self.terminals if self._can_be_penalised(t)]
        self.body = Want(Kind.REAL, self.body_axes, 0, self._possible_need())
        self._sufficient: dict[frozenset[str], bool] = {}
        self.productions = Productions(grammar, self.terminals, self.body_axes)
        self._templates = {
            key: [parse_term(text) for text in texts if self._writable(text)]
            for key, texts in {
                "share": _WRONG_SHARE, "log": _WRONG_LOG, "score": _WRONG_SCORE,
                "size": _WRONG_SIZE, "rising": _RISING, "weight": _WEIGHT,
            }.items()
        }  # fmt: skip

    # What is known beforehand.

    def _writable(self, text: str) -> bool:
        """Whether the space allows every operation of a template."""
        term = parse_term(text)
        return all(
            at(term, p).op in (NAME, LITERAL) or at(term, p).op in self.grammar.primitives
            for p in paths(term)
        )

    def _axes_under_head(self) -> AxisSet:
        axes = 0
        for i in range(len(self.body_path)):
            node = at(self.head, self.body_path[:i])
            row = PRIMITIVES.get(node.op)
            reduces = row is not None and row.form in (Form.REDUCTION, Form.CONTRACTION)
            if reduces and isinstance(node.data, tuple):
                axes |= self.signature.axes_of(str(axis) for axis in node.data)
        return axes

    def _terminal(self, text: str) -> Terminal:
        program = parse(text, self.signature, scalar=False)
        plain = canonical(program)
        interval = bounds(plain)[plain.outputs[0]]
        if text in self.signature.inputs:
            interval = self.signature.inputs[text].interval
        return Terminal(
            program.term(),
            program.root.kind,
            program.root.axes,
            interval,
            need_of(self.signature, program.inputs),
        )

    def _can_be_penalised(self, terminal: Terminal) -> bool:
        """Speaks of predictions alone, and can be reduced to the body's axes."""
        more = terminal.axes & ~self.body_axes
        reduces = {"mean", "max", "sum"} & set(self.grammar.primitives)
        covers = terminal.axes & self.body_axes == self.body_axes
        return terminal.need > 0 and not terminal.need & TARGET and covers and (not more or bool(reduces))

    def _possible_need(self) -> int:
        need = 0
        for terminal in self.terminals:
            need |= terminal.need
        return need

    # Growth.

    def can(self, want: Want, nodes: int, depth: int) -> bool:
        """Whether some term of this type has at most so many nodes and levels."""
        size, least_depth = self.productions.least(want)
        return size <= nodes and least_depth <= depth

    def grow(self, want: Want, nodes: int, depth: int, draws: Draws, sketch: Sketch) -> Term:
        """A term of the wanted type, of about `nodes` nodes and at most `depth` levels.

        Raises:
            FormulaError: Nothing of this type is so small.
        """
        if not self.can(want, nodes, depth):
            raise FormulaError(f"no term of the wanted type has {nodes} nodes and {depth} levels")
        return self._grow(want, nodes, depth, draws, sketch)

    def _grow(self, want: Want, nodes: int, depth: int, draws: Draws, sketch: Sketch) -> Term:
        totals, productions = self.productions.fitting(want, nodes, depth)
        production = productions[draws.weighted(totals)]
        if production.leaf is not None:
            return production.leaf
        if production.op == CONSTANT:
            return drawn_constant(want.sign, draws, sketch)
        if production.op == LITERAL:
            value = draws.pick(_LITERALS)
            return literal(-value if want.sign < 0 else value)
        least = [self.productions.least(a)[0] for a in production.args]
        spare = max(nodes - 1 - sum(least), 0)
        args: list[Term] = []
        for i, arg in enumerate(production.args):
            extra = spare if i == len(least) - 1 else draws.below(spare + 1)
            spare -= extra
            args.append(self._grow(arg, least[i] + extra, depth - 1, draws, sketch))
        return Term(production.op, tuple(args), production.data)

    # Whole programs.

    def dressed(self, body: Term) -> Term:
        """The body under the space's head."""
        return _with_body(self.head, self.body_path, body)

    def has_head(self, program: Program) -> bool:
        """Whether a program is a body under the space's head."""
        return self.is_headed(program.instructions, program.outputs[-1])

    def is_headed(self, steps: Sequence[Instruction], root: int) -> bool:
        """The same of the tree under a step."""
        return _matches(self.head, steps, root)

    def fits(self, program: Program) -> bool:
        """Inside the limits, and dependent on all that a loss needs."""
        nodes, depth = self.limits
        inside = program.size <= nodes and program.depth <= depth
        return inside and self.speaks_of_all(program)

    def speaks_of_all(self, program: Program) -> bool:
        """Whether prediction and target occur, as far as the grammar can name them."""
        return self._suffices(program.inputs)

    def program(self, body: Term, sketch: Sketch) -> Program:
        """The checked program of a body.

        Raises:
            FormulaError: It is badly typed.
        """
        drafts = drafts_of(self.signature)
        return drafts.written(drafts.place(self.dressed(body)), sketch.constants.values())

    def fits_as(self, drafts: Drafts, step: int) -> bool:
        """`fits` of the tree under a step."""
        nodes, depth = drafts.size(step)
        most, deepest = self.limits
        inside = nodes <= most and depth <= deepest and not drafts.instructions[step].axes
        return inside and self._suffices(drafts.reads(step))

    def _suffices(self, inputs: frozenset[str]) -> bool:
        """Whether these inputs are all that a loss needs."""
        found = self._sufficient.get(inputs)
        if found is None:
            need = need_of(self.signature, inputs)
            found = self._sufficient[inputs] = need & self.body.need == self.body.need
        return found

    @cached_property
    def limits(self) -> tuple[int, int]:
        """Most nodes and levels of a whole program."""
        grammar = self.grammar
        return grammar.nodes + len(paths(self.head)) - 1, grammar.depth + len(self.body_path)

    def free(self, draws: Draws) -> Program:
        """Free growth: prediction and target occur, and that is all.

        Raises:
            FormulaError: Nothing fits the limits.
        """
        nodes, depth = self.grammar.nodes, self.grammar.depth
        least, _ = self.productions.least(self.body)
        for _ in range(FREE_TRIES):
            sketch = Sketch()
            size = min(max(round(draws.between(max(least, 3), max(nodes, 4))), least), nodes)
            program = self.program(self._grow(self.body, size, depth, draws, sketch), sketch)
            if self.fits(program):  # a whole power is written as products, which may be deeper
                return program
        raise FormulaError(f"no body was found with {nodes} nodes and {depth} levels")

    def by_role(self, draws: Draws) -> Program:
        """One to three weighted rising functions of wrongness, added; sometimes a free term too.

        Each player has one at least.
        """
        sums = {"add", "mul"} <= set(self.grammar.primitives)
        alone = len(self.sides) == 1
        if not (all(self.sides) and self._templates["rising"] and (sums or alone)):
            return self.free(draws)
        sketch = Sketch()
        first, *others = self.sides
        body = self.role_term(draws, sketch, first)
        for side in others:
            body = _sum(body, self.role_term(draws, sketch, side), draws, sketch)
        for chance in (0.5, 0.25):
            if draws.chance(chance) and "mul" in self.grammar.primitives:
                body = _sum(body, self.role_term(draws, sketch, self.right), draws, sketch)
        if draws.chance(0.4) and sums:
            body = Term("add", (body, self.free_term(draws, sketch)))
        return self.program(body, sketch)

    def free_term(self, draws: Draws, sketch: Sketch) -> Term:
        """What need not know the target, with its factor: free growth, or a weak penalty on a prediction."""
        if not self._penalised or draws.chance(0.35):
            moves = self.body.need & ~TARGET
            one = draws.pick(self._players) if len(self._players) > 1 else moves
            want = self.body._replace(need=moves & one)
            grown = self._grown_small(want, 6, draws, sketch)
            return Term("mul", (drawn_constant(0, draws, sketch), grown))
        terminal = draws.pick(self._penalised)
        known = self.grammar.primitives
        inner = [op for op in ("square", "square", "abs", "exp", "softplus") if op in known]
        term = terminal.term
        if inner and draws.chance(0.7):
            term = Term(draws.pick(inner), (term,))
        if over := terminal.axes & ~self.body_axes:
            reductions = [op for op in ("mean", "max", "sum") if op in known]
            term = Term(draws.pick(reductions), (term,), self.signature.axes_names(over))
        # A penalty works beside the rest of the loss, so that it is mostly small, and mostly pulls inwards.
        factor = sketch.constant(draws.between(0.001, 1.0), 0.0001, 5.0)
        return Term("mul", (factor if draws.chance(0.8) else Term("neg", (factor,)), term))

    def role_term(self, draws: Draws, sketch: Sketch, side: Side) -> Term:
        """A weight, never negative, times a rising function of a wrongness."""
        term = self.wrongness(draws, sketch, side)
        for chance in (0.5, 0.2):
            if draws.chance(chance):
                term = self.filled(draws.pick(self._templates["rising"]), {"u": term}, draws, sketch)
        if self._templates["weight"] and draws.chance(0.25):
            if draws.chance(0.7):
                weight = self.filled(
                    draws.pick(self._templates["weight"]),
                    {"u": self.wrongness(draws, sketch, side)},
                    draws,
                    sketch,
                )
            else:
                want = self.body._replace(sign=1, need=0)
                weight = self._grown_small(want, 4, draws, sketch)
            if "detach" in self.grammar.primitives and draws.chance(0.5):
                weight = Term("detach", (weight,))
            term = Term("mul", (weight, term))
        return term

    def wrongness(self, draws: Draws, sketch: Sketch, side: Side) -> Term:
        """Never negative, and larger the worse the prediction is."""
        terminal, direction = draws.pick(side)
        low, high = terminal.interval
        if direction == 2:
            key = "size"
        elif direction < 0:
            if low >= 0:
                return terminal.term
            key = "score"
        else:
            key = "share" if low >= 0 and high <= 2 else "log" if high <= 0 else "score"
        x = Term("neg", (terminal.term,)) if direction < 0 else terminal.term
        templates = self._templates[key]
        if not templates:
            return x if direction < 0 else Term("neg", (x,))
        return self.filled(draws.pick(templates), {"x": x}, draws, sketch)

    def rising(self, term: Term, draws: Draws, sketch: Sketch) -> Term:
        """A rising function of `term`, as if it were never negative."""
        templates = self._templates["rising"]
        return self.filled(draws.pick(templates), {"u": term}, draws, sketch) if templates else term

    def weighted(self, term: Term, draws: Draws, sketch: Sketch) -> Term:
        """`term` times a weight that is never negative."""
        templates = self._templates["weight"]
        if not (templates and self.right):
            return Term("mul", (drawn_constant(1, draws, sketch), term))
        template = draws.pick(templates)
        weight = self.filled(template, {"u": self.wrongness(draws, sketch, self.right)}, draws, sketch)
        return Term("mul", (weight, term))

    def _grown_small(self, want: Want, nodes: int, draws: Draws, sketch: Sketch) -> Term:
        size = 1 + draws.below(nodes)
        least, levels = self.productions.least(want)
        return self._grow(want, max(size, least), max(4, levels), draws, sketch)

    def filled(self, template: Term, parts: Mapping[str, Term], draws: Draws, sketch: Sketch) -> Term:
        """A template with its holes filled; what is left over becomes a positive constant."""
        if template.op == NAME:
            known = parts.get(str(template.data))
            return drawn_constant(1, draws, sketch) if known is None else known
        if not template.args:
            return template
        args = tuple(self.filled(a, parts, draws, sketch) for a in template.args)
        return Term(template.op, args, template.data)


def _sum(body: Term, more: Term, draws: Draws, sketch: Sketch) -> Term:
    return Term("add", (body, Term("mul", (drawn_constant(1, draws, sketch), more))))


def drawn_constant(sign: int, draws: Draws, sketch: Sketch) -> Term:
    """A named constant: positive ones even on a logarithmic scale, others normal."""
    if sign > 0:
        return sketch.constant(draws.between(0.1, 10.0), 0.001, 20.0)
    if sign < 0:
        return sketch.constant(-draws.between(0.1, 10.0), -20.0, -0.001)
    return sketch.constant(max(-10.0, min(10.0, draws.normal() * 1.5)), -10.0, 10.0)


def _place_of_body(head: Term) -> tuple[int, ...]:
    for path in paths(head):
        if at(head, path) == name("body"):
            return path
    raise FormulaError("the head has no `body` in it", remedy="For example mean(body, 'n')")


def _with_body(head: Term, path: tuple[int, ...], body: Term) -> Term:
    if not path:
        return body
    i, rest = path[0], path[1:]
    args = (*head.args[:i], _with_body(head.args[i], rest, body), *head.args[i + 1 :])
    return Term(head.op, args, head.data)


def _matches(head: Term, steps: Sequence[Instruction], index: int) -> bool:
    step = steps[index]
    if head.op == NAME:
        return head.data == "body" or (step.data == head.data and not step.args)
    return (
        head.op == step.op
        and head.data == step.data
        and len(head.args) == len(step.args)
        and all(_matches(part, steps, i) for part, i in zip(head.args, step.args, strict=True))
    )
