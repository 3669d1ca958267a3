"""Responses with OpenAI's asynchronous client."""

import asyncio

import openai

from tests.api.openai.responses.conftest import KEY


def test_the_asynchronous_client_creates_streams_and_reads(url: str) -> None:
    async def scenario() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            first = await client.responses.create(model="stand-in", input="hi")
            stream = await client.responses.create(
                model="stand-in", input="more", previous_response_id=first.id, stream=True
            )
            events = [event async for event in stream]
            assert events[-1].type == "response.completed"
            assert await client.responses.retrieve(events[-1].response.id) == events[-1].response
            async with client.responses.stream(model="stand-in", input="hi", store=False) as helper:
                assert (await helper.get_final_response()).output_text == "Hello there"
            conversation = await client.conversations.create()
            await client.conversations.items.create(
                conversation.id, items=[{"role": "user", "content": "hi"}]
            )
            items = [item async for item in client.conversations.items.list(conversation.id)]
            assert len(items) == 1

    asyncio.run(asyncio.wait_for(scenario(), 60))
