"""Checks a running server over HTTP, route by route.

Exit status: 0 all checks passed, 1 some failed, 2 invalid options, 3 no server.
"""

import argparse
import sys
import time

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.apicheck.checks import CHECKS
from app.apicheck.menu import Menu, shown_route
from app.apicheck.runner import Outcome, Target, run_checks
from app.cli.errors import ClientError
from app.cli.net.address import Address, address_of
from app.cli.net.environment import certificates_for, proxy_for
from app.cli.net.failures import unreachable
from app.cli.net.server import default_address, url_of
from app.cli.output.console import SafeConsole
from app.cli.preferences import read_environment

USAGE, UNREACHABLE = 2, 3
TIMEOUT = httpx.Timeout(120, connect=3)
LOAD_TIMEOUT_S = 600  # for the model to be loaded before the checks begin
POLL_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    console = SafeConsole()
    try:
        options = parse(arguments)
        address = address_of(options.url, options.api_key)
        http = open_client(address)
    except ClientError as error:
        print_error(console, error)
        return USAGE
    with http:
        try:
            wait_until_loaded(http, console)
        except httpx.TransportError as error:
            print_error(console, unreachable(address, proxy_for(address), error))
            return UNREACHABLE
        if http.get("/api/v1/chat/models").status_code == 401:
            console.print("The server requires an API key. Pass it with --api-key KEY or set LLM_API_KEY.")
            return 1
        if options.interactive:
            Menu(http, console).run()
            return 0
        return check(Target(http, has_key=bool(address.headers)), console)


def open_client(address: Address) -> httpx.Client:
    proxy = proxy_for(address)
    return httpx.Client(
        base_url=address.url,
        headers=address.headers,
        timeout=TIMEOUT,
        trust_env=False,
        proxy=None if proxy is None else proxy.url,
        verify=certificates_for(address),
    )


def print_error(console: Console, error: ClientError) -> None:
    console.print(f"{error.message} {error.hint or ''}", markup=False, soft_wrap=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    environ = read_environment()
    parser = argparse.ArgumentParser(description="Checks a running server, route by route.")
    parser.add_argument("--url", default=url_of(*default_address(environ)), help="default: %(default)s")
    parser.add_argument("--api-key", default=environ.get("LLM_API_KEY"), help="default: LLM_API_KEY")
    parser.add_argument("--interactive", action="store_true", help="call routes by hand from a menu")
    return parser.parse_args(arguments)


def wait_until_loaded(http: httpx.Client, console: Console) -> None:
    """Waits while the server is loading its model. Other problems are left to the checks."""
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    with console.status("Waiting for the model to load"):
        while is_loading(http) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def is_loading(http: httpx.Client) -> bool:
    response = http.get("/api/v1/health")
    return response.is_success and '"status":"loading"' in response.text


def check(target: Target, console: Console) -> int:
    """Runs the checks and prints their results. Returns the exit status."""
    with console.status("Checking"):
        outcomes = list(run_checks(CHECKS, target))
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    console.print(result_table(outcomes, f"Checks of {target.http.base_url}"))
    for outcome in failed:
        problem = f"{shown_route(outcome.check.route)}, {outcome.check.description}: {outcome.problem}."
        console.print(problem, style="red", markup=False)
    passed = len(outcomes) - len(failed)
    console.print(f"{passed} of {len(outcomes)} checks passed.", style="red" if failed else "green")
    return 1 if failed else 0


def result_table(outcomes: list[Outcome], title: str) -> Table:
    table = Table(box=None, title=title, header_style="bold", pad_edge=False)
    table.add_column("Route", no_wrap=True)
    table.add_column("Check", overflow="fold")
    table.add_column("Result", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for outcome in outcomes:
        result = Text("ok", "green") if outcome.problem is None else Text("failed", "red")
        route, check = shown_route(outcome.check.route), outcome.check.description
        table.add_row(route, check, result, f"{outcome.seconds * 1000:.0f}")
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EOFError:
        sys.exit(0)  # Ctrl-D leaves the menu
    except KeyboardInterrupt:
        sys.exit(130)
