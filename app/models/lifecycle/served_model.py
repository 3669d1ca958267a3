"""A loaded model and the backend that serves it."""

from dataclasses import dataclass

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.engine.backend import EngineBackend


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model. `source` is the one of the profile's sources that was loaded."""

    profile: ModelProfile
    source: Source
    backend: EngineBackend
    load_time_s: float

    @property
    def model_id(self) -> str:
        return self.source.model_id

    @property
    def sampling(self) -> SamplingDefaults:
        return self.profile.sampling if self.source.sampling is None else self.source.sampling
