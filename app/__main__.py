"""Runs the server at the host and port in its settings: `python -m app`."""

import gc
import sys
from functools import partial

from app import command_line
from app.core.config import Settings, SettingsError, load_settings
from app.core.machine import allow_many_open_files, open_files_limit
from app.core.telemetry.logging import configure
from app.engine.ipc.launcher import WorkerLauncher
from app.lifecycle import StartError, check_address, check_open_files, stop_at_end_of_stdin

_MAX_BACKLOG = 2048
_GRACE_S = 10  # the time that open replies have to end after SIGTERM


def main() -> None:
    options = command_line.parse()
    if options.exit_on_stdin_close:
        stop_at_end_of_stdin()
    try:
        settings = load_settings(**options.settings)
        check_address(settings.host, settings.port)
        launcher = WorkerLauncher(settings.fork_server, settings.log_format)
        launcher.start()
        try:
            _serve(settings, launcher)
        finally:
            launcher.close()
    except SettingsError as error:
        sys.exit(f"Wrong settings. {error}")
    except StartError as error:
        sys.exit(str(error))


def _serve(settings: Settings, launcher: WorkerLauncher) -> None:
    # Imported here, while the fork server imports torch, so that the first reply comes sooner.
    import uvicorn

    from app.api.http_protocol import DeadlineProtocol
    from app.composition import build_services
    from app.main import create_app

    app = create_app(settings, partial(build_services, launcher=launcher))
    configure(settings.log_level, settings.log_format)
    allow_many_open_files()
    check_open_files()
    gc.freeze()  # a full collection of what lives as long as the server would stop its event loop for 60 ms
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        workers=1,  # even if WEB_CONCURRENCY is set, because conversations live in this process
        log_config=None,
        http=DeadlineProtocol,
        backlog=min(_MAX_BACKLOG, open_files_limit() // 8),  # asyncio may accept all of it at once
        timeout_graceful_shutdown=_GRACE_S,
    )


if __name__ == "__main__":
    main()
