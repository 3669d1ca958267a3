"""The types of the wire models that the page declares are those of the server."""

import re

import pytest

from app.api.web.page import FOLDER
from app.models import schemas

INTERFACE = re.compile(r"export interface (\w+) \{\n(.*?)\n\}", re.DOTALL)
DECLARED = dict(INTERFACE.findall((FOLDER / "wire.d.ts").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_fields_of_the_page_are_fields_of_the_server(name: str) -> None:
    fields = set(re.findall(r"^  (\w+)\??:", DECLARED[name], re.MULTILINE))
    assert fields <= set(getattr(schemas, name).model_fields)
