"""`python -m app`: the server, at the host and port of the settings."""

import sys

import uvicorn

from app.core.config import SettingsError, load_settings
from app.core.logging import configure
from app.main import create_app

_GRACE_S = 10  # for open answers to end after SIGTERM


def main() -> None:
    try:
        settings = load_settings()
        app = create_app(settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings. {error}")
    configure(settings.log_level)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
    )


if __name__ == "__main__":
    main()
