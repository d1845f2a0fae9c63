"""A real browser sees formula and curve, in light and dark, and has nothing to complain of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboards.conftest import Site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: chromium): no page was opened in a browser.")
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: no page was opened."
    )
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_formula_and_curves_are_visible_and_the_console_is_silent(
    browser: Any, site: Site, scheme: str
) -> None:
    page = browser.new_page(color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith(site.url) else elsewhere.append(request.url),
    )
    page.goto(f"{site.url}/losses/demo")
    picture = page.locator("img.formula").first
    picture.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    assert picture.evaluate("image => image.naturalWidth") > 40
    page.locator("td.math a").first.click()
    page.wait_for_url(f"{site.url}/losses/demo/1")
    formula = page.locator(".hero svg.formula").first.bounding_box()
    assert formula["width"] > 100
    assert 15 < formula["height"] < 300
    own = page.locator(".chart path.own").first
    assert own.is_visible()
    assert own.bounding_box()["width"] > 200
    back, front = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (back, front)]
    assert (light[0] > light[1]) == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
    assert complaints == []
    assert elsewhere == []


def test_optuna_dashboard_shows_the_study(browser: Any, site: Site) -> None:
    page = browser.new_page()
    page.goto(f"{site.url}/dashboard")
    page.get_by_text("demo").first.wait_for(timeout=60_000)
    page.close()
