"""Builds the Ray Serve application: the deployment of replicas, how they scale, drain and are updated."""

import os

import click
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.core.config import Settings, SettingsError, load_settings
from app.main import create_app
from deploy.ray.readiness import check_storage, is_shared
from deploy.ray.replica import Replica
from deploy.ray.router import ModelSessionRouter

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

_CLOSE_S = 15.0  # how long an application may take to end once its streams have ended
_STATS_PERIOD_S = 1.0  # how old the router's knowledge of the loaded models may be


class Options(BaseModel):
    """The arguments of `serve run deploy.ray:app`, as `name=value`."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0, description="cores that Ray reserves for a replica")
    gpus: float = Field(0.0, ge=0)
    drain_s: float = Field(60.0, ge=0, description="seconds that replies have to end when a replica stops")
    revision: str = Field("", description="Ray replaces all replicas when an argument in its file changes")


def app(options: Options) -> serve.Application:
    """Returns the application for Ray Serve. Each replica reads the settings from its own environment.

    Raises:
        click.ClickException: the settings are wrong, or do not allow several replicas.
    """
    os.environ.setdefault(PROXY_CALLBACK, "deploy.ray.proxy:middleware")  # for a Ray that this process starts
    replicas = max(options.min_replicas, options.max_replicas)
    try:
        settings = load_settings()
        create_app(settings)
        if replicas > 1:
            check_storage(settings)
    except SettingsError as error:
        raise click.ClickException(f"Wrong settings. {error}") from None
    return _deployment(options, settings).bind(options.drain_s)


def _deployment(options: Options, settings: Settings) -> serve.Deployment:
    """Returns the deployment.

    A replica gets as many requests as its application runs and lets wait; then the router tries the next one,
    and if all are full, requests wait in Ray's proxies. There are more replicas when requests wait.
    """
    return serve.deployment(
        Replica,
        name="llm",
        max_ongoing_requests=settings.max_active_requests + settings.max_queued_requests,
        max_queued_requests=max(1, settings.max_queued_requests),
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=max(options.min_replicas, options.max_replicas),
            target_ongoing_requests=settings.max_active_requests,
        ),
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=ModelSessionRouter, request_routing_stats_period_s=_STATS_PERIOD_S
        ),
        graceful_shutdown_timeout_s=options.drain_s + _CLOSE_S,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=100 if is_shared(settings) else 0,
    )
