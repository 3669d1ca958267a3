"""Names the prefixes of the APIs, and finds the path of a request below the server's own prefix."""

from starlette.types import Scope

METRICS_PATH = "/metrics"

NATIVE_PREFIX = "/api/v1"
OPENAI_PREFIX = "/v1"
ANTHROPIC_PREFIX = "/v1/messages"
MODELS_PATH = "/v1/models"  # in OpenAI's form, and in Anthropic's
RUNNING_TURNS_PATH = f"{NATIVE_PREFIX}/chat/turns"  # which each open page asks for every few seconds
PAGE = "/ui"  # the web page; its files are below


def path_below_prefix(scope: Scope) -> str:
    """Returns the path that the routes match. Behind a proxy, `root_path` is the prefix of this server."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    below = path.removeprefix(prefix)
    return below if below == "" or below.startswith("/") else path


def is_below(path: str, prefix: str) -> bool:
    """Returns whether the path, without the server's own prefix, is `prefix` or below it."""
    return path == prefix or path.startswith(f"{prefix}/")


# The names of the API's parts, in metrics. Of several prefixes of a path, the first counts.
_SURFACES = (
    (f"{NATIVE_PREFIX}/health", "health"),
    ("/health", "health"),
    (NATIVE_PREFIX, "native"),
    (ANTHROPIC_PREFIX, "anthropic"),
    (OPENAI_PREFIX, "openai"),
    (METRICS_PATH, "metrics"),
    ("/docs", "docs"),
    ("/docs-assets", "docs"),
    ("/openapi.json", "docs"),
    ("/ui", "ui"),
)


def surface_of(path: str) -> str:
    """Returns the part of the API to which the path, without the server's own prefix, belongs."""
    return next((name for prefix, name in _SURFACES if is_below(path, prefix)), "other")
