"""Can the search be watched in optuna-dashboard?

Every trained loss becomes a finished Optuna trial, in a study named like the search, in the same
database: formula and metrics as user attributes, size and constants as parameters, the curve of its
best run as intermediate values. The store is the truth; the mirror can be thrown away and rebuilt.
It never raises and never holds the search up: a problem is returned, and written to the event log.

`Study.add_trials` costs about 30 ms a trial. One transaction of bulk inserts into Optuna's tables,
through Optuna's own converters, costs 0.2 ms (SQLite) or 0.8 ms (PostgreSQL); it is used only with
the Optuna and the schema it was tried on, else the slow, public way. The dashboard grows slow with
many trials, so at most `cap` are shown: classical losses, the best, and the newest.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, insert, select, text, update

from losssearch.errors import LossSearchError
from losssearch.store.readable import attributes, bounds, curve, note
from losssearch.store.reader import PROPOSAL
from losssearch.store.rows import TRAINED, CandidateRow, EvaluationRow, ProposalRow, SearchRow
from losssearch.store.store import Store

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

TRIED_VERSION = (5, 0)
TRIED_SCHEMA = "v3.2.0.a"
CAP = 2000
SLOW_CAP = 200  # without the fast path
BATCH = 500
FIRST = 1000  # the start losses are among the first so many proposals of a search
NOTES = 3  # how many of the best have a note
GIVE_UP_AFTER = 3  # failures in a row
OWNER, NEXT = "losssearch", "losssearch: next proposal"


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What one call did. `problem` is one line for a person, or empty."""

    added: int = 0
    problem: str = ""


