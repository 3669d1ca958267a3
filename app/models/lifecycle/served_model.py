"""A loaded model and the backend that serves it."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.catalogue import DEFAULT_SAMPLING, REMOTE_SAMPLING, ModelProfile, SamplingDefaults, Source
from app.engine.backend import EngineBackend
from app.models.schemas import SamplingOrigin, SamplingValue


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model. `source` is the one of the profile's sources that was loaded."""

    profile: ModelProfile
    source: Source
    backend: EngineBackend
    load_time_s: float
    generation_config: SamplingDefaults = SamplingDefaults()

    @property
    def model_id(self) -> str:
        adapter = self.profile.adapter
        return self.source.model_id if adapter is None else f"{self.source.model_id}+{adapter.model_id}"

    @property
    def sampling(self) -> Mapping[str, SamplingValue]:
        """The parameters of a request that sets none.

        They are those of the profile, else of generation_config.json, else the server's defaults.
        """
        profile = self.profile.sampling if self.source.sampling is None else self.source.sampling
        lines: tuple[tuple[SamplingOrigin, SamplingDefaults], ...] = (
            ("default", DEFAULT_SAMPLING if self.profile.remote is None else REMOTE_SAMPLING),
            ("generation_config", self.generation_config),
            ("profile", profile),
        )
        return {
            name: SamplingValue(value=value, origin=origin)
            for origin, defaults in lines
            for name, value in defaults.given().items()
        }
