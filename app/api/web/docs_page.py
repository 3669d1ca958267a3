"""Serves the page at /docs, with all its files on this server, and the OpenAPI schema that it shows."""

import asyncio
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles

from app.api.middleware import ASSETS

SCHEMA = "/openapi.json"

_BOUNDS = ("minimum", "maximum")
_MAX_INT = 2**63 - 1


class DescribedApp(FastAPI):
    """An application whose OpenAPI schema is built at its first use, because that takes half a second."""

    def __init__(self, **options: Any) -> None:  # Any: as FastAPI types them
        super().__init__(openapi_url=None, **options)
        self._schema: dict[str, Any] | None = None  # Any: JSON
        self._building = threading.Lock()

    def openapi(self) -> dict[str, Any]:  # Any: JSON
        """Returns the schema. Takes half a second the first time, so do not call it on the event loop."""
        with self._building:
            if self._schema is None:
                with _alias_warnings_ignored():
                    self._schema = _with_whole_bounds(super().openapi())
            return self._schema


def build_validators(app: FastAPI) -> None:
    """Builds the validators of all bodies and replies, which takes 0.1 s. No request should wait for it."""
    with _alias_warnings_ignored():
        for context in iter_route_contexts(app.routes):
            _build_of(context)
            _build_of(context.original_route)  # its body is that of `ParsedRoute`


def _build_of(route: RouteContext | BaseRoute) -> None:
    for name in ("body_field", "response_field"):
        if (field := getattr(route, name, None)) is not None:
            field.validate(None)  # the first validation builds the validator


@contextmanager
def _alias_warnings_ignored() -> Iterator[None]:
    """Ignores that Pydantic warns of the alias of each body, which FastAPI sets, when it builds a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)
        yield


def add_docs_page(app: FastAPI) -> None:
    """Adds Swagger UI at /docs, and the schema at /openapi.json."""
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]), name="docs-assets")
    app.add_route("/docs", _page, include_in_schema=False)
    app.add_route(SCHEMA, _schema, include_in_schema=False)


async def _schema(request: Request) -> Response:
    schema = await asyncio.to_thread(request.app.openapi)
    root = _root(request)
    return JSONResponse(schema | {"servers": [{"url": root}]} if root else schema)


async def _page(request: Request) -> Response:
    root = _root(request)
    return get_swagger_ui_html(
        openapi_url=f"{root}{SCHEMA}",
        title=request.app.title,
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon-32x32.png",
        swagger_ui_parameters={
            "tryItOutEnabled": True,
            "persistAuthorization": True,
            "displayRequestDuration": True,
            "defaultModelsExpandDepth": 0,
            "validatorUrl": None,  # a validator would send the schema to another site
        },
    )


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def _with_whole_bounds(schema: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Returns the schema with integers as the bounds of integers.

    FastAPI writes every bound as a float, and the float nearest to the largest seed exceeds it.
    """
    for model in schema["components"]["schemas"].values():
        for field in model.get("properties", {}).values():
            for part in (field, *field.get("anyOf", ())):
                if part.get("type") == "integer":
                    part |= {bound: min(int(part[bound]), _MAX_INT) for bound in _BOUNDS if bound in part}
    return schema
