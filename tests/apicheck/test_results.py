"""The table of results that client_test.py prints."""

import io

from rich.console import Console

from app.apicheck.checks import CHECKS
from app.apicheck.menu import shown_route
from app.apicheck.runner import Outcome
from client_test import result_table


def test_results_show_complete_routes_at_80_columns() -> None:
    output = io.StringIO()
    outcomes = [Outcome(check, None, 12.3) for check in CHECKS]
    Console(file=output, width=80).print(result_table(outcomes, "Checks of http://127.0.0.1:8000"))
    lines = output.getvalue().splitlines()
    assert all(any(line.startswith(shown_route(check.route)) for line in lines) for check in CHECKS)
    assert "…" not in output.getvalue() and any("{id}/regenerate" in line for line in lines)
