"""How many candidates a second pass through all that needs no training?

Proposal, canonical form, duplicates, facts, probe and fingerprint, and once more with prediction
optimisation; random proposals of the multiclass space, in rounds, as a search makes them. One process a core;
processes share nothing but text: at the end the keys of what passed are merged, and what two processes found
twice is counted. Fingerprints are compared within a process only. The goal is a million candidates in five
minutes on two cores: 600 microseconds of one core a candidate.

The peer judges the same candidates one at a time, with torch autograd, as one would write it. It keeps its
verdicts, and the share on which both agree is printed.

    python -m benchmarks.screening [--candidates N] [--processes P] [--full]

`--full` runs both millions, without extrapolation. It tells how far it is, and
what it has measured so far is in its JSON file at any time, so that a run that is broken off is not lost.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from losssearch.controllers.registry import make_controller
from losssearch.execution.reference import Compiled
from losssearch.language.canonical import canonical, key_of_canonical
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.screening.fingerprint import AGREE
from losssearch.screening.measure import SMALLEST, with_other_targets
from losssearch.screening.pipeline import Screens
from losssearch.screening.probes import stratified
from losssearch.spaces import load_space

RESULTS = Path(__file__).parent / "results"
ROUND = 256
GOAL_US = 600.0
MILLION = 1_000_000
WARM_UP = 2_000  # candidates before the clock of the short form starts: compiling, words seen first
PART = 20 * ROUND  # candidates of a process between two looks at how far it is

Answers = list[dict[str, Any]]


def screened(seed: int, count: int, *, descend: bool, warm_up: int = 0) -> Iterator[dict[str, Any]]:
    """Screen `count` random candidates; gives seconds by stage and counts by screen so far, and at the end.

    `keys` are those of what passed since the answer before.
    """
    space = load_space("multiclass")
    controller = make_controller("random", space, [(s.name, s.program) for s in space.seeds], seed)
    screens = Screens.of(space)
    if not descend:
        screens.others = [screen for screen in screens.others if screen.name != "prediction"]
    for first in range(0, warm_up, ROUND):
        screens.judge_all([p.program for p in controller.ask(min(ROUND, warm_up - first))])
    screens.take_counts()
    keys: list[str] = []
    passed = 0
    proposing, began, ran = 0.0, time.perf_counter(), time.process_time()
    for first in range(0, count, ROUND):
        start = time.perf_counter()
        proposals = controller.ask(min(ROUND, count - first))
        proposing += time.perf_counter() - start
        verdicts = screens.judge_all([p.program for p in proposals])
        found = [v.case.key for v in verdicts if v.rejection is None]
        passed += len(found)
        keys += found
        done = first + len(proposals)
        if done == count or done % PART == 0:
            yield {
                "candidates": done,
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - ran,
                "proposal_s": proposing,
                "screens": {name: n.to_dict() for name, n in screens.counts.items()},
                "passed": passed,
                "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "keys": keys,
            }
            keys = []


def work(seed: int, count: int, descend: bool, warm_up: int, out: str) -> None:
    """What one process does: its answers are lines of JSON in one file, its keys lines of another."""
    torch.set_num_threads(1)
    # Programs hold no cycles: looking for some costs a third of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    with open(f"{out}.keys", "w") as keys, open(f"{out}.json", "w") as answers:
        for answer in screened(seed, count, descend=descend, warm_up=warm_up):
            keys.writelines(f"{key}\n" for key in answer.pop("keys"))
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def in_processes(
    count: int, processes: int, *, descend: bool, warm_up: int, tell: Callable[[Answers], None]
) -> dict[str, Any]:
    """The same in several processes at once, and what it costs to put their keys together.

    Args:
        count, processes, descend, warm_up: Candidates of all processes; as for `screened`.
        tell: Is given the newest answer of each process whenever there is a new one.
    """
    command = [sys.executable, "-m", "benchmarks.screening", "--work"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        running = [
            subprocess.Popen(
                [*command, json.dumps([seed, count // processes, descend, warm_up, f"{folder}/{seed}"])],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for seed in range(processes)
        ]
        answers: Answers = []
        busy = True
        while busy:
            busy = any(process.poll() is None for process in running)
            newest = [_newest(Path(f"{folder}/{seed}.json")) for seed in range(processes)]
            if None not in newest and newest != answers:
                answers = [answer for answer in newest if answer is not None]
                tell(answers)
            time.sleep(0.1 * busy)
        wall = time.perf_counter() - began
        for process in running:
            if process.returncode:
                raise RuntimeError(f"a process of the benchmark ended with {process.returncode}")
        began = time.perf_counter()
        together: set[str] = set()
        for seed in range(processes):
            together.update(Path(f"{folder}/{seed}.keys").read_text().split())
        merging = time.perf_counter() - began
    return {
        "processes": answers,
        "wall_s": wall,
        "merge_s": merging,
        "found_twice": sum(a["passed"] for a in answers) - len(together),
    }


def _newest(file: Path) -> dict[str, Any] | None:
    """The last whole line of a process's answers, if there is one."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    found: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return found


