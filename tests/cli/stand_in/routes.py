"""Builds the scripted server: the part of /api/v1 that the client uses."""

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from app.api.web.docs_page import build_validators
from tests.cli.stand_in.conversation_routes import add_branches, add_conversations
from tests.cli.stand_in.model_routes import add_models
from tests.cli.stand_in.state import Refusal, StandIn
from tests.cli.stand_in.turn_routes import add_running_turns, add_turns


def build(state: StandIn) -> FastAPI:
    async def check_key(request: Request) -> None:
        state.sessions += request.headers.getlist("x-session-id")
        given = request.headers.get("authorization", "").encode("latin-1").decode()
        if state.api_key and given != f"Bearer {state.api_key}":
            raise Refusal(401, "not_authenticated", "An API key is required.")

    app = FastAPI(dependencies=[Depends(check_key)])
    add_turns(app, state)
    add_running_turns(app, state)
    add_conversations(app, state)
    add_branches(app, state)
    add_models(app, state)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    build_validators(app)
    return app
