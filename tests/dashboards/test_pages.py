"""Every page answers, says what the store knows, and survives what the store should not hold."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from losssearch.records import candidate_row
from losssearch.spaces import load_space, space_names
from losssearch.store.rows import CandidateRow, ProposalRow
from losssearch.store.store import Store
from tests.dashboards.conftest import COUNTS, Site, fill, serving

HOSTILE = "<script>alert(1)</script>\"'{{7*7}}"


class TestList:
    def test_it_names_every_search_with_counts_and_best(self, site: Site) -> None:
        page = site.ask("/losses")
        assert page.status == 200
        for words in (
            'href="/losses/demo"',
            "finished",
            "digits-noisy",
            "0.2000",
            "/losses/demo/1",
        ):
            assert words in page.text

    def test_the_root_leads_to_it(self, site: Site) -> None:
        answer = site.ask("/")
        assert (answer.status, answer.headers["location"]) == (302, "/losses")

    def test_an_unchanged_page_is_not_sent_again(self, site: Site) -> None:
        tag = site.ask("/losses/classical/binary").headers["etag"]
        again = site.ask("/losses/classical/binary", If_None_Match=tag)
        assert (again.status, again.text) == (304, "")

    def test_an_empty_store_says_how_to_begin(self, tmp_path: Path) -> None:
        Store.open(f"sqlite:///{tmp_path}/l.db").close()
        with serving(f"sqlite:///{tmp_path}/l.db") as site:
            assert "losssearch run" in site.ask("/losses").text


class TestSearch:
    def test_it_shows_screens_chart_leaderboard_and_audit(self, site: Site) -> None:
        page = site.ask("/losses/demo").text
        for words in (
            "probe", "25 %", "best so far", "chosen", "cross entropy", "a variant of x",
            "mutation: add", "is better than the best tuned classical loss, mae", "−0.0200",
            "[−0.0300, −0.0100]",
        ):  # fmt: skip
            assert words in page, words

    def test_every_link_on_it_answers(self, site: Site) -> None:
        page = site.ask("/losses/demo").text
        links = {part.split('"')[0] for part in page.replace('src="', 'href="').split('href="')[1:]}
        assert len(links) > 6
        for link in links:
            path = link if link.startswith("/") else f"/losses/demo{link}"
            assert site.ask(path).status == 200, path

    def test_a_page_number_that_is_none_is_the_first(self, site: Site) -> None:
        for number in ("0", "-1", "x", "²", "9" * 50):
            assert site.ask(f"/losses/demo?page={number.replace('²', '%C2%B2')}").status == 200


class TestLoss:
    def test_it_shows_formula_curves_facts_parents_and_learning(self, site: Site, keys: list[str]) -> None:
        page = site.ask("/losses/demo/1").text
        for words in (
            'class="formula"', "\\operatorname", "clip-curve-2", "half-way", "cross entropy",
            "Bounded influence", f"/losses/loss/{keys[0]}", "Learning curve on digits-noisy",
            "rate 0.1, mean of 2", "here 2.0000", "<i>c0</i> = 0.5",
        ):  # fmt: skip
            assert words in page, words

    def test_a_loss_is_found_by_its_key(self, site: Site, keys: list[str]) -> None:
        page = site.ask(f"/losses/loss/{keys[2][:10]}").text
        assert "mean(sqrt(-log_pt)" in page
        assert "proposal 2" in page

    @pytest.mark.parametrize("space", space_names())
    def test_every_classical_loss_has_its_page(self, site: Site, space: str) -> None:
        for name, loss in load_space(space).losses.items():
            page = site.ask(f"/losses/classical/{space}/{name}")
            assert page.status == 200, name
            assert loss.source.split(",")[0].split("&")[0].split("'")[0] in page.text

    @pytest.mark.parametrize("space", space_names())
    def test_the_catalogue_shows_every_loss(self, site: Site, space: str) -> None:
        page = site.ask(f"/losses/classical/{space}").text
        for name in load_space(space).losses:
            if load_space(space).loss(name).candidate.is_one:
                assert f"/losses/formula/{space}/{name}.svg" in page

    def test_a_formula_is_a_picture_without_text(self, site: Site, keys: list[str]) -> None:
        answer = site.ask(f"/losses/formula/{keys[1]}.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        root = ElementTree.fromstring(answer.text)
        tags = {e.tag.rpartition("}")[2] for e in root.iter()}
        assert tags <= {"svg", "style", "symbol", "path", "use", "rect", "g"}


def test_a_space_of_the_users_own_has_its_pages(tmp_path: Path) -> None:
    mine = tmp_path / "my-own.toml"
    mine.write_bytes(load_space("binary").path.read_bytes())
    space = load_space(mine)
    row = candidate_row(space.losses["hinge"].program, space)
    with Store.open(f"sqlite:///{tmp_path}/l.db") as store:
        search = store.open_search("mine", str(mine), "p", "random", {}, 0)
        proposal = ProposalRow(0, row.key, row.parts["loss"], "growth", "SCORED", score=0.1)
        store.commit_round(search, 0, [proposal], {}, {}, 1.0, candidates=[row])
    with serving(f"sqlite:///{tmp_path}/l.db") as site:
        assert "clip-curve-1" in site.ask("/losses/mine/1").text
        assert "squared hinge" in site.ask("/losses/classical/my-own").text
        mine.unlink()
        assert site.ask("/losses/mine").status == 200
        assert "cannot be read any more" in site.ask("/losses/mine/1").text
        assert site.ask("/losses/classical/my-own").status == 404


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        "path",
        ["/losses/nope", "/losses/demo/99", "/losses/loss/abcdef", "/losses/classical/nope",
         "/losses/classical/binary/nope", "/losses/a/b/c", "/losses/formula/abcdef.svg",
         "/losses/%3Cb%3E", "/losses/classical/..%2F..%2Fx.toml", "/losses/static/..%2Fpages.py"],
    )  # fmt: skip
    def test_an_unknown_name_is_a_friendly_404(self, site: Site, path: str) -> None:
        page = site.ask(path)
        assert page.status in (403, 404)
        assert "Traceback" not in page.text
        assert "<b>" not in page.text.replace("<b>losssearch", "")

    def test_a_near_miss_is_told(self, site: Site) -> None:
        assert "Did you mean &#39;demo&#39;?" in site.ask("/losses/demoo").text

    def test_a_database_that_goes_away_is_a_friendly_503_until_it_is_back(self, tmp_path: Path) -> None:
        url, file = f"sqlite:///{tmp_path}/l.db", tmp_path / "l.db"
        fill(url)
        with serving(url) as site:
            os.rename(file, tmp_path / "away")
            for path in ("/losses", "/losses/demo", "/losses/demo/1", "/dashboard"):
                page = site.ask(path)
                assert page.status == 503, path
                assert page.headers["cache-control"] == "no-store"
                assert "Traceback" not in page.text
            os.rename(tmp_path / "away", file)
            assert site.ask("/losses/demo").status == 200


def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    keys = fill(url)
    with sqlite3.connect(tmp_path / "l.db") as raw:
        parts = json.dumps({"loss": HOSTILE})
        raw.execute("UPDATE ls_candidate SET parts = ?, source = ? WHERE key = ?",
                    (parts, HOSTILE, keys[1]))  # fmt: skip
        raw.execute("UPDATE ls_candidate SET constants = ?", ('{"<img src=x>": [1, 0, 2]}',))
        raw.execute("UPDATE ls_proposal SET origin = ?, detail = ?", (HOSTILE, HOSTILE))
        raw.execute("UPDATE ls_search SET proxy = ?, space = ?", (HOSTILE, HOSTILE))
        raw.execute("UPDATE ls_audit SET rows = replace(rows, 'mae', '<script>x')")
    raw.close()
    with serving(url) as site:
        for path in ("/losses", "/losses/demo", "/losses/demo/1", f"/losses/loss/{keys[1]}"):
            page = site.ask(path)
            assert page.status == 200, path
            assert "<script" not in page.text
            assert "<img src=x" not in page.text
            assert "49" not in page.text.replace("0.49", "")
        assert "cannot be read any more" in site.ask("/losses/demo/1").text
        assert "&lt;script&gt;" in site.ask("/losses/demo").text


def test_a_large_search_is_listed_in_half_a_second(tmp_path: Path) -> None:
    url, many = f"sqlite:///{tmp_path}/l.db", 2000
    rows = [
        CandidateRow(f"{i:032x}", "multiclass", {"loss": "mean(-log_pt, 'n')"}, "x", "s", i % 20)
        for i in range(many)
    ]
    proposals = [
        ProposalRow(i, row.key, row.parts["loss"], "growth", "SCORED", score=1 - i / many / 2)
        for i, row in enumerate(rows)
    ]
    with Store.open(url) as store:
        search = store.open_search("big", "multiclass", "digits", "random", {}, 0)
        store.commit_round(search, 0, proposals, COUNTS, {}, 1.0, candidates=rows)
    with serving(url) as site:
        for path in ("/losses", "/losses/big"):
            site.ask(path)
            took = []
            for _ in range(5):
                began = time.perf_counter()
                page = site.ask(path)
                took.append(time.perf_counter() - began)
            assert min(took) < 0.5, (path, took)
            assert len(page.text) < 200_000