def peer(programs: list[Program]) -> tuple[float, list[str]]:
    """Microseconds a candidate of the loop one would write, and its verdicts."""
    space = load_space("multiclass")
    signature = space.signature
    probes = stratified(signature)
    single = {name: value.float() for name, value in probes.inputs.items()}
    swapped = with_other_targets(signature, probes)
    twice = {
        n: torch.cat([v, v], 1) if "n" in signature.inputs[n].axes else v for n, v in probes.inputs.items()
    }
    seen: set[str] = set()
    known: list[tuple[torch.Tensor, torch.Tensor]] = []

    def slope(run: Compiled, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = inputs["logits"].clone().requires_grad_()
        [value] = run({**inputs, "logits": logits})
        if not value.requires_grad:
            return value, torch.zeros_like(logits)
        [found] = torch.autograd.grad(value.sum(), [logits], allow_unused=True)
        return value.detach(), torch.zeros_like(logits) if found is None else found

    def verdict(program: Program) -> str:
        plain = canonical(program)
        key = key_of_canonical(plain)
        if key in seen:
            return Outcome.DUPLICATE.name
        seen.add(key)
        run = Compiled(plain, plain=False)
        if not all(bool(torch.isfinite(t).all()) for t in slope(run, single)):
            return Outcome.NOT_FINITE.name
        value, own = slope(run, dict(probes.inputs))
        if not bool(torch.isfinite(own).all()):
            return Outcome.NOT_FINITE.name
        ordinary = own[probes.ordinary].abs()
        if float(ordinary.max()) < SMALLEST or float((ordinary > SMALLEST).any(-1).double().mean()) < 0.1:
            return Outcome.FLAT.name
        if not torch.allclose(value, run(twice)[0].detach(), rtol=1e-6, atol=1e-9):
            return Outcome.BATCH_SIZE.name
        if torch.allclose(own, slope(run, dict(swapped))[1], rtol=1e-12, atol=0):
            return Outcome.BLIND.name
        if float((own * probes.aligned["logits"])[probes.ordinary].sum()) > 0:
            own = -own
        flat = own.flatten(1)
        sizes = flat.norm(dim=1, keepdim=True)
        directions, logs = flat / sizes.clamp(min=1e-300), sizes.log()
        for others, other_logs in known:
            if float((directions - others).abs().max()) <= AGREE:
                ratio = (logs - other_logs)[torch.isfinite(logs - other_logs)]
                if float(ratio.max() - ratio.min()) <= AGREE:
                    return Outcome.EQUIVALENT.name
        known.append((directions, logs))
        return "passed"

    began = time.perf_counter()
    verdicts = [verdict(program) for program in programs]
    return (time.perf_counter() - began) / len(programs) * 1e6, verdicts


def against_peer(count: int, pairs: int = 5) -> dict[str, Any]:
    """The screens against the loop, in turn, on the same candidates."""
    space = load_space("multiclass")
    controller = make_controller("random", space, [], 99)
    ratios, mine, theirs, agreed = [], [], [], 0
    for pair in range(pairs + 1):
        programs = [p.program for p in controller.ask(count)]
        screens = Screens.of(space)
        screens.others = [screen for screen in screens.others if screen.name != "prediction"]
        began = time.perf_counter()
        verdicts = screens.judge_all(programs)
        own = (time.perf_counter() - began) / count * 1e6
        other, names = peer(programs)
        if pair == 0:  # warm-up
            continue
        ratios.append(other / own)
        mine.append(own)
        theirs.append(other)
        agreed += sum(
            (v.rejection.outcome.name if v.rejection else "passed") == name
            for v, name in zip(verdicts, names, strict=True)
        )
    middle = sorted(range(pairs), key=ratios.__getitem__)[pairs // 2]
    return {
        "screens_us": mine[middle],
        "loop_us": theirs[middle],
        "ratios": ratios,
        "agreed": agreed / (pairs * count),
    }


def show(title: str, found: dict[str, Any]) -> float:
    """Print one table; gives microseconds of one core a candidate."""
    answers = found["processes"]
    count = sum(a["candidates"] for a in answers)
    busy = sum(a["seconds"] for a in answers)
    print(f"\n{title}: {count} candidates, {len(answers)} processes")
    print(f"{'stage':<26}{'seen':>9}{'removed':>9}{'us each':>9}{'us a candidate':>16}")
    stages = [("proposal, canonical form", count, 0, sum(a["proposal_s"] for a in answers))]
    for name in answers[0]["screens"]:
        own = [a["screens"][name] for a in answers]
        seen, rejected, seconds = (sum(o[k] for o in own) for k in ("seen", "rejected", "seconds"))
        stages.append((name, seen, rejected / max(seen, 1), seconds))
    for name, seen, share, seconds in stages:
        us = seconds * 1e6
        print(f"{name:<26}{seen:>9}{share:>9.1%}{us / max(seen, 1):>9.0f}{us / count:>16.0f}")
    each = busy / count * 1e6
    passed = sum(a["passed"] for a in answers)
    print(f"{'all':<26}{count:>9}{1 - passed / count:>9.1%}{'':>9}{each:>16.0f}   (goal {GOAL_US:.0f})")
    cpu = sum(a["cpu_s"] for a in answers) / count * 1e6
    print(
        f"processor time alone, which other programs on the machine do not lengthen: {cpu:.0f} us a candidate"
    )
    print(
        f"merging the keys: {found['merge_s'] * 1e3:.0f} ms, {found['found_twice']} found twice; "
        f"most memory {max(a['memory_mb'] for a in answers)} MB a process"
    )
    return each


def main() -> None:
    """Print the tables and write them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=8_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        seed, count, descend, warm_up, out = json.loads(given.work)
        return work(seed, count, descend, warm_up, out)
    torch.set_num_threads(1)
    warm_up = 0 if given.full else WARM_UP
    count = MILLION if given.full else given.candidates
    rows: dict[str, Any] = {"goal_us": GOAL_US}

    def write() -> None:
        RESULTS.mkdir(exist_ok=True)
        name = "screening-full.json" if given.full else "screening.json"
        (RESULTS / name).write_text(json.dumps(rows, indent=2) + "\n")

    for title, descend in (("proposal to fingerprint", False), ("with prediction optimisation", True)):

        def tell(answers: Answers, title: str = title) -> None:
            done = sum(a["candidates"] for a in answers)
            each = sum(a["cpu_s"] for a in answers) / done * 1e6
            rows[title] = {"candidates": done, "processes": answers}
            if done < count:
                write()
                print(f"{done} of {count} candidates, {each:.0f} us of processor time each", flush=True)

        found = in_processes(count, given.processes, descend=descend, warm_up=warm_up, tell=tell)
        each = show(title, found)
        if given.full:
            print(f"{title}: a million candidates took {found['wall_s'] / 60:.1f} minutes of wall time")
        else:
            minutes = each * MILLION / given.processes / 6e7
            print(f"extrapolated: a million candidates in {minutes:.1f} minutes on {given.processes} cores")
        rows[title] |= {"us_a_candidate": each, "load": os.getloadavg()[0], **found}
        write()
    if not given.full:
        rows["peer"] = against = against_peer(200)
        ratios = sorted(against["ratios"])
        print(
            f"\nduplicate to fingerprint on one core: {against['screens_us']:.0f} us a candidate, the loop "
            f"with torch autograd {against['loop_us']:.0f} us; ratio {ratios[len(ratios) // 2]:.1f} "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}); verdicts agree on {against['agreed']:.1%}"
        )
    write()


if __name__ == "__main__":
    main()
