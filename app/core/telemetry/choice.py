"""Chooses the tracer: OpenTelemetry's, if its variables are set and its packages are installed."""

import importlib.util
import logging
from collections.abc import Mapping

from app.core.telemetry.tracer import NoTracer, Tracer

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def choose_tracer(environ: Mapping[str, str]) -> Tracer:
    """Returns the tracer that OpenTelemetry's own variables ask for."""
    is_on = any(environ.get(name) for name in _ENDPOINTS) or environ.get("OTEL_TRACES_EXPORTER") == "otlp"
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or (
        environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )
    if not is_on or is_off:
        return NoTracer()
    if not all(map(_is_installed, _PACKAGES)):
        logger.warning(
            "no traces are sent: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        )
        return NoTracer()
    from app.core.telemetry.otel import OtelTracer  # the packages are optional

    return OtelTracer()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
