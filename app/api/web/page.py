"""Serves the web page at /ui, and at / to browsers, and its files below /ui.

The page's policy allows nothing from other sites, no script and no style inside the page, and no text that
becomes HTML: its modules build every element by themselves.
"""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.paths import PAGE

FOLDER = Path(__file__).resolve().parents[2] / "ui"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache",  # browsers ask with the ETag each time, so an update is never half seen
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",  # a link in an answer must not make the browser look up its host
}


class PageFiles(StaticFiles):
    """The files of the page, each with its headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


_files = PageFiles(directory=FOLDER)


def prefers_page(request: Request) -> bool:
    """Returns whether the request is that of a browser which opens an address."""
    return "text/html" in request.headers.get("accept", "")


async def page(request: Request) -> Response:
    return await _files.get_response("index.html", request.scope)


def add_page(app: FastAPI) -> None:
    """Adds the page at /ui, and its files, which are compressed for browsers that take gzip."""
    app.add_route(PAGE, page, include_in_schema=False)
    app.add_route(f"{PAGE}/", _without_slash, include_in_schema=False)
    app.mount(PAGE, GZipMiddleware(_files), name="page-files")


async def _without_slash(request: Request) -> Response:
    """The page names its files relative to /, so that they are found below any prefix."""
    return RedirectResponse(f"..{PAGE}")
