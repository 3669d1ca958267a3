"""Runs the server as replicas of a Ray Serve deployment: `serve run deploy.ray:app`.

Importing this package imports no Ray: `app` comes from `__getattr__` below.
"""

from typing import Any


def __getattr__(name: str) -> Any:  # Any: a function of Ray's types, which are not there without Ray
    if name != "app":
        raise AttributeError(name)
    from deploy.ray.application import app

    return app
