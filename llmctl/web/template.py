"""The templates: pages and the parts that are sent again when they change. Whatever comes from outside is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.web.sessions import cookies
from llmctl.web.texts import FILTERS, as_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

HERE = Path(__file__).parent
STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
THEMES = ("light", "dark")
THEME_COOKIE = "llmctl_theme"


class Templates:
    """Pages as answers."""

    def __init__(self) -> None:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.style = static("page.css").decode()
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, finalize=as_text, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._pages.filters.update(FILTERS)
        self._pages.globals.update({"style": None, "live": None, "here": None})
        self._parts: Any = self._pages.get_template("parts.html").module

    def part(self, name: str, *values: Any) -> str:
        """One macro of parts.html."""
        return str(getattr(self._parts, name)(*values))

    def page(self, request: Request, name: str, status: int = 200, alone: bool = False, **values: Any) -> Response:
        """A whole page; `alone`: with its style in it, for who may not fetch anything else."""
        from markupsafe import Markup
        from starlette.responses import HTMLResponse

        theme = cookies(request.scope).get(THEME_COOKIE)
        style = Markup(self.style) if alone else None
        text = self._pages.get_template(name).render(
            visitor=request.state.visitor,
            path=request.url.path,
            theme=theme if theme in THEMES else None,
            style=style,
            **values,
        )
        return HTMLResponse(text, status, {"Cache-Control": "no-store"})


def static(name: str) -> bytes:
    """A file that pages fetch."""
    return (HERE / "static" / name).read_bytes()
