"""The command line: `losssearch run | audit | leaderboard | show | export | losses | suggest | check`, ...

Each command imports what it needs when it runs, so that `losssearch --help` answers at once. An error that a
user can mend is one line on stderr and exit code 2; Ctrl-C keeps all results and exits with 130.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer

from losssearch.errors import LossSearchError

app = typer.Typer(
    help="Search for loss functions, inspect what was found, and take it with you.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Storage = Annotated[str, typer.Option("--storage", envvar="LOSSSEARCH_STORAGE", help="Database URL.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
NAMES = "demo/1 (rank), demo@17 (proposal), a key, or a classical loss."
Reference = Annotated[str, typer.Argument(metavar="LOSS", help=f"{NAMES} Or a formula.")]
Words = Annotated[str | None, typer.Option("--space", help="Whose words a formula uses; multiclass.")]
Constants = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=NUMBER", help="Set a constant; may be repeated.")
]
WHERE = "sqlite:///losses.db"
ABOUT = {
    "dashboard": "Pages to look at searches.",
    "learn": "Learn a loss that is a network: on few-shot tasks, or as sample weights.",
    "learned": "What was learned: list, show, write, distil.",
}
INTERRUPTED = "Interrupted. All results so far are kept; the same command goes on."


@app.command()
def run(
    space: Annotated[str, typer.Argument(help="A shipped space, or the path of a TOML file.")],
    proxy: Annotated[str, typer.Option(help="A shipped task, or path/to/file.py:function.")],
    controller: Annotated[
        str, typer.Option(help="What proposes: portfolio spreads the budget over all that learn.")
    ] = "portfolio",
    start: Annotated[str | None, typer.Option(help="Losses to start from, by comma; all by default.")] = None,
    time: Annotated[str | None, typer.Option(help="Budget, such as 3m.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Budget in proposals.")] = None,
    storage: Storage = WHERE,
    name: Annotated[str, typer.Option(help="Of the search; the same name goes on.")] = "search",
    seed: Annotated[int, typer.Option(help="Of the controller.")] = 0,
    workers: Annotated[
        str, typer.Option(help="inline, processes, processes:4, gpu, ray, ray:ADDRESS.")
    ] = "processes",
    deadline: Annotated[str, typer.Option(help="Time that one training may take.")] = "60s",
    tuner: Annotated[
        str, typer.Option(help="Of the finalists' constants: tpe, gp, cmaes, random, gradient.")
    ] = "tpe",
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Search for a loss. Ctrl-C keeps all results; the same command goes on."""
    from losssearch.duration import seconds_of
    from losssearch.search import Search
    from losssearch.terminal import watching

    names = [n.strip() for n in start.split(",") if n.strip()] if start else None
    deadline_s = seconds_of(deadline)
    search = Search(space, proxy, controller, names, storage, name, seed, workers, deadline_s, tuner=tuner)
    if time is None and candidates is None:
        time = "3m"
    with watching(quiet) as watch:
        result = search.run(time=time, candidates=candidates, watch=watch)
    _leaderboard(result.name, storage, 10, json)


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="Of the search.")],
    storage: Storage = WHERE,
    control: Annotated[
        list[str] | None, typer.Option(help="Another search whose best is judged beside it.")
    ] = None,
    splits: Annotated[int, typer.Option(help="Fresh splits.")] = 30,
    settings: Annotated[int, typer.Option(help="Settings tried for every loss.")] = 32,
    workers: Annotated[str, typer.Option(help="As in run.")] = "processes",
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Judge the chosen loss on data that no search touched, against tuned classical losses."""
    from losssearch.audit.audit import Audit
    from losssearch.report import print_audit
    from losssearch.terminal import err, print_json

    judge = Audit(name, storage, tuple(control or ()), splits, settings, workers)
    report = judge.run((lambda line: None) if quiet else lambda line: err.print(line, markup=False))
    if json:
        print_json(report.to_dict())
    else:
        print_audit(report)


@app.command()
def leaderboard(
    name: Annotated[str, typer.Argument(help="Of the search.")],
    storage: Storage = WHERE,
    limit: Annotated[int, typer.Option(min=1, help="Rows.")] = 20,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Those that none beats in score, guard metric and size.")
    ] = False,
    json: Json = False,
) -> None:
    """The best losses of a search. Each rung has splits of its own: compare scores within a rung only.

    In JSON, "chosen" is true for the loss that stands for the search.
    """
    _leaderboard(name, storage, limit, json, pareto)


@app.command()
def ablate(
    reference: Reference,
    proxy: Annotated[str | None, typer.Option(help="The task; that of the search which found it.")] = None,
    space: Annotated[str | None, typer.Option(help="Whose words a formula uses; those of the task.")] = None,
    constants: Constants = None,
    storage: Storage = WHERE,
    workers: Annotated[str, typer.Option(help="Where losses are trained.")] = "processes",
    json: Json = False,
) -> None:
    """Does each term of a loss matter? Trains it without one part at a time."""
    from losssearch.ablation import ablate as without_each
    from losssearch.insight.lookup import read_settings
    from losssearch.report import print_ablation
    from losssearch.terminal import print_json

    found = without_each(
        reference, proxy, space=space, constants=read_settings(constants), storage=storage, workers=workers
    )
    if json:
        print_json(found.to_dict())
    else:
        print_ablation(found)


@app.command()
def searches(storage: Storage = WHERE, json: Json = False) -> None:
    """All searches of a database. A stopped one goes on by the command that began it."""
    from dataclasses import replace

    from losssearch.store.store import Store
    from losssearch.terminal import print_json, print_table

    with Store.open(storage, read_only=True) as store:
        rows = [replace(row, status=store.status(row)) for row in store.searches()]
    if json:
        keys = ("name", "space", "proxy", "controller", "seed", "rounds", "proposals", "status")
        print_json([{k: getattr(row, k) for k in keys} for row in rows])
        return
    print_table(
        ["name", "status", "seen", "space", "proxy", "controller"],
        [[r.name, r.status, str(r.proposals), r.space, r.proxy, r.controller] for r in rows],
    )


@app.command()
def show(
    reference: Reference,
    against: Annotated[str, typer.Option(help="Up to four other losses, by comma.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw its curves into a .png or .svg.")] = None,
    ratio_to: Annotated[str | None, typer.Option(help="What ratios are to; the space's reference.")] = None,
    space: Words = None,
    constants: Constants = None,
    storage: Storage = WHERE,
    json: Json = False,
) -> None:
    """Everything about one loss: formula, facts, evidence; what it wants, in words, tables, curves."""
    from losssearch.api import explain
    from losssearch.insight.lookup import read_settings, split_list
    from losssearch.report import describe, print_description
    from losssearch.terminal import err, print_json

    found = explain(
        reference,
        against=split_list(against),
        reference=ratio_to,
        space=space,
        constants=read_settings(constants),
        storage=storage,
    )
    description = describe(found, storage)
    if plot is not None:
        err.print(f"Wrote {found.plot(plot)}.", markup=False)
    if json:
        print_json(description)
    else:
        print_description(found, description)


@app.command()
def export(
    reference: Reference,
    to: Annotated[Path, typer.Option(help="File to write.")],
    space: Words = None,
    constants: Constants = None,
    storage: Storage = WHERE,
    format: Annotated[str, typer.Option(help="torch, json or latex.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a loss as a file that needs only torch (.py), or as .json or .tex."""
    from losssearch.exporters.registry import export as write
    from losssearch.insight.lookup import find_loss, read_settings
    from losssearch.terminal import err

    loss = find_loss(reference, storage, space, read_settings(constants))
    written = write(loss, to, format or None, force=force)
    err.print(f"Wrote {written}.", markup=False)


