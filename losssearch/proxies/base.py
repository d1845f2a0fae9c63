"""What is a proxy?

A small training task with an error, lower is better: data cut into splits, a model, an optimiser, a
budget, conditions under which the loss must also work, and rungs of rising cost. Search splits give
training and validation data; audit splits give test data that no search touches. Costs nothing
until it is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from losssearch.errors import ProxyError
from losssearch.execution.plan import (
    BETAS,
    MLP,
    GradientFn,
    MetricFn,
    Run,
    RunResult,
    Setting,
    Split,
    Stage,
)
from losssearch.spaces import load_space, space_names

if TYPE_CHECKING:
    from losssearch.proxies.structured import Task

#: Raised whenever a change alters what a training gives, beyond rounding: evaluations of older versions are
#: not reused.
TRAINER_VERSION = 2
STRUCTURED_VERSION = "structured-1"
#: Gradients are scaled once, to the reference loss's RMS on the probes; the version of that rule.
NORMALISER_VERSION = "rms-reference-1"
LEAST_RUNGS, MOST_RUNGS = 3, 9  # 9 itself is the rung of a search's chosen loss, see `store.rows.CHOSEN`


@dataclass(frozen=True)
class Rung:
    """One fidelity: how many splits and rates judge a loss. Splits of different rungs are disjoint.

    Args:
        splits: Numbers of the splits.
        rate_count: How many of the condition's learning rates are tried, from the first.
        conditions: The splits are dealt to these in equal consecutive parts.
        epochs: None means the setting's own number.
        rates: Tried in place of the condition's.
    """

    splits: tuple[int, ...]
    rate_count: int = 2
    conditions: tuple[str, ...] = ("default",)
    epochs: int | None = None
    rates: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Protocol:
    """Everything besides loss and run that decides a result; evaluations are keyed by its hash."""

    content: str

    @property
    def hash(self) -> str:
        """16 hex digits of SHA-256."""
        return hashlib.sha256(self.content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Proxy:
    """A small training task with an error.

    Args:
        name: As a user writes it.
        title: One line for a person.
        space: Name of the shipped space whose inputs it provides, such as "multiclass".
        metric: Name of the error; lower is better.
        guards: Further errors, recorded for every run.
        metric_maker: Makes the error and the guards by name, when first needed; None looks them up
            in `metrics`.
        draw: Makes split number `seed` under a condition, for a stage.
        default: Model, optimiser and budget.
        changes: What each further condition changes in `default`; data conditions change nothing
            here.
        second: The condition under which a part of the last rung is trained.
        rungs: 3 to 9 of rising cost; the last is that of the finals, and losses climb to the one before it.
        classes: Number of classes, or None where the prediction is one number a sample.
        data_version: Changes when the data or their splits change.
        headroom: "some", or "none" for a null control, on which nothing should be found.
        sizes: (train, test) samples of an audit split, for the corrected t test.
        task: What the model is shown and the loss is told, where predictions are several or no sample
            stands alone; the structured trainer then takes the place of the population trainer.
        custom: Trains runs itself, in place of either.
        takes: "gradient", "slopes" where there is a `task`, or "module" where `custom` wants modules.
    """

    name: str
    title: str
    space: str
    metric: str
    draw: Callable[[int, str, Stage], Split]
    default: Setting = field(default_factory=Setting)
    guards: tuple[str, ...] = ()
    metric_maker: Callable[[], Mapping[str, MetricFn]] | None = None
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    second: str = "default"
    classes: int | None = None
    data_version: int | str = 1
    headroom: Literal["some", "none"] = "some"
    sizes: tuple[int, int] = (1, 1)
    rungs: tuple[Rung, ...] = ()
    task: Task | None = None
    custom: Callable[[Sequence[Any], Sequence[Run]], list[RunResult]] | None = None
    takes: Literal["gradient", "slopes", "module"] = "gradient"

    def __post_init__(self) -> None:
        if self.task is not None:
            object.__setattr__(self, "takes", "slopes")
        if self.space not in space_names():
            raise ProxyError(
                f"proxy {self.name}: there is no space {self.space!r} that says what is predicted. "
                f"Choose one of {', '.join(space_names())}."
            )
        if not self.rungs:
            object.__setattr__(self, "rungs", usual_rungs(self.second))
        if not LEAST_RUNGS <= len(self.rungs) <= MOST_RUNGS:
            raise ProxyError(
                f"proxy {self.name}: {LEAST_RUNGS} to {MOST_RUNGS} rungs are needed, not {len(self.rungs)}."
            )

    @property
    def prediction(self) -> str:
        """Name of the predicted input.

        Raises:
            ProxyError: The space has several; only a proxy that trains by itself can serve it.
        """
        names = load_space(self.space).signature.predictions
        if len(names) > 1:
            raise ProxyError(
                f"proxy {self.name}: the space {self.space!r} has the predictions {', '.join(names)}; "
                "the population trainer takes one. Train by a loop of your own: blackbox."
            )
        return names[0]

    @property
    def given(self) -> frozenset[str]:
        """Inputs beside prediction and target that losses are told here."""
        if self.custom is not None:  # cuts its own data, and provides nothing
            return frozenset({"progress"})
        if self.task is not None:
            from losssearch.proxies.structured import inputs_of

            return inputs_of(self)
        return frozenset({"progress", *self.split(0).provided})

    @property
    def stacked(self) -> bool:
        """Whether runs are trained side by side, so that they cost less in one job than in several."""
        return self.task is None and self.custom is None

    @property
    def reference(self) -> str:
        """The loss to whose gradient all others are scaled."""
        return load_space(self.space).reference

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of single conditions; several may be joined: "raw+wide"."""
        return ("default", *self.changes)

    @cached_property
    def metric_functions(self) -> Mapping[str, MetricFn]:
        """The error and the guards, over many models at once."""
        if self.metric_maker is not None:
            return self.metric_maker()
        from losssearch.proxies.metrics import pick

        return pick(self.metric, *self.guards)

    def setting(self, condition: str = "default") -> Setting:
        """Model, optimiser and budget under a condition.

        Raises:
            ProxyError: No such condition.
        """
        setting = self.default
        for part in condition.split("+"):
            if part == "default":
                continue
            if part not in self.changes:
                raise ProxyError(
                    f"proxy {self.name} has no condition {part!r}. "
                    f"Choose of {', '.join(self.conditions)}, joined by '+'."
                )
            changed = dict(self.changes[part])
            if isinstance(setting.model, MLP):
                model = {k: changed.pop(k) for k in ("hidden", "init") if k in changed}
                changed["model"] = replace(setting.model, **model)
            setting = replace(setting, **changed)
        return setting

    def split(self, seed: int, condition: str = "default", stage: Stage = "search") -> Split:
        """Data of split number `seed`; the same numbers give the same arrays on every machine."""
        self.setting(condition)
        return self.draw(seed, condition, stage)

    @property
    def ladder(self) -> str:
        """All that the rungs say, in 8 hex digits: scores of other rungs do not compare."""
        return hashlib.sha256(repr(self.rungs).encode()).hexdigest()[:8]

    @property
    def protocol(self) -> Protocol:
        """What besides loss and run decides a result."""
        content: dict[str, Any] = {
            "proxy": self.name,
            "space": self.space,
            "metric": self.metric,
            "guards": self.guards,
            "default": _described(self.default),
            "changes": {name: repr(sorted(c.items())) for name, c in self.changes.items()},
            "data": self.data_version,
            "trainer": TRAINER_VERSION,
            "normaliser": NORMALISER_VERSION,
        }
        if self.task is not None:
            content |= {"trainer": STRUCTURED_VERSION, "task": type(self.task).__name__}
            del content["normaliser"]  # the structured trainer needs none
        return Protocol(json.dumps(content, sort_keys=True))

    def train(self, losses: Sequence[Any], runs: Sequence[Run], device: str = "cpu") -> list[RunResult]:
        """Trains every run; what a worker calls.

        Args:
            losses: One scaled gradient function a loss (`takes == "gradient"`), one `Slopes`
                (`"slopes"`) or one loss module (`"module"`).
            runs: What to train; `run.loss` indexes `losses`.
            device: Where populations are trained. Structured tasks train on the CPU, and a black box where
                it likes.

        Returns:
            One result a run, in order.
        """
        if self.custom is not None:
            return self.custom(losses, runs)
        if self.task is not None:
            from losssearch.proxies.structured import train_structured

            return train_structured(self, losses, runs)
        from losssearch.execution.population import train_population

        gradients: Sequence[GradientFn] = losses
        return train_population(self, gradients, runs, device=device)

    def runs(self, rung: int, losses: Sequence[int]) -> list[Run]:
        """All runs of rung number `rung` for these losses."""
        step = self.rungs[rung]
        part = -(-len(step.splits) // len(step.conditions))
        settings = {name: self.setting(name) for name in step.conditions}
        dealt = [(split, step.conditions[i // part]) for i, split in enumerate(step.splits)]
        return [
            Run(loss, split, rate, settings[name].decays[0], step.epochs, name)
            for loss in losses
            for split, name in dealt
            for rate in step.rates or settings[name].rates[: step.rate_count]
        ]

    def audit_runs(
        self,
        losses: Sequence[int],
        splits: int = 30,
        rates: Sequence[float] | None = None,
        decays: Sequence[float] = (0.0,),
        condition: str = "default",
    ) -> list[Run]:
        """Runs on audit splits, whose test data no search touches."""
        tried = self.setting(condition).rates if rates is None else rates
        return [
            Run(loss, split, rate, decay, condition=condition, stage="audit")
            for loss in losses
            for split in range(splits)
            for rate in tried
            for decay in decays
        ]


def _described(setting: Setting) -> str:
    """A setting as text that is the same in every process (a function's repr holds its address)."""
    model = setting.model
    if not isinstance(model, MLP):
        name = f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', repr(model))}"
        return f"{name} {_described(replace(setting, model=MLP()))}"
    # These came later than the first stored evaluations, which all had these values.
    return repr(setting).replace(f", betas={BETAS}", "").replace(", precision='fp32'", "")


def usual_rungs(second: str) -> tuple[Rung, ...]:
    """2 splits x 2 rates, 8 x 3, 24 x 4 with half of them under a second condition."""
    last = ("default", second) if second != "default" else ("default",)
    return (
        Rung(tuple(range(0, 2)), 2),
        Rung(tuple(range(2, 10)), 3),
        Rung(tuple(range(10, 34)), 4, last),
    )


def generator(*words: str | int) -> np.random.Generator:
    """A counter-based generator whose stream depends on nothing but `words`."""
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def seed_of(*words: str | int) -> int:
    """A seed below 2^62 that depends on nothing but `words`."""
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return int.from_bytes(digest[16:24], "little") >> 2
