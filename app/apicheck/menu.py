"""A menu for calling the routes by hand. It offers what the server's OpenAPI schema describes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import httpx
from httpx_sse import EventSource
from rich.console import Console
from rich.markup import escape
from rich.prompt import Prompt
from rich.table import Table

LEAVING = ("0", "exit", "quit", "q")
Schema = Mapping[str, Any]  # Any: an OpenAPI document


def shown_route(route: str) -> str:
    """Returns the route with a short path parameter, to fit into a table. Only conversation ids occur."""
    return route.replace("{conversation_id}", "{id}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A route of the schema, with the first example of its body."""

    method: str
    path: str
    description: str
    example: str | None

    @property
    def parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


def operations_of(schema: Schema) -> list[Operation]:
    return [
        Operation(method.upper(), path, operation.get("description", ""), _example(operation))
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]


def _example(operation: Schema) -> str | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [json.dumps(example["value"]) for example in content.get("examples", {}).values()]
    return examples[0] if examples else None


class Menu:
    """Asks for a route and its parameters, and shows the response, until the user leaves."""

    def __init__(self, http: httpx.Client, console: Console, user_input: TextIO | None = None) -> None:
        """Reads from `user_input`, by default standard input."""
        self.http = http
        self.console = console
        self.user_input = user_input
        self.answers: dict[str, str] = {}  # the last value of each parameter, offered as the default

    def run(self) -> None:
        operations = operations_of(self.http.get("/openapi.json").raise_for_status().json())
        choices = ["?", *LEAVING, *(str(number) for number in range(1, len(operations) + 1))]
        chosen = "?"
        while chosen not in LEAVING:
            if chosen == "?":
                self._show(operations)
            else:
                self._call(operations[int(chosen) - 1])
            chosen = Prompt.ask(
                "Route",
                choices=choices,
                case_sensitive=False,
                show_choices=False,
                console=self.console,
                stream=self.user_input,
            )

    def _show(self, operations: list[Operation]) -> None:
        table = Table(box=None, header_style="bold")
        table.add_column()
        table.add_column("Route", no_wrap=True)
        table.add_column()
        for number, operation in enumerate(operations, 1):
            first_sentence = operation.description.partition(". ")[0]
            route = shown_route(f"{operation.method} {operation.path}")
            table.add_row(str(number), route, first_sentence)
        table.add_row("?", "show this list again", "")
        table.add_row("0", "leave, also: exit, quit, q", "")
        self.console.print(table)

    def _call(self, operation: Operation) -> None:
        path = operation.path
        for name in operation.parameters:
            path = path.replace(f"{{{name}}}", self._ask(name, self.answers.get(name, "")))
        body = None if operation.example is None else self._ask("Body", operation.example)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with self.http.stream(operation.method, path, content=body, headers=headers) as response:
                self._print(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self.console.print(f"The request failed: {error}", style="red", markup=False)

    def _ask(self, name: str, default: str) -> str:
        answer = Prompt.ask(escape(name), default=default, console=self.console, stream=self.user_input)
        self.answers[name] = answer or default
        return self.answers[name]

    def _print(self, response: httpx.Response) -> None:
        style = "green" if response.is_success else "red"
        self.console.print(f"{response.status_code} {response.reason_phrase}", style=style)
        if "text/event-stream" in response.headers.get("content-type", ""):
            for event in EventSource(response).iter_sse():
                self.console.print(f"{event.event}: {event.data}", markup=False)
                self._remember(json.loads(event.data))
            return
        reply = json.loads(response.read())
        self._remember(reply)
        self.console.print_json(data=reply)

    def _remember(self, reply: Mapping[str, Any]) -> None:  # Any: JSON
        if reply.get("conversation_id"):
            self.answers["conversation_id"] = reply["conversation_id"]
