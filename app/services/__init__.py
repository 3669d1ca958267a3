"""Defines the services that the HTTP handlers use.

The stand-ins of the tests implement the same Protocols.
"""

from dataclasses import dataclass, field

from app.core.telemetry.tracer import NoTracer, Tracer
from app.models.key_limits import KeyLimits
from app.models.metrics.reporter import MetricsReporter
from app.services.conversations import (
    BranchService as BranchService,
    ChatService as ChatService,
    ConversationService as ConversationService,
)
from app.services.generation import (
    ChoiceService as ChoiceService,
    GenerationService as GenerationService,
    TokenService as TokenService,
)
from app.services.server import (
    MetricsService as MetricsService,
    ModelService as ModelService,
    StatusService as StatusService,
    StorageService as StorageService,
)


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one application."""

    models: ModelService
    chats: ChatService
    conversations: ConversationService
    branches: BranchService
    generator: GenerationService
    choices: ChoiceService
    tokens: TokenService
    status: StatusService
    storage: StorageService
    limits: KeyLimits
    request_timeout_s: float
    metrics: MetricsService = field(default_factory=MetricsReporter)
    tracer: Tracer = field(default_factory=NoTracer)
