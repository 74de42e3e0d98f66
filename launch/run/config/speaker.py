"""Settings of who takes a seat: a model on an engine, an endpoint, a Python callable or a scripted chatbot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PositiveFloat

from actors.engines.config import EngineConfig
from rlenv.core.errors import there_are
from rlenv.core.settings import Name, Rate, Settings, settings
from rlenv.core.types import Sampling
from rlenv.population.chatbots.faults import FAULT_HABITS
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.speakers.outside import secret_problems

SAMPLING_KEYS = {"temperature", "top_p", "top_k", "max_tokens"}


def _numbers(values: Any) -> Any:
    if isinstance(values, Mapping) and (wrong := sorted(k for k, v in values.items() if isinstance(v, bool))):
        raise ValueError(f"expected numbers, got true or false for {', '.join(wrong)}")
    return values


def _without_request_fields(sampling: Sampling) -> Sampling:
    if given := sorted(sampling.model_fields_set - SAMPLING_KEYS):
        raise ValueError(f"{', '.join(given)} cannot be set for all replies; {there_are(SAMPLING_KEYS, '')}")
    return sampling


ReplySampling = Annotated[
    Sampling,
    BeforeValidator(_numbers),
    AfterValidator(_without_request_fields),
    PlainSerializer(lambda sampling: sampling.model_dump(include=SAMPLING_KEYS)),
]
"""How all replies of a speaker are sampled. The seed and the stop conditions are set by each request."""


SpeakerKind = Literal["engine", "endpoint", "callable", "population"]


@settings
class SpeakerConfig(Settings):
    """The speaker in a seat: a model on an engine, an endpoint, a Python callable or a scripted chatbot."""

    kind: SpeakerKind = "engine"
    """The kind of speaker."""
    engine: str = "simulator"
    """kind engine: the name in ``engines`` of the engine that serves the model."""
    adapter: Name | None = None
    """kind engine: an adapter's folder; "trained" fine-tunes one on the seat's side of the SFT sessions."""
    system_prompt: str | None = None
    """Text of the system message; None is the default support chatbot's or, in the user's seat, the simulator's
    instruction."""
    sees_context: bool = True
    """Whether a chatbot reads the profile, earlier summaries and earlier sessions; it never reads the current session's
    summary."""
    sampling: ReplySampling = Sampling()
    """How replies are sampled."""
    base_url: Name | None = None
    """kind endpoint: the root URL of the API."""
    model: Name | None = None
    """kind endpoint: the model's name there."""
    api_key_env: Name | None = None
    """kind endpoint: the name of the environment variable that holds the key."""
    allow_external: bool = False
    """kind endpoint: whether conversations may go to an endpoint that is not on this machine."""
    timeout_s: PositiveFloat | None = None
    """kinds endpoint and callable: seconds for one attempt of a request (None is 120), or for a reply of an async
    function (None is 600). No result depends on it, so it may change when a run is resumed."""
    function: Name | None = None
    """kind callable: ``package.module:name`` of a function (messages, seed) -> str."""
    name: Name | None = None
    """kind population: the scripted chatbot's name; None is the roster's key."""
    habits: dict[str, Rate] = field(default_factory=dict)
    """kind population: failure habits whose rates differ from the scripted chatbot's own."""

    def problems(self) -> list[str]:
        """Returns the settings that this kind of speaker needs and lacks."""
        needed = {"endpoint": ("base_url", "model"), "callable": ("function",)}.get(self.kind, ())
        problems = [f"{name}: a speaker of kind {self.kind} needs one" for name in needed if not getattr(self, name)]
        if self.kind == "endpoint" and self.base_url and not self.base_url.startswith(("http://", "https://")):
            problems.append(f"base_url: expected http://... or https://..., got {self.base_url!r}")
        problems += secret_problems(self.base_url, self.api_key_env) if self.kind == "endpoint" else []
        if self.kind == "callable" and self.function and not all(self.function.partition(":")):
            problems.append(f"function: expected package.module:name, got {self.function!r}")
        if self.kind == "population":
            unknown = sorted(set(self.habits) - FAULT_HABITS)
            problems += [f"habits: unknown habit {name!r}; {there_are(FAULT_HABITS, name)}" for name in unknown]
        return problems


def speaker_problems(
    where: str, speakers: Mapping[str, SpeakerConfig], engines: Mapping[str, EngineConfig], engines_key: str = "engines"
) -> list[str]:
    """Returns the speakers that do not exist: scripted chatbots, engines, or an adapter's on an engine without LoRA."""
    problems = []
    for name, speaker in speakers.items():
        scripted = speaker.name or name
        if speaker.kind == "population" and where == "chatbots" and scripted not in chatbot_names():
            problems.append(f"{where}.{name}: no scripted chatbot {scripted!r}; {there_are(chatbot_names(), scripted)}")
        if speaker.kind != "engine":
            continue
        if speaker.engine not in engines:
            known = there_are(engines, speaker.engine)
            problems.append(f"{where}.{name}.engine: no engine {speaker.engine!r}; {known}")
        elif speaker.adapter and engines[speaker.engine].max_loras == 0:
            problems.append(
                f"{where}.{name}.adapter: {engines_key}.{speaker.engine}.max_loras is 0, which serves no adapter; "
                "set 1 or more"
            )
    return problems
