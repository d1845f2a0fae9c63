"""No stranger reads, and nobody writes."""

from __future__ import annotations

import pytest

from dashboards.guard import name_of
from losssearch.store.store import Store
from tests.dashboards.conftest import Site, fill, serving


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", ""]
)
@pytest.mark.parametrize("path", ["/losses", "/dashboard", "/api/studies"])
def test_a_foreign_host_name_is_refused(site: Site, host: str, path: str) -> None:
    assert site.ask(path, Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8080"])
def test_this_machine_is_let_in(site: Site, host: str) -> None:
    assert site.ask("/losses", Host=host).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/losses", "/api/studies/1", "/"])
def test_only_reading_is_allowed(site: Site, method: str, path: str) -> None:
    answer = site.ask(path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/losses", "/dashboard", "/losses/nothing", "/api/studies"])
def test_every_answer_carries_the_security_headers(site: Site, path: str) -> None:
    headers = site.ask(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"


def test_our_pages_allow_no_script(site: Site) -> None:
    policy = site.ask("/losses/demo").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_a_head_request_has_no_body(site: Site) -> None:
    answer = site.ask("/losses", "HEAD")
    assert (answer.status, answer.text) == (200, "")


def test_a_writable_server_takes_changes_from_its_own_pages_only(
    tmp_path: object,
) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    fill(url, mirror=True)
    with serving(url, writable=True) as site:
        foreign = site.ask("/api/studies/1", "DELETE", Origin="http://localhost:1")
        assert foreign.status == 403
        assert site.ask("/api/studies/1", "DELETE", Origin=site.url).status == 204
    with Store.open(url, read_only=True) as store:
        assert store.search("demo").proposals == 4  # the truth is not Optuna's to change


def test_a_host_name_is_told_from_its_port() -> None:
    assert [name_of(h) for h in ("a:80", "a", "[::1]:80", "[::1]", "a:b")] == [
        "a", "a", "[::1]", "[::1]", "a:b",
    ]  # fmt: skip