@app.command()
def losses(
    space: Annotated[str | None, typer.Option(help="Only of this space.")] = None,
    json: Json = False,
) -> None:
    """The catalogue of classical losses: formula, constants, source."""
    from losssearch.catalogue import everything
    from losssearch.language.formula import format_number
    from losssearch.spaces import load_space
    from losssearch.terminal import print_json, print_table

    if space is not None:
        loaded = load_space(space)
        found = [(loaded, loss) for loss in loaded.losses.values()]
    else:
        found = list(everything())
    if json:
        print_json(
            [
                {
                    "space": s.name,
                    "name": loss.name,
                    "title": loss.title,
                    "formula": loss.candidate.text,
                    "constants": {c.name: [c.value, c.low, c.high] for c in loss.candidate.constants},
                    "source": loss.source,
                }
                for s, loss in found
            ]
        )
        return
    print_table(
        ["loss", "space", "constants", "source", "formula"],
        [
            [
                loss.name,
                s.name,
                ", ".join(f"{c.name}={format_number(c.value)}" for c in loss.candidate.constants),
                loss.source,
                loss.candidate.text,
            ]
            for s, loss in found
        ],
    )


@app.command()
def parts(json: Json = False) -> None:
    """Everything a search is made of: primitives, screens, proxies, controllers, exporters, pools."""
    from losssearch.report import list_parts
    from losssearch.terminal import print_json, print_table

    found = list_parts()
    if json:
        print_json(found)
        return
    rows = [[kind, name, what] for kind, some in found.items() for name, what in some.items()]
    print_table(["kind", "name", "what"], rows)


