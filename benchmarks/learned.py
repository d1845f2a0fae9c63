"""What are learned losses worth? Every row is measured here, the losing ones too.

    sine, few-shot-digits    a meta-learned loss against squared error / cross entropy, with the best rate
                             and with learned ones; 400 tasks that nobody learned from
    digits-noisy,            Meta-Weight-Net against cross entropy, with and without the clean set in its
    digits-imbalanced        training; 30 audit splits, corrected t. On the second, loss networks learned
                             online too (they take long)
    steering                 an LSTM that sets a formula's constant and the learning rate, against knobs
                             that stand still at what the same outer loop finds; 200 tasks
    distillation             formulas for a meta-learned loss and for learned weights, 60 s each

All on one thread, seed 0. Everything takes about fifteen minutes; name parts to run those alone.

    python -m benchmarks.learned [part ...]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from losssearch.audit.statistics import corrected_t_test
from losssearch.learned import lstm, meta, weighting
from losssearch.learned.audit.adaptation import audit_adaptation
from losssearch.learned.audit.report import LearnedReport
from losssearch.learned.audit.weighting import audit_weighting
from losssearch.learned.loss import LearnedLoss
from losssearch.spaces import load_space

RESULT = Path(__file__).parent / "results" / "learned.json"
TASKS = ("sine", "few-shot-digits")
PROXIES = ("digits-noisy", "digits-imbalanced")
PARTS = (*TASKS, *PROXIES, "steering", "distillation")
STEERED = "poly1"


def shown(report: LearnedReport) -> dict[str, Any]:
    """Print a report, best first."""
    print(f"{report.on}: {report.metric}, {report.count} tasks or splits")
    for line in report.lines:
        curve = " ".join(f"{value:.3f}" for value in line.curve)
        print(f"  {line.label:42} {line.error:.4f}  {curve}  {compared(line.versus)}")
        if line.classical is not None:
            print(f"  {'less cross entropy':>42} {compared(line.classical)}")
    return report.to_dict()


def compared(versus: Any) -> str:
    """The learned loss less a row, with its interval."""
    if versus is None:
        return ""
    return f"{versus.difference:+.4f} [{versus.low:+.4f}, {versus.high:+.4f}] t {versus.t:+.2f}"


def steering() -> dict[str, Any]:
    """A formula and plain cross entropy, with knobs that move and with knobs that stand still."""
    losses, found = load_space("multiclass").losses, {}
    for name in (STEERED, "cross_entropy"):
        for still in (False, True):
            settings = lstm.SteeringSettings(still=still)
            loss = lstm.learn("few-shot-digits-noisy", losses[name].program, settings=settings)
            found[f"{name}, {'still' if still else 'steered'}"] = lstm.evaluate(loss).errors
    mine, rows = found[f"{STEERED}, steered"], {}
    print("steering: error on few-shot-digits-noisy from fresh weights, 200 tasks")
    for label, errors in found.items():
        versus = None if errors is mine else corrected_t_test((mine - errors)[-1].tolist(), 1, 0)
        curve = [float(v) for v in errors.mean(1)]
        print(f"  {label:42} {curve[-1]:.4f}  {' '.join(f'{v:.3f}' for v in curve[::3])}  {compared(versus)}")
        rows[label] = {"curve": curve, "difference": versus and [versus.difference, versus.low, versus.high]}
    return rows


def distilled(losses: dict[str, LearnedLoss]) -> dict[str, Any]:
    """The formula nearest to each learned loss."""
    rows = {}
    for name, loss in losses.items():
        found = loss.distil(seconds=60)
        rows[name] = {
            "formula": found.program.text,
            "constants": dict(found.program.constant_values),
            "value_r2": found.value_r2,
            "gradient_r2": found.gradient_r2,
            "programs": found.tried,
        }
        print(f"distillation of {name}: gradient R^2 {found.gradient_r2:.4f}, value R^2 {found.value_r2:.4f}")
        print(f"  {found.program.text}  {found.program.constant_values}")
    return rows


def main(*parts: str) -> None:
    """Print the tables, and put them into the JSON file under their names."""
    torch.set_num_threads(1)
    losses: dict[str, LearnedLoss] = {}
    for part in parts or PARTS:
        began = time.perf_counter()
        if part in TASKS:
            losses[part] = meta.learn(part)  # kept for the distillation
            learned_s = time.perf_counter() - began
            row = {**shown(audit_adaptation(losses[part])), "learning_s": learned_s}
        elif part in PROXIES:
            row = shown(audit_weighting(part, online=part == "digits-imbalanced"))
        elif part == "steering":
            row = steering()
        elif part == "distillation":
            mine = losses.get("sine") or meta.learn("sine")
            row = distilled({"sine": mine, "digits-noisy": weighting.learn("digits-noisy", rate=0.16)})
        else:
            sys.exit(f"There is no part {part!r}. There are {', '.join(PARTS)}.")
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        RESULT.parent.mkdir(exist_ok=True)
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        known[part] = row
        RESULT.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
