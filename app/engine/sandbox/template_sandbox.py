"""Renders chat templates, which are code by the authors of models, in a sandbox."""

from typing import Any

from app.engine.sandbox.sandbox import Sandbox

TIME_LIMIT_S = 2.0  # for one rendering


class TemplateOutOfBounds(Exception):
    """The template took too long, used too much memory, or made too long a text."""


class TemplateRefused(Exception):
    """The template raised an error. The message is the template's own message, or empty."""


class TemplateSandbox(Sandbox):
    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        super().__init__(time_limit_s)

    def render(self, template: str, variables: dict[str, Any]) -> str:  # any JSON
        """Returns the rendered template.

        Raises:
            TemplateOutOfBounds, TemplateRefused.
        """
        answer = self.ask(template=template, variables=variables)
        if answer is not None and "refused" in answer:
            raise TemplateRefused(answer["refused"])
        if answer is None or "text" not in answer:
            raise TemplateOutOfBounds
        return answer["text"]
