"""The last judge: who is in its table, how they are compared, and what is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from losssearch.audit import audit
from losssearch.audit.audit import Audit, Report
from losssearch.audit.statistics import corrected_t_test
from losssearch.errors import StoreError, UsageError
from losssearch.evaluation import Evaluator
from losssearch.pools.inline import InlinePool
from losssearch.proxies.registry import load_proxy
from losssearch.proxies.user import task
from losssearch.search import Search
from losssearch.spaces import load_space
from losssearch.store.store import Store
from losssearch.terminal import print_json
from losssearch.tuning import AUDIT_SPLITS, Tuned, confirm, try_settings

TASKS = Path(__file__).parent / "tasks.py"
PROXY = "breast-cancer-noisy"


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A database with a small search, a control, and a search that trained nothing."""
    url = f"sqlite:///{tmp_path_factory.mktemp('audit')}/losses.db"
    common = {"storage": url, "workers": "inline", "mirror": False, "start": ["bce", "hinge"]}
    Search("binary", PROXY, "evolution", name="small", **common).run(candidates=20)
    Search("binary", PROXY, "random", name="control", seed=1, **common).run(candidates=20)
    with Store.open(url) as store:
        store.close_search(store.open_search("empty", "binary", PROXY, "random", {}, 0))
    return url


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def report(storage, said) -> Report:
    return Audit("small", storage, ["control"], splits=3, settings=2, workers="inline").run(said.append)


def test_found_control_and_classical_losses_stand_in_one_table(report):
    kinds = [row.kind for row in report.rows]
    assert kinds.count("found") == 1
    assert kinds.count("control") == 1
    assert "bce" in [row.label for row in report.rows if row.kind == "classical"]
    assert [row.error for row in report.rows] == sorted(row.error for row in report.rows)


def test_each_row_can_be_computed_again_from_its_splits(report):
    train, test = load_proxy(PROXY).sizes
    for row in report.rows:
        assert len(row.per_split) == 3
        assert row.error == pytest.approx(np.mean(row.per_split))
        assert row.worst == max(row.per_split)
        if row.kind == "found":
            assert row.versus is None
            continue
        gaps = np.subtract(report.found.per_split, row.per_split)
        assert row.versus == corrected_t_test(gaps.tolist(), train, test)
        deviation = np.sqrt((1 / 3 + test / train) * gaps.var(ddof=1))
        assert row.versus.difference == pytest.approx(gaps.mean())
        if deviation > 0:
            assert row.versus.t == pytest.approx(gaps.mean() / deviation)


def test_a_discovery_needs_the_whole_interval_below_zero(report):
    best = min((r for r in report.rows if r.kind == "classical"), key=lambda r: (r.error, r.label))
    assert report.best_classical == best
    assert report.is_discovery == (best.versus.high < 0)
    shown = "is better than" if report.is_discovery else "is not shown to be better than"
    assert shown in report.sentence()
    assert best.label in report.sentence()


def test_every_loss_gets_the_same_number_of_settings(report, said):
    assert said[0].startswith("Tuning ")
    assert said[0].endswith("settings 1 to 2 of 2.")
    assert said[-1] == f"Testing {len(report.rows)} losses on 3 fresh splits."


def test_the_best_settings_are_confirmed_on_more_splits(tmp_path):
    """What is best on few splits by luck gives way to what is best on all."""
    name = f"{TASKS}:lucky"
    proxy, space = load_proxy(name), load_space("multiclass")
    with Store.open(f"sqlite:///{tmp_path}/a.db") as store, InlinePool() as pool:
        evaluator = Evaluator(store, pool, space, proxy, name)
        loss = Tuned.of(space.losses["cross_entropy"].program, proxy)
        try_settings([loss], 8, evaluator, AUDIT_SPLITS)
        assert loss.best[1].knobs["rate"] == 0.1
        assert loss.best[0] == pytest.approx(0.1)
        confirm([loss], evaluator)
        assert loss.best[1].knobs["rate"] == 0.3
        assert loss.best[0] == pytest.approx(0.2)


