"""optuna-dashboard is there, and cannot write."""

from __future__ import annotations

import json
from pathlib import Path

from losssearch.store.store import Store
from tests.dashboards.conftest import Site, fill, serving


def test_the_mirror_is_shown_from_a_path_full_of_special_characters(site: Site) -> None:
    assert site.ask("/dashboard").status == 200
    studies = json.loads(site.ask("/api/studies").text)["study_summaries"]
    assert [study["study_name"] for study in studies] == ["demo"]


def test_its_scripts_are_sent_without_an_accept_encoding(site: Site) -> None:
    page = site.ask("/dashboard").text
    script = next(part.split('"')[0] for part in page.split('src="')[1:] if ".js" in part)
    answer = site.ask("/" + script.lstrip("/."))
    assert answer.status == 200
    assert len(answer.text) > 10_000


def test_a_database_without_a_study_says_so_until_there_is_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    fill(url)
    before = (tmp_path / "l.db").read_bytes()
    with serving(url) as site:
        page = site.ask("/dashboard")
        assert page.status == 404
        assert "holds no Optuna study" in page.text
        assert site.ask("/losses/demo").status == 200
        assert (tmp_path / "l.db").read_bytes() == before
        with Store.open(url) as store:
            from losssearch.store.mirror import Mirror

            search = store.open_search("demo", "multiclass", "digits-noisy", "random", {}, 0)
            assert Mirror(store, search).update().added == 3
        assert site.ask("/dashboard").status == 200
