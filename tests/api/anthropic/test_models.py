"""The list of models with Anthropic's own client."""

from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.ui.scripted_models import Script, page_server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with page_server(Script()) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def test_models_are_listed_in_pages(client: anthropic.Anthropic) -> None:
    whole = client.models.list(limit=1000)
    ids = [model.id for model in whole.data]
    assert len(ids) > 2
    assert whole.has_more is False
    assert [model.id for model in client.models.list(limit=1)] == ids  # page after page
    before = client.models.list(limit=1, before_id=ids[2])
    assert ([model.id for model in before.data], before.has_more) == ([ids[1]], True)
    assert (before.first_id, before.last_id) == (ids[1], ids[1])


def test_model_has_the_fields_that_clients_expect(client: anthropic.Anthropic) -> None:
    listed = client.models.list(limit=1).data[0]
    assert (listed.type, bool(listed.display_name)) == ("model", True)
    assert listed.created_at is not None and listed.created_at.year == 2026
    assert client.models.retrieve(listed.id) == listed


def test_page_beside_an_unknown_model_is_refused(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="after_id"):
        client.models.list(after_id="nothing")


def test_other_clients_have_openais_list(client: anthropic.Anthropic, url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other:
        ids = [model.id for model in other.models.list()]
        assert ids == [model.id for model in client.models.list(limit=1000).data]
        assert other.models.retrieve(ids[0]).object == "model"
