"""What do the commands tell about searches and losses? Plain data first, then its printed form."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from losssearch.errors import UsageError
from losssearch.language.facts import Fact, Facts
from losssearch.language.formula import format_number
from losssearch.pareto import FINAL_RUNG, front_of
from losssearch.result import Discovered
from losssearch.spaces import load_space
from losssearch.store.store import Store
from losssearch.terminal import number, out, print_table

if TYPE_CHECKING:
    from losssearch.ablation import Ablation
    from losssearch.audit.audit import Report
    from losssearch.insight.insight import Insight
    from losssearch.insight.suggest import Suggestion


def print_ablation(found: Ablation) -> None:
    """The whole, then what is left without each part, the dearest part first."""
    print_table(
        ["without", "matters", found.metric, "difference", "95 %", "left"],
        [
            ["(nothing)", "", number(found.error), "", "", found.program.text],
            *(
                [
                    row["without"],
                    row["matters"],
                    number(row["error"]),
                    "" if row["difference"] is None else f"{row['difference']:+.4f}",
                    "" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]",
                    row["left"],
                ]
                for row in (line.to_dict() for line in found.rows)
            ),
        ],
    )


def leaderboard_rows(name: str, storage: str, limit: int, pareto: bool = False) -> list[dict[str, Any]]:
    """The best losses of a search, best first; or those that none beats in score, guard and size.

    Each rung has splits of its own, so that only scores of the same rung compare.
    """
    with Store.open(storage, read_only=True) as store:
        search = store.search(name)
        space = load_space(search.space)
        if pareto:
            found = front_of(store, name)[:limit]
        else:
            found = [Discovered.of_row(ranked, space, name) for ranked in store.leaderboard(name, limit)]
        final = store.finals(name).get("rung", FINAL_RUNG)
        names = {loss.candidate.text: loss.name for loss in space.losses.values()}
    return [
        {
            "loss": d.reference,
            "score": d.score,
            "metric": search.config.get("metric"),
            "rung": final if d.is_chosen else d.proposal.rung if d.proposal else 0,
            "chosen": d.is_chosen,
            "size": d.program.size,
            "formula": d.formula,
            "constants": d.program.constant_values,
            "known_as": d.candidate.name or names.get(d.formula),
            "origin": d.proposal.origin if d.proposal else "",
            "metrics": d.proposal.evidence if d.proposal else {},
            "key": d.key,
        }
        for d in found
    ]


def print_leaderboard(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        out.print(f"The search {name} has no trained loss yet.", markup=False)
        return
    print_table(
        ["loss", "score", "rung", "size", "formula"],
        [
            [
                str(row["loss"]),
                number(row["score"]),
                f"{row['rung']}, chosen" if row["chosen"] else str(row["rung"]),
                str(row["size"]),
                _with_constants(str(row["formula"]), row["constants"])
                + (f"   ({row['known_as']})" if row["known_as"] else ""),
            ]
            for row in rows
        ],
        title=f"Search {name}",
    )
    metric = rows[0]["metric"] or "error"  # searches of older versions do not say it
    out.print(f"The score is the validation {metric}: lower is better.", markup=False)
    if len({row["rung"] for row in rows}) > 1:
        out.print("Compare scores within a rung only: each rung has splits of its own.", markup=False)


def describe(insight: Insight, storage: str) -> dict[str, Any]:
    """Formula, LaTeX, facts, parents and evidence of one loss, then what `Insight.to_dict` has."""
    from losssearch.language.canonical import canonical
    from losssearch.language.formula import format_program

    loss = insight.loss
    description: dict[str, Any] = {
        "loss": loss.reference,
        "key": loss.key,
        "space": loss.space.name,
        "name": loss.candidate.name,
        "source": loss.candidate.source,
        "formula": loss.formula,
        "constants": {c.name: [c.value, c.low, c.high] for c in loss.program.constants},
        "latex": loss.latex,
        "canonical": format_program(canonical(loss.program)),
        "size": loss.program.size,
        "facts": _facts(insight.facts),
    }
    if loss.candidate.name:
        title = loss.space.losses.get(loss.candidate.name)
        description["title"] = title.title if title else None
    if loss.proposal is not None:
        description |= {
            "score": loss.score,
            "rung": loss.proposal.rung,
            "chosen": loss.is_chosen,
            "outcome": loss.proposal.outcome,
            "origin": loss.proposal.origin,
            "parents": _parents(loss.proposal.parents, storage),
            "evidence": loss.proposal.evidence,
            "detail": loss.proposal.detail,
        }
    return description | insight.to_dict()


def _facts(known: Facts) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in vars(known).items():
        fact = isinstance(value, Fact)
        told[name] = f"{value.verdict.value}: {value.why}".rstrip(": ") if fact else list(value)
    return told


def _parents(parents: Sequence[Any], storage: str) -> list[dict[str, Any]]:
    with Store.open(storage, read_only=True) as store:
        rows = store.candidates(str(p) for p in parents)
    return [
        {
            "key": str(p),
            "formula": rows[str(p)].parts.get("loss", rows[str(p)].canonical) if str(p) in rows else None,
        }
        for p in parents
    ]


def print_description(insight: Insight, description: Mapping[str, Any]) -> None:
    """What is stored and proved, a line a key, then sentences and tables."""
    told = insight.to_dict()
    for name, value in description.items():
        if name in told or value is None or value == {} or value == [] or value == "":
            continue
        if name == "constants":
            value = ", ".join(
                f"{n} = {format_number(v)} in [{format_number(low)}, {format_number(high)}]"
                for n, (v, low, high) in value.items()
            )
        elif isinstance(value, Mapping):
            value = "\n".join(f"{k}: {_short(v)}" for k, v in value.items() if v != [])
        elif isinstance(value, list):
            value = "\n".join(
                _short(v.get("formula") or v["key"]) if isinstance(v, dict) else str(v) for v in value
            )
        elif isinstance(value, float):
            value = number(value)
        lines = str(value).splitlines() or [""]
        out.print(f"{name:<12}{lines[0]}", markup=False, soft_wrap=True)
        for line in lines[1:]:
            out.print(f"{'':<12}{line}", markup=False, soft_wrap=True)
    out.print(f"\n{insight}", markup=False, soft_wrap=True)


def _short(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _with_constants(formula: str, constants: Mapping[str, float]) -> str:
    values = ", ".join(f"{name} = {value:.4g}" for name, value in constants.items())
    return f"{formula}   with {values}" if values else formula


def list_parts() -> dict[str, dict[str, str]]:
    """Every part by kind: name -> one line."""
    from importlib.metadata import entry_points

    from losssearch.controllers.registry import CONTROLLERS
    from losssearch.exporters.registry import EXPORTERS
    from losssearch.language.primitives import PRIMITIVES
    from losssearch.proxies.registry import load_proxy, proxy_names
    from losssearch.screening.pipeline import SCREENS
    from losssearch.spaces import space_names

    pools = {
        "inline": "In this process.",
        "processes": "Local processes, one a core.",
        "gpu": "Local processes, one a CUDA device.",
    }
    pools |= {point.name: point.value for point in entry_points(group="losssearch.pools")}
    return {
        "primitive": {n: f"{row.usage}; {row.form.value}" for n, row in PRIMITIVES.items()},
        "space": {n: load_space(n).title for n in space_names()},
        "screen": {n: screen.title for n, screen in SCREENS.items()},
        "proxy": {n: load_proxy(n).title for n in proxy_names()},
        "controller": {n: place[0] for n, place in CONTROLLERS.items()},
        "exporter": {n: str(e) for n, e in EXPORTERS.items()},
        "pool": pools,
    }


def print_audit(report: Report) -> None:
    """The table of an audit, losing rows included, and the verdict."""
    rows = []
    for row in report.rows:
        gap = row.versus
        rows.append(
            [
                row.label,
                row.kind,
                number(row.error),
                number(row.worst),
                f"{gap.difference:+.4f}" if gap else "",
                f"[{gap.low:+.4f}, {gap.high:+.4f}]" if gap else "",
                f"{gap.t:.2f}" if gap else "",
                f"{row.rate:g}",
                f"{row.decay:g}",
                str(row.epochs),
                _with_constants(row.formula, row.constants),
            ]
        )
    print_table(
        [
            "loss",
            "kind",
            report.metric,
            "worst",
            "difference",
            "95 % interval",
            "t",
            "rate",
            "decay",
            "epochs",
            "formula",
        ],
        rows,
        title=f"Audit of {report.search} on {report.proxy}, {report.splits} fresh splits, all tuned alike",
    )
    out.print(report.sentence(), markup=False, soft_wrap=True)


def ask_task(traits: Sequence[str]) -> tuple[str, list[str]]:
    """The task, and what is special about it, by questions at the terminal.

    Raises:
        UsageError: Nobody is there to answer.
    """
    import typer

    from losssearch.insight.suggest import traits_of
    from losssearch.space_file import did_you_mean, shortened
    from losssearch.spaces import space_names

    names = space_names()
    if not sys.stdin.isatty():
        raise UsageError(f"Name a task: losssearch suggest TASK. There are {', '.join(names)}.")
    while (task := typer.prompt(f"Which task? ({', '.join(names)})", err=True)) not in names:
        typer.echo(f"No task is called {shortened(task)}.{did_you_mean(task, names)}", err=True)
    asked = [name for name, question in traits_of(task).items() if name not in traits and _agreed(question)]
    return task, [*traits, *asked]


def _agreed(question: str) -> bool:
    import typer

    return typer.confirm(question, default=False, err=True)


def print_suggestions(task: str, found: Sequence[Suggestion]) -> None:
    """A block a loss: name, for which trait, why, and who says so."""
    from losssearch.insight.suggest import traits_of

    for each in found:
        out.print(f"{each.reference}   ({', '.join(each.traits)})", style="bold", markup=False)
        for reason, source in zip(each.reasons, each.sources, strict=True):
            out.print(f"    {reason}\n    [{source}]", markup=False, soft_wrap=True)
    known = traits_of(task)
    asked = {trait for each in found for trait in each.traits}
    if rest := [f"--{name}" for name in known if name not in asked]:
        out.print(f"\nMore may be said: {' '.join(rest)}", markup=False, soft_wrap=True)
    out.print(f"Look closer: losssearch show {found[0].reference}", markup=False, soft_wrap=True)
