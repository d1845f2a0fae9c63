"""Which address shows what? The routes under `/losses`, each a template and its values.

    /losses                            the searches of the database
    /losses/SEARCH                     one search: screens, scores, leaderboard, audit
    /losses/SEARCH/RANK                one loss of its leaderboard
    /losses/loss/KEY                   one loss, by the start of its key
    /losses/formula/KEY.svg            its formula as a picture
    /losses/classical/SPACE[/NAME]     the catalogue of a space, and one loss of it

Pages hold no script. They are made anew for each request and carry a hash, so that a browser that
has the same one is told so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bottle
import jinja2

from dashboards import formulas, loss_view, search_view
from losssearch.errors import LossSearchError, SpaceError, StoreError, UsageError
from losssearch.language.latex import to_latex
from losssearch.records import program_of_row
from losssearch.spaces import Space, load_space, space_names
from losssearch.store.store import Store

HERE = Path(__file__).parent
CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A picture of its own may carry its few rules for the colour scheme.
PICTURE_CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class Pages:
    """The application under `/losses`; `store` is read, never written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "number": formulas.number,
            "short": formulas.short,
            "signed": formulas.signed,
            "firsts": search_view.first_values,
            "stem": lambda space: Path(space).stem,
            "ago": ago,
            "duration": duration,
        }
        self._jinja.globals |= {"formula": formulas.svg, "database": store.url}
        self.app = bottle.Bottle()
        routes: dict[str, Callable[..., Any]] = {
            "/losses": self.searches,
            "/losses/": self.searches,
            "/losses/static/<name>": self.static,
            "/losses/formula/<key:re:[0-9a-f]{6,64}>.svg": self.formula,
            "/losses/formula/<space>/<name>.svg": self.classical_formula,
            "/losses/<search>/<rank:re:[0-9]{1,5}>": self.ranked,
            "/losses/loss/<key:re:[0-9a-f]{6,64}>": self.loss,
            "/losses/classical/<space>": self.catalogue,
            "/losses/classical/<space>/<name>": self.classical,
            "/losses/<search>": self.search,
        }
        for path, page in routes.items():
            self.app.route(path, "GET", self._answering(page))
        nothing = "There is no such page. The list of searches leads to all that there are."
        self.app.error_handler[404] = lambda error: self._failed(404, nothing)
        self.app.error_handler[500] = lambda error: self._failed(
            500, "This page has a fault. The program's output says more."
        )

    # Pages.

    def searches(self) -> bytes:
        spaces = [load_space(name) for name in space_names()]
        return self._page("searches.html", found=search_view.overviews(self._store), spaces=spaces)

    def search(self, search: str) -> bytes:
        page = str(bottle.request.query.get("page", "1"))
        number = int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 6 else 1
        return self._page("search.html", **search_view.search_page(self._store, search, max(number, 1)))

    def ranked(self, search: str, rank: str) -> bytes:
        name = f"{search}/{int(rank)}"
        found = self._store.find(name)
        page = loss_view.stored_page(self._store, found.candidate, name, found.search, found.proposal)
        return self._page("loss.html", rank=int(rank), **page)

    def loss(self, key: str) -> bytes:
        candidate = self._store.find(key).candidate
        heading = candidate.name or f"loss {candidate.key[:8]}"
        page = loss_view.stored_page(self._store, candidate, heading)
        return self._page("loss.html", rank=0, **page)

    def catalogue(self, space: str) -> bytes:
        return self._page("catalogue.html", space=self._space(space), names=space_names())

    def classical(self, space: str, name: str) -> bytes:
        place = self._space(space)
        page = loss_view.classical_page(self._store, place.loss(name), place)
        return self._page("loss.html", rank=0, **page)

    # Files.

    def formula(self, key: str) -> bytes:
        candidate = self._store.find(key).candidate
        program = program_of_row(candidate, load_space(candidate.space))
        return self._picture(to_latex(program))

    def classical_formula(self, space: str, name: str) -> bytes:
        return self._picture(to_latex(self._space(space).loss(name).program))

    def static(self, name: str) -> Any:
        bottle.response.content_type = ""
        found = bottle.static_file(name, root=HERE / "static")
        found.set_header("Cache-Control", "no-cache")
        return found

    # How a page is answered.

    def message(self, status: str, title: str, why: str) -> bytes:
        """A page that only says something."""
        template = self._jinja.get_template("message.html")
        return template.render(status=status, title=title, why=why).encode()

    def _answering(self, page: Callable[..., Any]) -> Callable[..., Any]:
        def answer(**parts: str) -> Any:
            try:
                return page(**parts)
            except StoreError as error:
                return self._failed(503, str(error))
            except (UsageError, SpaceError) as error:
                return self._failed(404, str(error))
            except LossSearchError as error:
                return self._failed(500, str(error))

        return answer

    def _page(self, name: str, **values: Any) -> bytes:
        body = self._jinja.get_template(name).render(**values).encode()
        return self._sent(body, "text/html; charset=utf-8", "no-cache", CSP)

    def _picture(self, latex: str) -> bytes:
        body = formulas.picture(latex)
        if body is None:
            raise UsageError("This formula cannot be drawn.")
        return self._sent(body, "image/svg+xml", "private, max-age=86400", PICTURE_CSP)

    def _sent(self, body: bytes, kind: str, cache: str, policy: str) -> bytes:
        response, tag = bottle.response, f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        response.set_header("Content-Type", kind)
        response.set_header("Cache-Control", cache)
        response.set_header("Content-Security-Policy", policy)
        response.set_header("ETag", tag)
        if tag in str(bottle.request.get_header("If-None-Match", "")):
            response.status = 304
            return b""
        return body

    def _failed(self, status: int, why: str) -> bytes:
        titles = {404: "Not found", 503: "The database does not answer"}
        response = bottle.response
        response.status = status
        response.set_header("Content-Type", "text/html; charset=utf-8")
        response.set_header("Cache-Control", "no-store")
        response.set_header("Content-Security-Policy", CSP)
        return self.message(response.status_line, titles.get(status, "Something went wrong"), why)

    def _space(self, name: str) -> Space:
        """A shipped space, or a user's own that a search of this database is about."""
        if name not in space_names():
            for search in self._store.searches():
                if search.space.endswith(".toml") and Path(search.space).stem == name:
                    return load_space(search.space)
            raise SpaceError(f"There is no space {name!r}. There are {', '.join(space_names())}.")
        return load_space(name)


def ago(moment: datetime) -> str:
    """`3 min ago`."""
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """`0.4 s`, `38 s`, `4 min`, `2.5 h`, `3 days`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s" if seconds >= 0.05 else f"{max(seconds, 0) * 1e3:.0f} ms"
    for size, unit, digits in ((60, "s", 0), (3600, "min", 0), (86400, "h", 1)):
        if seconds < size * (2 if unit == "s" else 1):
            return f"{seconds / {'s': 1, 'min': 60, 'h': 3600}[unit]:.{digits}f} {unit}"
    return f"{seconds / 86400:.0f} days"
