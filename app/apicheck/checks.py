"""All checks of a running server, in the order in which they run."""

from app.apicheck.conversation_checks import CONVERSATION_CHECKS
from app.apicheck.other_apis import OTHER_API_CHECKS
from app.apicheck.refusals import REFUSAL_CHECKS
from app.apicheck.response_checks import RESPONSE_CHECKS
from app.apicheck.server_checks import SERVER_CHECKS

CHECKS = (
    *SERVER_CHECKS,
    *CONVERSATION_CHECKS,
    *OTHER_API_CHECKS,
    *RESPONSE_CHECKS,
    *REFUSAL_CHECKS,
)
