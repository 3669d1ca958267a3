"""Runs the server as `python -m app` does, and writes its number of asyncio tasks to a file on SIGUSR1.

`python -m tests.soak_server FILE`; the settings come from the environment.
"""

import asyncio
import signal
import sys
from pathlib import Path

import uvicorn

from app.api.http_protocol import DeadlineProtocol
from app.core.config import load_settings
from app.main import create_app


async def serve(file: Path) -> None:
    settings = load_settings()
    config = uvicorn.Config(
        create_app(settings), port=settings.port, log_config=None, http=DeadlineProtocol, access_log=False
    )

    def write() -> None:
        file.with_suffix(".new").write_text(str(len(asyncio.all_tasks())))
        file.with_suffix(".new").rename(file)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
