"""What a person meets at a terminal: answers on stdout, one line for a mistake, codes a script can trust."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from losssearch.cli import app
from losssearch.errors import LossSearchError
from losssearch.store.store import Store

HOUSE = Path(__file__).parents[1]
TASK = ["run", "binary", "--proxy", "breast-cancer-noisy"]
SMALL = [*TASK, "--candidates", "20", "--workers", "inline", "--start", "bce,hinge"]
COMMAND = [sys.executable, "-m", "losssearch"]


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program, as a shell starts it."""
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def fails(done: subprocess.CompletedProcess[str], says: str) -> None:
    """One line on stderr, nothing on stdout, exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("losssearch: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert re.search(says, done.stderr), done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of one small search, called demo."""
    place = tmp_path_factory.mktemp("cli")
    done = run(*SMALL, "--name", "demo", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "run.json").write_text(done.stdout)
    assert re.match(r"search \d+s: ", done.stderr)
    return place


@pytest.fixture
def tell(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A command in this process: its stdout; raises what the command raises."""
    monkeypatch.chdir(folder)

    def call(*words: str | Path) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


# Answers.


def test_run_answers_with_its_leaderboard_alone_on_stdout(folder: Path, tell) -> None:
    rows = json.loads((folder / "run.json").read_text())
    assert rows[0]["loss"] == "demo/1"
    assert (rows[0]["rung"], rows[0]["chosen"]) == (2, True)
    assert rows == json.loads(tell("leaderboard", "demo", "--json"))[: len(rows)]


def test_every_json_answer_is_one_document(tell) -> None:
    board = json.loads(tell("leaderboard", "demo", "--limit", "3", "--json"))
    assert [row["loss"] for row in board] == ["demo/1", "demo/2", "demo/3"]
    (search,) = json.loads(tell("searches", "--json"))
    assert (search["name"], search["status"]) == ("demo", "finished")
    assert search["proposals"] >= 20  # and the tuned ones
    shown = json.loads(tell("show", "demo/1", "--json"))
    assert shown["key"] == board[0]["key"]
    assert shown["formula"] == board[0]["formula"]
    losses = json.loads(tell("losses", "--json"))
    assert {"multiclass", "binary", "regression"} <= {row["space"] for row in losses}
    assert all(row["formula"] and row["source"] for row in losses)
    parts = json.loads(tell("parts", "--json"))
    assert set(parts) == {
        "primitive", "space", "screen", "proxy", "controller", "exporter", "pool",
    }  # fmt: skip


def test_a_loss_has_three_names(tell) -> None:
    by_rank = json.loads(tell("show", "demo/1", "--json"))
    by_key = json.loads(tell("show", by_rank["key"], "--json"))
    assert by_key["formula"] == by_rank["formula"]
    first = json.loads(tell("show", "demo@0", "--json"))
    assert first["origin"] == "start: bce"
    assert json.loads(tell("show", "bce", "--json"))["formula"] == first["formula"]


def test_the_printed_tables_hold_whole_formulas(tell) -> None:
    board = json.loads(tell("leaderboard", "demo", "--json"))
    printed = tell("leaderboard", "demo")
    assert all(row["formula"] in printed for row in board)
    assert printed.count("chosen") == 1
    assert board[0]["formula"] in tell("show", "demo/1")
    assert "arXiv:1708.02002" in tell("losses", "--space", "multiclass")
    assert "breast-cancer-noisy" in tell("parts")
    assert "finished" in tell("searches")


def test_the_leaderboard_says_which_scores_compare(folder: Path, tell) -> None:
    board = json.loads(tell("leaderboard", "demo", "--limit", "100", "--json"))
    with Store.open(f"sqlite:///{folder}/losses.db", read_only=True) as store:
        rows = {f"demo/{i + 1}": r.proposal for i, r in enumerate(store.leaderboard("demo", limit=100))}
    for row in board:
        assert row["chosen"] is rows[row["loss"]].is_chosen is (row["loss"] == "demo/1")
        assert row["rung"] == (2 if row["chosen"] else rows[row["loss"]].rung)
    assert {row["rung"] for row in board} == {0, 2}
    note = "Compare scores within a rung only"
    assert note in tell("leaderboard", "demo", "--limit", "100")
    assert note not in tell("leaderboard", "demo", "--limit", "2")  # both of the finals


def test_the_leaderboard_says_what_the_score_is_and_that_lower_is_better(tell) -> None:
    from losssearch.proxies.registry import load_proxy

    metric = load_proxy("breast-cancer-noisy").metric
    assert tell("leaderboard", "demo").count(f"The score is the validation {metric}: lower is better.") == 1
    assert {row["metric"] for row in json.loads(tell("leaderboard", "demo", "--json"))} == {metric}


def test_a_search_that_nobody_drives_any_more_is_stopped(tell, folder: Path) -> None:
    with Store.open(f"sqlite:///{folder}/other.db") as store:
        row = store.open_search("mine", "binary", "breast-cancer-noisy", "random", {}, 0)
        words = ["searches", "--storage", "sqlite:///other.db", "--json"]
        assert json.loads(tell(*words))[0]["status"] == "running"
        store.close_search(row)
        assert json.loads(tell(*words))[0]["status"] == "stopped"


def test_a_line_of_progress_holds_no_long_formula() -> None:
    from losssearch.session import Progress
    from losssearch.terminal import _line

    def line(formula: str) -> str:
        return _line(Progress("search", 3.0, None, 5, {"FLAT": 1}, 2, 8, 0.25, formula))

    assert line("mean(abs(r), 'n')").endswith("best 0.2500 mean(abs(r), 'n')")
    assert line("x" * 80).endswith(" " + "x" * 80)
    assert line("x" * 81).endswith(" " + "x" * 79 + "…")


def test_an_audit_prints_its_table_and_its_verdict(tell) -> None:
    words = ["audit", "demo", "--splits", "2", "--settings", "1", "--workers", "inline", "--quiet"]
    report = json.loads(tell(*words, "--json"))
    assert {row["kind"] for row in report["rows"]} == {"found", "classical"}
    *_, verdict = tell(*words).strip().splitlines()
    assert verdict.startswith("demo/1 (error ")
    assert verdict.endswith("2 splits of samples that no search saw.")


def test_a_search_that_is_done_is_done(folder: Path, tell) -> None:
    before = (folder / "run.json").read_text()
    assert json.loads(tell(*SMALL, "--name", "demo", "--json", "--quiet")) == json.loads(before)


def test_quiet_is_quiet(tmp_path: Path) -> None:
    done = run(*TASK, "--candidates", "3", "--workers", "inline", "--quiet", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_help_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    done = run("--help", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{HOUSE}")
    assert done.returncode == 0, done.stderr
    for command in ("run", "audit", "leaderboard", "show", "export", "losses", "dashboard"):
        assert re.search(rf"^\W*{command} ", done.stdout, re.M), command


# What a loss wants, and what a task needs.


def test_show_tells_in_words_and_tables_and_draws(folder: Path) -> None:
    done = run("show", "focal", "--against", "mae,focal(gamma=5)", "--plot", "focal.svg", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "Wrote focal.svg.\n"
    assert "Its gradient fades on samples that are right: beyond p = 0.86" in done.stdout
    assert re.search(r"^ +0\.5 .* 0\.1491$", done.stdout, re.M)  # the gradient ratio, a quarter of .5966
    assert re.search(r"^focal\(gamma=5\) +value ", done.stdout, re.M)
    assert "</svg>" in (folder / "focal.svg").read_text()


def test_a_found_loss_and_a_formula_are_explained_alike(tell) -> None:
    found = json.loads(tell("show", "demo@0", "--json", "--against", "hinge,demo@1"))
    assert found["origin"] == "start: bce"
    assert len(found["against"]) == 2
    formula = "mean((1 - p_t)**g * -log_pt, 'n')"
    words = ["show", formula, "--space", "binary", "--set", "g=0", "--ratio-to", "exponential", "--json"]
    mine = json.loads(tell(*words))
    assert mine["reference"] == "exponential"
    assert mine["facts"]["finite"].startswith(("proved", "unknown"))
    for a, b in zip(mine["profile"], found["profile"], strict=True):
        assert a["gradient"] == pytest.approx(b["gradient"])
    assert {"bounded", "smooth"} <= {row["name"] for row in found["explanation"]}


def test_a_refuted_fact_is_told_with_its_example(tell) -> None:
    shown = json.loads(tell("show", "focal", "--json"))
    assert shown["facts"]["convex"].startswith("refuted: ")
    assert set(shown["counterexamples"]["convex"]) >= {"inputs", "other", "middle", "chord"}
    assert "logits = [[" in tell("show", "focal")


def test_suggest_answers_with_reasons_and_sources(tell) -> None:
    found = json.loads(tell("suggest", "multiclass", "--label-noise", "--json"))
    assert found[0]["loss"] == "gce"
    assert found[0]["sources"] == ["Zhang & Sabuncu 2018, arXiv:1805.07836"]
    assert found[-1]["traits"] == ["plain"]
    printed = tell("suggest", "multiclass", "--label-noise", "--imbalance")
    for row in found:
        assert all(text in printed for text in (*row["reasons"], *row["sources"]))
    assert "--hard-samples" in printed


def test_suggest_asks_whoever_sits_at_the_terminal(tmp_path: Path) -> None:
    here, there = os.openpty()
    os.write(here, b"regresion\nregression\ny\n" + b"n\n" * 10)
    with subprocess.Popen(
        [*COMMAND, "suggest", "--json"], stdin=there, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        out, err = asking.communicate(timeout=60)
    os.close(here)
    os.close(there)
    assert asking.returncode == 0, err
    assert err.count("Which task?") == 2
    assert "No task is called 'regresion'. Did you mean 'regression'?" in err
    assert "Are some targets far off" in err
    assert json.loads(out)[0]["loss"] == "huber"


def test_check_takes_files_modules_and_names(tell, folder: Path) -> None:
    page = tell("check", "torch.nn:HuberLoss", "--task", "regression", "--only", "gradients")
    assert page.splitlines()[0] == "HuberLoss (regression)"
    assert "42 slopes agree with differences" in page
    report = json.loads(tell("check", "binary/hinge", "--only", "gradcheck", "--json"))
    assert [row["verdict"] for row in report["rows"]] == ["passed"]


# What a loss becomes.


def test_an_exported_file_runs_where_there_is_only_torch(tell, tmp_path: Path) -> None:
    file = tmp_path / "my_loss.py"
    tell("export", "demo/1", "--to", file)
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported - sys.stdlib_module_names == {"torch"}
    site = Path(torch.__file__).parents[1]
    block = (
        "import sys, runpy\n"
        "for name in ('losssearch', 'workers', 'dashboards', 'optuna', 'ray', 'sqlalchemy'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path.append({str(site)!r})\n"
        f"runpy.run_path({str(file)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", block],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "value and gradient are as when this file was written" in done.stdout


def test_the_suffix_chooses_the_form(tell, tmp_path: Path) -> None:
    tell("export", "demo/1", "--to", tmp_path / "loss.json")
    tell("export", "focal", "--to", tmp_path / "loss.tex")
    formula = json.loads(tell("show", "demo/1", "--json"))["formula"]
    assert json.loads((tmp_path / "loss.json").read_text())["formula"] == formula
    assert "gamma" in (tmp_path / "loss.tex").read_text()


def test_a_formula_is_exported_in_the_words_of_its_space(tell, tmp_path: Path) -> None:
    tell("export", "mean(abs(r), 'n')", "--space", "regression", "--to", tmp_path / "mae.json")
    assert json.loads((tmp_path / "mae.json").read_text())["formula"] == "mean(abs(r), 'n')"
    with pytest.raises(LossSearchError, match="'r'"):
        tell("export", "mean(abs(r), 'n')", "--to", tmp_path / "no.json")


def test_constants_are_set_wherever_a_formula_is_named(tell, tmp_path: Path) -> None:
    formula = "mean(softplus(a * abs(r)) * b, 'n')"
    tell(
        "export", formula, "--space", "regression", "--set", "a=2.5", "--set", "b=0.5",
        "--to", tmp_path / "mine.json",
    )  # fmt: skip
    constants = json.loads((tmp_path / "mine.json").read_text())["constants"]
    assert {name: c["value"] for name, c in constants.items()} == {"a": 2.5, "b": 0.5}


def test_an_exported_loss_passes_its_own_check(tell, tmp_path: Path) -> None:
    tell("export", "focal", "--to", tmp_path / "focal.py")
    report = json.loads(tell("check", tmp_path / "focal.py", "--json"))
    assert report["passed"] is True


def test_so_does_a_loss_of_named_tensors_by_its_name_and_as_a_file(tell, tmp_path: Path) -> None:
    tell("export", "giou", "--to", tmp_path / "giou.py")
    for what in ("giou", tmp_path / "giou.py"):
        report = json.loads(tell("check", what, "--only", "numbers,gradients", "--json"))
        assert (report["passed"], report["task"]) == (True, "boxes")


def test_a_loss_that_breaks_its_contract_fails_the_check(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "import torch\n"
        "class Bad(torch.nn.Module):\n"
        "    def forward(self, input, target):\n"
        "        return input.sum() / 0\n"
    )
    done = run("check", "bad.py", "--task", "multiclass", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert done.stdout


# Mistakes.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["leaderboard", "dmo"], "'dmo'"),
        (["audit", "dmo"], "'dmo'"),
        (["show", "focl"], "Did you mean 'focal'"),
        (["show", "giuo"], "Did you mean 'giou'"),
        (["show", "demo"], "demo/1"),
        (["show", "demo/999"], "no rank 999"),
        (["show", "demo@999"], r"2\d proposals"),
        (["losses", "--space", "binry"], "'binary'"),
        (["run", "binry", "--proxy", "breast-cancer-noisy"], "'binary'"),
        (["run", "binary", "--proxy", "breast-cancer-nosy"], "'breast-cancer-noisy'"),
        (["run", "binary", "--proxy", "no/such.py:task"], "no/such.py"),
        (["run", "binary", "--proxy", "diabetes"], "regression"),
        ([*TASK, "--time", "soon"], "3m"),
        ([*TASK, "--time", "3s", "--candidates", "3"], "one budget"),
        ([*TASK, "--candidates", "0"], "candidates >= 1"),
        ([*TASK, "--candidates", "3", "--deadline", "never"], "90s"),
        ([*TASK, "--candidates", "3", "--start", "bcee"], "bce"),
        ([*TASK, "--candidates", "30", "--name", "demo", "--seed", "7"], "seed"),
        (["audit", "demo", "--splits", "1"], "splits >= 2.* got splits=1, settings=32"),
        (["export", "focal", "--to", "no/such/folder.py"], "No such file"),
        (["ablate", "mean(abs(r), 'n')", "--space", "regression"], "name the task"),
        (["export", "focal", "--to", "a.py", "--format", "word"], "torch, json, latex"),
        (["check", "no_such.py"], "no_such.py"),
        (["check", "focl"], "focal"),
        (["check", "focal", "--only", "speed"], "'speed'"),
        (["show", "focal", "--against", "focl"], "focl"),
        (["show", "focal", "--against", "mse"], "no loss 'mse'"),
        (["show", "focal", "--plot", "focal.gif"], ".png or .svg"),
        (["show", "focal", "--plot", "no/such/focal.png"], "No such file"),
        (["show", "focal", "--set", "gamma"], "NAME=NUMBER"),
        (["show", "focal", "--set", "gamma=9"], "outside its range"),
        (["show", "mean(-log(p_x), 'n')"], "p_x"),
        (["show", "l1_regulariser", "--plot", "l1.png"], "Nothing to draw"),
        (["suggest", "multiclss"], "'multiclass'"),
        (["suggest", "multiclass", "--outliers"], "imbalance, label-noise"),
        (["searches", "--storage", "mysql://host/base"], "not supported"),
        (["searches", "--storage", "postgresql"], "does not exist|URL"),
        (["searches", "--storage", "sqlite:///no.db"], "does not exist"),
        (["searches", "--storage", "sqlite:///run.json"], "not a SQLite database"),
        (["searches", "--storage", "sqlite:///foreign.db"], "no losssearch tables"),
    ],
)
def test_a_mistake_is_one_error_of_ours_and_one_line(folder, tell, words, says) -> None:
    import sqlite3

    with sqlite3.connect(folder / "foreign.db") as foreign:
        foreign.execute("create table if not exists other (x)")
    foreign.close()
    with pytest.raises(LossSearchError, match=says) as caught:
        tell(*words)
    assert "\n" not in str(caught.value)


def test_a_mistake_is_one_line_on_stderr_and_code_2(folder: Path) -> None:
    fails(run("leaderboard", "dmo", cwd=folder), "holds no search 'dmo'.*demo")
    fails(run("run", "binry", "--proxy", "digits", cwd=folder), "'binry'.*'binary'")
    fails(run("searches", cwd=folder, LOSSSEARCH_STORAGE="mysql://h/b"), "not supported")


def test_a_password_is_never_printed(folder: Path) -> None:
    url = "postgresql://me:sesame@127.0.0.1:1/base"
    done = run("searches", "--storage", url, cwd=folder)
    fails(done, "127.0.0.1")
    assert "sesame" not in done.stderr


@pytest.mark.parametrize("words", [["run", "binary", "--bogus"], ["run"], ["no-such-command"]])
def test_a_word_that_no_command_knows_is_a_usage_error(folder: Path, words) -> None:
    done = run(*words, cwd=folder)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_file_that_is_there_is_replaced_only_on_demand(folder: Path) -> None:
    (folder / "mine.py").write_text("precious")
    fails(run("export", "bce", "--to", "mine.py", cwd=folder), "mine.py: the file exists")
    assert (folder / "mine.py").read_text() == "precious"
    done = run("export", "bce", "--to", "mine.py", "--force", cwd=folder)
    assert done.returncode == 0
    assert done.stderr == "Wrote mine.py.\n"
    assert "class" in (folder / "mine.py").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_can_be_read_but_not_searched(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "losses.db"
    file.write_bytes((folder / "losses.db").read_bytes())
    file.chmod(stat.S_IRUSR)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert run("leaderboard", "demo", cwd=tmp_path).returncode == 0
        fails(run(*TASK, "--candidates", "3", cwd=tmp_path), "read-only")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_closed_pipe_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m losssearch losses --json | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


# Where it is started, and how it ends.


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A current folder whose own packages and modules have our names and end the program."""
    for package in ("workers", "dashboards", "search_spaces", "losssearch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise SystemExit('{package} is mine')")
    return tmp_path


@pytest.mark.parametrize("workers", ["inline", "processes:2"])
def test_a_users_folders_do_not_disturb_a_search(crowded: Path, workers: str) -> None:
    program = [Path(sys.executable).parent / "losssearch", *TASK, "--candidates", "3"]
    done = subprocess.run(
        [*map(str, program), "--workers", workers, "--json", "--quiet"],
        cwd=crowded, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)[0]["chosen"] is True
    assert "is mine" not in done.stderr


def test_a_users_folders_do_not_disturb_the_dashboard(crowded: Path) -> None:
    program = Path(sys.executable).parent / "losssearch"
    done = subprocess.run(
        [str(program), "dashboard", "--help"],
        cwd=crowded, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--port" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["inline", "processes:1"])
def test_ctrl_c_keeps_the_results_and_the_same_command_goes_on(tmp_path, workers: str) -> None:
    words = [*COMMAND, *TASK, "--candidates", "1000", "--workers", workers, "--start", "bce"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as search:
        try:
            assert search.stderr is not None
            assert search.stderr.readline().startswith("search ")
            until = time.monotonic() + 60
            while not proposals(tmp_path) and time.monotonic() < until:
                time.sleep(0.2)
            search.send_signal(signal.SIGINT)
            out, err = search.communicate(timeout=30)
        finally:
            search.kill()
    assert search.returncode == 130
    assert out == ""
    *progress, last = err.splitlines()
    assert last.startswith("losssearch: Interrupted. All results so far are kept")
    assert all(line.startswith("search ") for line in progress)
    before = proposals(tmp_path)
    assert before
    words[words.index("1000")] = str(len(before))
    again = run(*words[len(COMMAND) :], "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0]["loss"] == "search/1"
    assert proposals(tmp_path)[: len(before)] == before


def proposals(folder: Path) -> list[tuple[int, str]]:
    """What the search there has proposed and committed."""
    try:
        with Store.open(f"sqlite:///{folder}/losses.db", read_only=True) as store:
            return [(row.number, row.formula) for row in store.proposals("search")]
    except LossSearchError:
        return []
