"""Requests drawn from the OpenAPI document get no server error, and no reply that it does not allow."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings as hypothesis_settings
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.core.config import Settings
from app.main import create_app
from app.models.chat.completion import TextGenerator
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from app.services import Services
from tests.api.fakes import serving
from tests.api.openai.responses.conftest import services_of
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels

LIMIT_S = 60
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = [pytest.param(5, id="5"), pytest.param(45, id="45", marks=pytest.mark.slow)]  # of each operation


def build(settings: Settings) -> Services:
    """Real services, answered by a stand-in backend."""
    backend = StandInBackend(reply=WHOLE)
    choices = ChoiceGenerator(settings, ChatGenerator(StandInModels(backend)))
    return replace(services_of(settings, backend), generator=TextGenerator(choices), choices=choices)


@pytest.fixture(scope="module")
def document() -> Iterator[BaseSchema]:
    with serving(create_app(Settings(_env_file=None, log_level="WARNING"), build)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.filterwarnings("ignore")  # Schemathesis leaves its connections to the garbage collector
@pytest.mark.parametrize("examples", EXAMPLES)
def test_every_operation_keeps_to_the_document(document: BaseSchema, examples: int) -> None:
    found = [each.ok() for each in document.get_all_operations() if isinstance(each, Ok)]
    assert len(found) > 40
    for operation in found:
        check(operation, examples)


def check(operation: APIOperation[Any, Any, Any, Any], examples: int) -> None:
    @hypothesis_settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(case=operation.as_strategy())
    def run(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, timeout=LIMIT_S)

    run()
