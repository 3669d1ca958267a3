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


def test_errors_of_the_list_have_the_form_of_the_client(client: anthropic.Anthropic, url: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.models.retrieve("nothing")
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.models.list(limit=0)
    assert [kind_of(failure.value) for failure in (missing, wrong)] == [
        "not_found_error",
        "invalid_request_error",
    ]
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other,
        pytest.raises(openai.NotFoundError) as unknown,
    ):
        other.models.retrieve("nothing")
    assert unknown.value.code == "model_not_found"


def test_a_refused_key_has_the_form_of_the_client() -> None:
    with (
        page_server(Script(), api_key="right") as url,
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        client.models.list()
    assert kind_of(refused.value) == "authentication_error"


def kind_of(failure: anthropic.APIStatusError) -> str:
    """The type that the body names, in Anthropic's form."""
    assert isinstance(failure.body, dict)
    assert failure.body["type"] == "error"
    return str(failure.body["error"]["type"])


def test_other_clients_have_openais_list(client: anthropic.Anthropic, url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other:
        ids = [model.id for model in other.models.list()]
        assert ids == [model.id for model in client.models.list(limit=1000).data]
        assert other.models.retrieve(ids[0]).object == "model"