@app.command()
def suggest(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Argument(help="A space, such as multiclass; asked if missing.")] = None,
    imbalance: Annotated[bool, typer.Option("--imbalance", help="Classes of unequal size.")] = False,
    label_noise: Annotated[bool, typer.Option("--label-noise", help="Some labels are wrong.")] = False,
    outliers: Annotated[bool, typer.Option("--outliers", help="Some targets are far off.")] = False,
    hard_samples: Annotated[bool, typer.Option("--hard-samples", help="Few hard, many easy ones.")] = False,
    overconfidence: Annotated[bool, typer.Option("--overconfidence", help="Probabilities matter.")] = False,
    decision_only: Annotated[bool, typer.Option("--decision-only", help="Probabilities do not.")] = False,
    boundary: Annotated[bool, typer.Option("--boundary", help="Samples near the boundary matter.")] = False,
    overlap: Annotated[bool, typer.Option("--overlap", help="Judged by IoU or Dice.")] = False,
    unequal_costs: Annotated[bool, typer.Option("--unequal-costs", help="One error is dearer.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Predict a spread too.")] = False,
    counts: Annotated[bool, typer.Option("--counts", help="Targets are counts.")] = False,
    wide_range: Annotated[bool, typer.Option("--wide-range", help="Targets span magnitudes.")] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Second derivatives are needed.")] = False,
    overfitting: Annotated[bool, typer.Option("--overfitting", help="Learns by heart.")] = False,
    json: Json = False,
) -> None:
    """Losses for a task and what is special about it, with reasons and sources."""
    from losssearch.insight.suggest import suggestions
    from losssearch.report import ask_task, print_suggestions
    from losssearch.terminal import print_json

    traits = [name.replace("_", "-") for name, on in ctx.params.items() if on is True and name != "json"]
    if task is None:
        task, traits = ask_task(traits)
    found = suggestions(task, traits)
    if json:
        print_json([each.to_dict() for each in found])
    else:
        print_suggestions(task, found)


@app.command()
def check(
    loss: Annotated[
        str, typer.Argument(help="my_loss.py (it is run), package.module:Class, or a classical loss.")
    ],
    class_name: Annotated[str | None, typer.Option("--class", help="Which class of the file.")] = None,
    task: Annotated[str | None, typer.Option(help="As what it is checked, such as binary or boxes.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Lines or groups by comma, such as gradients; all by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Hold a loss module to the contract of a drop-in loss; numerical gradients by --only gradients.

    It is called as loss(input, target), or with the named tensors that its attribute `inputs` says.
    """
    from losssearch.terminal import print_json
    from losssearch.testing import check_named, lines_of

    report = check_named(loss, class_name, task=task, only=None if only is None else lines_of(only))
    if json:
        print_json(report.to_dict())
    else:
        typer.echo(report.as_text())
    if not report.passed:
        raise typer.Exit(1)


def _leaderboard(name: str, storage: str, limit: int, json: bool, pareto: bool = False) -> None:
    from losssearch.report import leaderboard_rows, print_leaderboard
    from losssearch.terminal import print_json

    rows = leaderboard_rows(name, storage, limit, pareto)
    if json:
        print_json(rows)
    else:
        print_leaderboard(name, rows)


def _add_plugins() -> None:
    """Commands of other packages (the dashboard), loaded only when they are called."""
    for point in entry_points(group="losssearch.commands"):
        about = ABOUT.get(point.name, point.value)
        app.command(
            point.name,
            help=about,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
            add_help_option=False,
        )(_plugin(point))


def _plugin(point: EntryPoint) -> Callable[[typer.Context], None]:
    def command(ctx: typer.Context) -> None:
        from losssearch.pools.open import load

        loaded = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        loaded.command()(load(point))
        run_it = typer.main.get_command(loaded)
        code = run_it.main(args=ctx.args, prog_name=f"losssearch {point.name}", standalone_mode=False)
        if isinstance(code, int) and code:
            raise typer.Exit(code)

    return command


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    try:
        _add_plugins()
        app(standalone_mode=True)
    except LossSearchError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 130)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of a KeyboardInterrupt
            _fail(INTERRUPTED, 130)
        raise
    except (UnicodeError, OSError) as error:
        # Text that is no text, a process or a file that the system refuses.
        _fail(f"{type(error).__name__}: {error}", 2)


def _fail(message: str, code: int) -> None:
    print("losssearch: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
