"""Bounds the names of models that become labels, because a request may name any repository of the Hub."""

MAX_MODELS = 50
OTHER = "other"


class ModelLabels:
    """Gives the first models labels of their own, and all further ones a common label."""

    def __init__(self, limit: int = MAX_MODELS) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def of(self, model_name: str) -> str:
        if model_name not in self._known and len(self._known) >= self._limit:
            return OTHER
        self._known.add(model_name)
        return model_name