class Mirror:
    """Keeps the Optuna study of one search up to date.

    Args:
        store: Open for writing.
        search: As `open_search` returned it.
        cap: The most trials the study may hold, `>= 10`.
        fast: False forbids the bulk inserts, for the test that compares both ways.
    """

    def __init__(self, store: Store, search: SearchRow, cap: int = CAP, *, fast: bool = True) -> None:
        self._store, self._search, self._cap = store, search, cap
        self._fast = fast
        self._storage: RDBStorage | None = None
        self._study = -1
        self._next = 0
        self._failures = 0
        self._problem = ""
        self._noted: list[str] = []

    def update(self, limit_s: float = 5.0) -> Mirrored:
        """Add the trials that are new since the last call; never raises.

        Args:
            limit_s: Begin no further batch after so many seconds; the next call goes on.
        """
        if self._failures >= GIVE_UP_AFTER:
            return Mirrored(problem=self._problem)
        return self._guarded(lambda: self._update(time.monotonic() + limit_s))

    def rebuild(self, limit_s: float = 60.0) -> Mirrored:
        """Make the study anew from the store, with the newest scores; never raises."""
        self._failures = 0
        return self._guarded(lambda: self._rebuild(self._cap, time.monotonic() + limit_s))

    # What may go wrong does so inside `_guarded`.

    def _guarded(self, work: Any) -> Mirrored:
        try:
            with _quiet():
                self._attach()
                added = work()
                self._write_notes()
        except Exception as error:  # the mirror is a courtesy; no fault of it may end a search
            self._failures += 1
            self._disconnect()
            self._storage = None
            line = " ".join(str(error).split())[:500] or type(error).__name__
            if not isinstance(error, LossSearchError):
                line = f"{type(error).__name__}: {line}"
            problem = f"The Optuna mirror of {self._search.name!r} was not updated: {line}"
            if problem != self._problem:
                self._problem = problem
                with contextlib.suppress(LossSearchError):
                    self._store.add_event(self._search, "mirror", {"problem": problem})
            return Mirrored(problem=problem)
        self._disconnect()
        self._failures, self._problem = 0, ""
        return Mirrored(added)

    def _disconnect(self) -> None:
        """Give back Optuna's own connections; it makes new ones when it needs them."""
        if self._storage is not None:
            with contextlib.suppress(Exception):
                self._storage.remove_session()
                self._storage.engine.dispose()

    def _attach(self) -> None:
        """Find or make Optuna's tables and our study in them."""
        if self._storage is not None:
            return
        import optuna

        storage = optuna.storages.RDBStorage(self._store.optuna_url())
        self._storage = storage
        version = tuple(int(part) for part in optuna.__version__.split(".")[:2])
        schema = storage.get_current_version()
        self._fast = self._fast and (version, schema) == (TRIED_VERSION, TRIED_SCHEMA)
        name = self._search.name
        studies = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}
        if name not in studies:
            self._study = self._create(storage)
        else:
            told = studies[name].user_attrs
            if OWNER not in told and (studies[name].n_trials or told):
                raise LossSearchError(
                    f"the database holds an Optuna study {name!r} that losssearch did not make. "
                    "Give the search another name to mirror it."
                )
            self._study = int(storage.get_study_id_from_name(name))
            storage.set_study_user_attr(self._study, OWNER, name)
        self._next = self._first_missing(storage)

    def _first_missing(self, storage: RDBStorage) -> int:
        stored = int(storage.get_study_user_attrs(self._study).get(NEXT, 0))
        if self._fast:
            return stored
        # The slow way does not store trial and mark in one transaction: believe the trials.
        seen = [
            trial.user_attrs.get("proposal", -1) + 1
            for trial in storage.get_all_trials(self._study, deepcopy=False)
        ]
        return int(max([stored, *seen]))

    def _create(self, storage: RDBStorage) -> int:
        import optuna

        study = optuna.create_study(storage=storage, study_name=self._search.name, direction="minimize")
        study.set_metric_names(["score"])
        study.set_user_attr(OWNER, self._search.name)
        for key in ("space", "proxy", "controller", "seed"):
            study.set_user_attr(key, getattr(self._search, key))
        return int(storage.get_study_id_from_name(self._search.name))

    def _attached(self) -> RDBStorage:
        if self._storage is None:
            raise LossSearchError("it is not attached to its study.")
        return self._storage

    # Adding.

    def _update(self, deadline: float) -> int:
        added = 0
        if self._store.search(self._search.name, state=False).proposals - self._next > 4 * self._cap:
            return self._rebuild(self._cap // 2, deadline)
        while True:
            rows = self._store.proposals(self._search.name, start=self._next, limit=BATCH)
            if not rows:
                return added
            trained = [row for row in rows if row.outcome in TRAINED]
            after = rows[-1].number + 1
            room = (self._cap if self._fast else min(self._cap, SLOW_CAP)) - self._count()
            if len(trained) > room:
                if not self._fast:
                    raise LossSearchError(
                        f"it is full ({self._cap - room} trials), and Optuna's tables are not of "
                        "the version that losssearch can thin out. Rebuild it to see the newest."
                    )
                return added + self._rebuild(self._cap // 2, deadline)
            added += self._add(self._trials(trained), after, deadline)
            if self._next < after or time.monotonic() > deadline:
                return added

    def _add(self, trials: Sequence[FrozenTrial], after: int, deadline: float) -> int:
        if self._fast:
            self._store.write(lambda connection: self._insert(connection, trials, after))
            self._next = after
            return len(trials)
        import optuna

        study = optuna.load_study(study_name=self._search.name, storage=self._attached())
        for done, trial in enumerate(trials):
            if time.monotonic() > deadline and done:
                self._next = trial.user_attrs["proposal"]
                return done
            study.add_trial(trial)
        study.set_user_attr(NEXT, after)
        self._next = after
        return len(trials)

    def _count(self) -> int:
        query = text("SELECT count(*) FROM trials WHERE study_id = :study")
        with self._store.reading() as connection:
            return int(connection.execute(query, {"study": self._study}).scalar() or 0)

    def _insert(self, connection: Connection, trials: Sequence[FrozenTrial], after: int) -> None:
        """One bulk insert a table, and the mark up to where the mirror has come."""
        from optuna.storages._rdb import models

        study = models.StudyModel.__table__
        trial_table = models.TrialModel.__table__
        locked = select(study.c.study_id).where(study.c.study_id == self._study)
        if connection.execute(locked.with_for_update()).scalar() is None:
            raise LossSearchError("its study was deleted. Rebuild the mirror.")
        count = select(func.count()).where(trial_table.c.study_id == self._study)
        first = int(connection.execute(count).scalar() or 0)
        ids = _new_ids(connection, "trials", "trial_id", len(trials))
        for table, rows in _optuna_rows(trials, ids, self._study, first).items():
            if rows:
                connection.execute(insert(table), rows)
        self._mark(connection, after)

    def _mark(self, connection: Connection, after: int) -> None:
        from optuna.storages._rdb import models

        table = models.StudyUserAttributeModel.__table__
        of_study = (table.c.study_id == self._study) & (table.c.key == NEXT)
        mark = {"value_json": json.dumps(after)}
        if not connection.execute(update(table).where(of_study).values(mark)).rowcount:
            row = {"study_id": self._study, "key": NEXT, **mark}
            connection.execute(insert(table), row)

    # Rebuilding.

    def _rebuild(self, limit: int, deadline: float) -> int:
        if not self._fast:
            limit = min(limit, SLOW_CAP)
        after = self._store.search(self._search.name, state=False).proposals
        trials = self._trials(self._chosen(limit))
        self._noted = []
        if self._fast:
            self._store.write(lambda connection: self._replace(connection, trials, after))
            self._next = after
            return len(trials)
        import optuna

        optuna.delete_study(study_name=self._search.name, storage=self._attached())
        self._study = self._create(self._attached())
        return self._add(trials, after, deadline)

    def _replace(self, connection: Connection, trials: Sequence[FrozenTrial], after: int) -> None:
        """A new study with fresh numbers in place of the old one, so that no viewer who keeps old
        trials in memory mixes them with the new; its own attributes and notes move over.
        """
        from optuna.storages._rdb import models

        old = self._study
        study, trial = models.StudyModel.__table__, models.TrialModel.__table__
        (new,) = _new_ids(connection, "studies", "study_id", 1)
        last = connection.execute(select(func.max(trial.c.trial_id))).scalar() or 0
        row = {"study_id": new, "study_name": f"{self._search.name} (being rebuilt {new})"}
        connection.execute(insert(study), row)
        for model in (
            models.StudyDirectionModel,
            models.StudyUserAttributeModel,
            models.StudySystemAttributeModel,
        ):
            table = model.__table__
            moved = table.c.study_id == old
            if "key" in table.c:  # notes of single trials go with the trials
                of_trials = moved & table.c.key.like("dashboard:%:note%")
                connection.execute(delete(table).where(of_trials))
            connection.execute(update(table).where(moved).values(study_id=new))
        of_old = select(trial.c.trial_id).where(trial.c.study_id == old)
        for model in (
            models.TrialUserAttributeModel,
            models.TrialSystemAttributeModel,
            models.TrialParamModel,
            models.TrialValueModel,
            models.TrialIntermediateValueModel,
            models.TrialHeartbeatModel,
        ):
            table = model.__table__
            connection.execute(delete(table).where(table.c.trial_id.in_(of_old)))
        connection.execute(delete(trial).where(trial.c.study_id == old))
        connection.execute(delete(study).where(study.c.study_id == old))
        named = update(study).where(study.c.study_id == new)
        connection.execute(named.values(study_name=self._search.name))
        self._study = new
        try:
            ids = _new_ids(connection, "trials", "trial_id", len(trials), above=int(last))
            for table, rows in _optuna_rows(trials, ids, new, 0).items():
                if rows:
                    connection.execute(insert(table), rows)
            self._mark(connection, after)
        except BaseException:
            self._study = old
            raise

    def _chosen(self, limit: int) -> list[ProposalRow]:
        """Which proposals are shown: classical losses, the best, and the newest; oldest first."""
        name = self._search.name
        trained = PROPOSAL.c.outcome.in_(TRAINED) & (PROPOSAL.c.search_id == self._search.id)
        newest = select(PROPOSAL.c.number).where(trained)
        first_of_all = PROPOSAL.c.origin.startswith("start") & (PROPOSAL.c.number < FIRST)
        seeds = newest.where(first_of_all).order_by(PROPOSAL.c.number)
        newest = newest.order_by(PROPOSAL.c.number.desc()).limit(limit)
        quarter = max(1, limit // 4)
        best = [ranked.proposal.number for ranked in self._store.leaderboard(name, quarter)]
        with self._store.reading() as connection:
            first = list(connection.execute(seeds.limit(quarter)).scalars())
            last = list(connection.execute(newest).scalars())
        numbers = sorted(list(dict.fromkeys([*first, *best, *last]))[:limit])
        chosen = []
        with self._store.reading() as connection:
            columns = [PROPOSAL.c[name] for name in ProposalRow.__dataclass_fields__]
            of_search = PROPOSAL.c.search_id == self._search.id
            for start in range(0, len(numbers), BATCH):
                part = PROPOSAL.c.number.in_(numbers[start : start + BATCH])
                query = select(*columns).where(of_search, part).order_by(PROPOSAL.c.number)
                chosen += [ProposalRow(**row._mapping) for row in connection.execute(query)]
        return [row for row in chosen if row.outcome in TRAINED]

    # Trials.

    def _trials(self, rows: Sequence[ProposalRow]) -> list[FrozenTrial]:
        keys = [row.candidate_key for row in rows]
        candidates = self._store.candidates(keys)
        runs = self._store.evaluations(keys, self._search.proxy)
        return [
            trial_of(
                self._search.name,
                row,
                candidates[row.candidate_key],
                list(runs.get(row.candidate_key, {}).values()),
            )
            for row in rows
        ]

    def _write_notes(self) -> None:
        """A note in Markdown for the best few, when they changed."""
        board = self._store.leaderboard(self._search.name, limit=NOTES)
        shown = [f"{ranked.proposal.number} {ranked.proposal.score}" for ranked in board]
        if shown == self._noted or self._storage is None:
            return
        import optuna
        from optuna_dashboard import save_note

        study = optuna.load_study(
            study_name=self._search.name,
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
        )
        find = text(
            "SELECT t.trial_id FROM trials t JOIN trial_user_attributes a USING (trial_id) "
            "WHERE t.study_id = :study AND a.key = 'proposal' AND a.value_json = :number"
        )
        for ranked in board:
            number = {"study": self._study, "number": json.dumps(ranked.proposal.number)}
            with self._store.reading() as connection:
                trial_id = connection.execute(find, number).scalar()
            if trial_id is not None:
                trial = optuna.trial.Trial(study, int(trial_id))
                save_note(trial, note(self._search.name, ranked.rank, ranked.proposal))
        self._noted = shown


def trial_of(
    search: str, row: ProposalRow, candidate: CandidateRow, runs: Sequence[EvaluationRow]
) -> FrozenTrial:
    """The finished Optuna trial that shows one proposal."""
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    score = row.score if row.score is not None and math.isfinite(row.score) else None
    state = TrialState.FAIL
    if row.outcome == "SCORED" and score is not None:
        state = TrialState.COMPLETE
    elif row.outcome == "PRUNED":
        state = TrialState.PRUNED
    params: dict[str, Any] = {"size": candidate.size, "rung": row.rung}
    distributions: dict[str, Any] = {
        "size": IntDistribution(0, max(1000, candidate.size)),
        "rung": IntDistribution(0, max(10, row.rung)),
    }
    for name, constant in candidate.constants.items():
        if (reach := bounds(constant)) is not None and name not in params:
            params[name] = reach[0]
            distributions[name] = FloatDistribution(reach[1], reach[2])
    trial = create_trial(
        state=state,
        value=None if state == TrialState.FAIL else score,
        params=params,
        distributions=distributions,
        user_attrs=attributes(search, row, candidate),
        intermediate_values=curve(runs),
    )
    if candidate.created_at is not None:
        begun = candidate.created_at.astimezone().replace(tzinfo=None)
        trial.datetime_start = begun
        trial.datetime_complete = begun + timedelta(seconds=sum(run.seconds for run in runs))
    return trial


# Optuna's tables.


def _new_ids(connection: Connection, table: str, column: str, count: int, above: int = 0) -> list[int]:
    """So many free primary keys: from PostgreSQL's sequence, or after the last one of SQLite."""
    if connection.dialect.name == "postgresql":
        query = text("SELECT nextval(pg_get_serial_sequence(:table, :column)) FROM generate_series(1, :n)")
        values = {"table": table, "column": column, "n": count}
        return [int(value) for value in connection.execute(query, values).scalars()]
    last = connection.execute(text(f"SELECT max({column}) FROM {table}")).scalar() or 0
    first = max(int(last), above) + 1
    return list(range(first, first + count))


def _optuna_rows(
    trials: Sequence[FrozenTrial], ids: Sequence[int], study: int, first: int
) -> dict[Any, list[dict[str, Any]]]:
    """The rows of finished trials in Optuna's tables, in the order in which to insert them."""
    from datetime import UTC

    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models

    def utc(moment: Any) -> Any:
        return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)

    value_of = models.TrialValueModel.value_to_stored_repr
    step_of = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    main: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    attrs: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for number, (trial_id, trial) in enumerate(zip(ids, trials, strict=True), start=first):
        main.append(
            {
                "trial_id": trial_id,
                "study_id": study,
                "number": number,
                "state": trial.state,
                "datetime_start": utc(trial.datetime_start),
                "datetime_complete": utc(trial.datetime_complete),
            }
        )
        for objective, value in enumerate(trial.values or []):
            stored, kind = value_of(value)
            values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            params.append(
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        for key, value in trial.user_attrs.items():
            attrs.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(value)})
        for step, value in trial.intermediate_values.items():
            shown, finite = step_of(value)
            steps.append(
                {
                    "trial_id": trial_id,
                    "step": step,
                    "intermediate_value": shown,
                    "intermediate_value_type": finite,
                }
            )
    return {
        models.TrialModel.__table__: main,
        models.TrialValueModel.__table__: values,
        models.TrialParamModel.__table__: params,
        models.TrialUserAttributeModel.__table__: attrs,
        models.TrialIntermediateValueModel.__table__: steps,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its notices that a study was made or a function is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