def test_the_test_samples_of_an_audit_are_in_no_split_of_a_search():
    number = np.arange(120.0).reshape(-1, 1, 1)  # three dimensions are not standardised
    proxy = task(data=(number, np.arange(120) % 3), name="numbered")

    def samples(part):
        return set(np.asarray(part[0]).ravel().tolist())

    splits = [proxy.split(seed, "default", "search") for seed in [*range(34), *range(1000, 1006)]]
    searched = set().union(*(samples(s.train) | samples(s.valid) for s in splits))
    for seed in range(30):
        audit = proxy.split(seed, "default", "audit")
        assert samples(audit.test)
        assert not samples(audit.test) & searched
        assert not samples(audit.test) & (samples(audit.train) | samples(audit.valid))


def test_an_audit_rounds_nothing_where_the_search_did(tmp_path):
    url, name = f"sqlite:///{tmp_path}/losses.db", f"{TASKS}:points"
    search = Search("multiclass", f"{name}@bf16", "random", storage=url, name="s", workers="inline")
    search.run(candidates=8)
    Audit("s", url, splits=2, settings=1, workers="inline").run()
    with Store.open(url, read_only=True) as store:
        [stored] = store.audits("s")
    assert stored.protocol == load_proxy(name).protocol.hash != load_proxy(f"{name}@bf16").protocol.hash


def test_an_audit_is_stored_and_its_json_round_trips(report, storage, capsys):
    with Store.open(storage, read_only=True) as store:
        (stored,) = store.audits("small")
    print_json(report.to_dict())
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(stored.rows)) == printed["rows"]
    assert printed["discovery"] == report.is_discovery
    assert printed["best_classical"] == report.best_classical.label
    assert {row["label"] for row in printed["rows"]} == {row.label for row in report.rows}
    assert stored.summary["error"] == pytest.approx(report.found.error)


def test_the_same_audit_again_gives_the_same_table(report, storage):
    again = Audit("small", storage, ["control"], splits=3, settings=2, workers="inline").run()
    assert again == report


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"name": "smal"}, UsageError, "small"),
        ({"name": "empty"}, UsageError, "no trained loss"),
        ({"controls": ["contrl"]}, UsageError, "control"),
        ({"splits": 1}, UsageError, "splits >= 2"),
        ({"settings": 0}, UsageError, "settings >= 1"),
        ({"workers": "threads"}, UsageError, "processes"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, StoreError, "nowhere"),
    ],
)
def test_bad_arguments_get_one_line(storage, changes, error, says):
    given = {"name": "small", "storage": storage, "workers": "inline", "splits": 2, "settings": 1}
    with pytest.raises(error, match=says) as caught:
        Audit(**{**given, **changes}).run()
    assert "\n" not in str(caught.value)


def test_a_black_box_is_audited_on_seeds_of_its_own(search):
    spec = search(proxy=f"{TASKS}:black")
    spec.run(candidates=10)
    report = Audit("small", spec.storage, splits=2, settings=2, workers="inline").run()
    assert report.found.label == "small/1"
    for row in report.rows:  # its metric grows with the seed, and audit seeds begin at 1,000,000
        assert row.per_split[1] - row.per_split[0] == pytest.approx(1e-4)
        assert row.error > 100


def test_a_long_step_tells_how_far_it_is(storage, monkeypatch):
    monkeypatch.setattr(audit, "EVERY_S", 0.0)
    said = []
    Audit("small", storage, splits=4, settings=1, workers="inline", seed=5).run(said.append)
    begun = [line for line in said if line.endswith("fresh splits.")]
    assert begun == [f"Testing {begun[0].split()[1]} losses on 4 fresh splits."]
    told = re.compile(r"Testing \d+ losses on 4 fresh splits: \d+ trainings so far, \d+s\.")
    assert told.fullmatch(said[-1])  # one split more than any audit before
