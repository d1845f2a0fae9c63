"""How does one learn a loss from a terminal, and find it again?

    losssearch learn sine                     few-shot tasks: meta-learns a loss, and stores it
    losssearch learn digits-noisy             proxies: learns sample weights on a small clean set
    losssearch learned                        lists what is stored
    losssearch learned sine --to sine.py      writes one; --distil looks for its formula

Progress goes to stderr. Ctrl-C ends the learning at its next step; what was learned so far is stored.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from losssearch.errors import UsageError
from losssearch.learned.watch import Progress

Storage = Annotated[str, typer.Option("--storage", envvar="LOSSSEARCH_STORAGE", help="Database URL.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
WHERE = "sqlite:///losses.db"
EVERY_S = 5.0  # between two lines of progress


def learn(
    task: Annotated[str, typer.Argument(help="sine, few-shot-digits, digits-noisy, digits-imbalanced, ...")],
    storage: Storage = WHERE,
    name: Annotated[str | None, typer.Option(help="Of the loss; else made from the task's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed learns the same loss.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Outer steps, of a few-shot task.")] = None,
    to: Annotated[Path | None, typer.Option(help="Also write it as a file that needs only torch.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a loss network or sample weights. Ctrl-C keeps what was learned so far."""
    from losssearch.learned import meta, weighting
    from losssearch.learned.episodes import TASKS
    from losssearch.proxies.registry import proxy_names

    if task not in TASKS and task not in proxy_names() and ":" not in task:
        known = ", ".join([*TASKS, *weighting.CLEAN, "digits-imbalanced"])
        raise UsageError(
            f"Nothing can be learned on {task!r}. There are {known}, and other multiclass proxies."
        )
    with _stoppable(quiet) as watch:
        if task in TASKS:
            settings = meta.MetaSettings()
            if steps is not None:
                warm = steps * settings.warm // (settings.warm + settings.iterations)
                settings = replace(settings, warm=warm, iterations=steps - warm)
            loss = meta.learn(task, seed=seed, settings=settings, name=name, watch=watch)
        else:
            if steps is not None:
                raise UsageError(
                    f"--steps is for few-shot tasks; {task} trains for its own number of epochs."
                )
            loss = weighting.learn(task, seed=seed, name=name, watch=watch)
    key = loss.save(storage)
    if to is not None:
        loss.export(to, force=force)
    if json:
        _print_json({"name": loss.name, "key": key, "kind": loss.kind, "evidence": dict(loss.evidence)})
    else:
        typer.echo(f"{loss.name}  {key}  {loss.kind}")
    if watch.stopped:
        raise typer.Exit(130)


def learned(
    reference: Annotated[str | None, typer.Argument(help="Name or key; none lists all.")] = None,
    storage: Storage = WHERE,
    to: Annotated[Path | None, typer.Option(help="Write it as a file that needs only torch.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    distil: Annotated[bool, typer.Option("--distil", help="Look for the formula nearest to it.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="Time for that.")] = 30.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What was learned: list, show, write, distil."""
    from losssearch.learned.loss import LearnedLoss

    if reference is None:
        _list(storage, json)
        return
    loss = LearnedLoss.load(reference, storage)
    shown = {
        "name": loss.name,
        "key": loss.key,
        "kind": loss.kind,
        "space": loss.space,
        "numbers": sum(array.size for array in loss.arrays.values()),
        "settings": dict(loss.settings),
        "evidence": dict(loss.evidence),
    }
    if to is not None:
        shown["file"] = str(loss.export(to, force=force))
    if distil:
        with _stoppable(quiet) as watch:
            found = loss.distil(seconds=seconds, watch=watch)
        shown["formula"] = found.program.text
        shown["constants"] = dict(found.program.constant_values)
        shown |= {"factor": found.factor, "value_r2": found.value_r2, "gradient_r2": found.gradient_r2}
    if json:
        _print_json(shown)
        return
    for title, value in shown.items():
        typer.echo(f"{title:12} {value}")


def _list(storage: str, json: bool) -> None:
    from losssearch.store.learned import all_learned
    from losssearch.store.store import Store
    from losssearch.terminal import print_table

    with Store.open(storage, read_only=True) as store:
        rows = all_learned(store)
    if json:
        _print_json([{"name": r.name, "key": r.key, "kind": r.kind, "space": r.space} for r in rows])
        return
    made = [row.created_at.strftime("%Y-%m-%d %H:%M") if row.created_at else "" for row in rows]
    print_table(
        ["name", "kind", "space", "stored", "key"],
        [[r.name, r.kind, r.space, when, r.key] for r, when in zip(rows, made, strict=True)],
    )


def _print_json(data: object) -> None:
    from losssearch.terminal import print_json

    print_json(data)


class _Watcher:
    """Shows progress, and says when to stop."""

    def __init__(self, quiet: bool) -> None:
        self.stopped, self._quiet, self._last = False, quiet, time.monotonic() - EVERY_S + 1

    def __call__(self, progress: Progress) -> bool:
        from losssearch.terminal import err, number

        now = time.monotonic()
        if not self._quiet and now - self._last >= EVERY_S:
            self._last = now
            late = "" if progress.loss != progress.loss else f", {number(progress.loss)}"
            err.print(f"{progress.phase}: {progress.done} of {progress.of}{late}", markup=False)
        return not self.stopped


@contextmanager
def _stoppable(quiet: bool) -> Iterator[_Watcher]:
    """The first Ctrl-C asks the learning to end; the second one ends the program."""
    watcher = _Watcher(quiet)

    def stop(number: int, frame: FrameType | None) -> None:
        if watcher.stopped:
            raise KeyboardInterrupt
        watcher.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield watcher
    finally:
        signal.signal(signal.SIGINT, before)
