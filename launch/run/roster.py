"""Makes speakers from their configuration: engines, endpoints, callables and scripted chatbots.

Each kind can take either seat, so comparing a zero-shot model with the trained simulator needs only configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from launch.run.config.speaker import SpeakerConfig
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.protocols import Engine, Speaker
from rlenv.core.types import Adapter, Seat
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.users.user import PopulationUser
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import (
    SystemText,
    approximate_tokens,
    chatbot_system_text,
    simulator_system_text,
    token_counter,
)
from rlenv.speakers.endpoint import CallableSpeaker, EndpointSpeaker, import_callable
from rlenv.speakers.engine import EngineSpeaker


def system_text(seat: Seat, speaker: SpeakerConfig, config: ContextConfig, count: Callable[[str], int]) -> SystemText:
    """Returns the function that builds the system message of ``speaker`` in ``seat``."""
    if seat == "chatbot":
        return chatbot_system_text(config, count, speaker.system_prompt, speaker.sees_context)
    if speaker.system_prompt is not None:
        config = replace(config, instruction=speaker.system_prompt)
    return simulator_system_text(config, count)


def make_speaker(
    name: str,
    seat: Seat,
    speaker: SpeakerConfig,
    context: ContextConfig,
    *,
    engines: Mapping[str, Engine],
    formats: Mapping[str, ChatFormat],
    adapters: Mapping[str, Adapter],
) -> Speaker:
    """Returns the speaker that ``speaker`` configures, for ``seat``.

    Args:
        name: the speaker's name.
        seat: the seat it takes.
        speaker: its configuration.
        context: how the user context is built.
        engines: running engine pools by name.
        formats: the engines' chat formats, by the same names.
        adapters: the adapters of the speakers that have one, by the speaker's name.

    Raises:
        ConfigError: there is no such scripted chatbot.
    """
    if speaker.kind == "population":
        if seat == "user":
            return PopulationUser()
        scripted = speaker.name or name
        if scripted not in chatbot_names():
            known = there_are(chatbot_names(), scripted)
            raise ConfigError(f"chatbots.{name}: no scripted chatbot {scripted!r}; {known}")
        return make_chatbot(scripted, speaker.habits, name)
    sampling = speaker.sampling
    if speaker.kind == "engine":
        format = formats[speaker.engine]
        build = system_text(seat, speaker, context, token_counter(format))
        return EngineSpeaker(name, engines[speaker.engine], format, seat, build, sampling, adapters.get(name))
    build = system_text(seat, speaker, context, approximate_tokens)
    if speaker.kind == "endpoint":
        assert speaker.base_url and speaker.model
        at = (speaker.base_url, speaker.model, speaker.api_key_env)
        return EndpointSpeaker(name, seat, *at, build, sampling, timeout_s=speaker.timeout_s)
    assert speaker.function
    return CallableSpeaker(name, seat, import_callable(speaker.function), build, timeout_s=speaker.timeout_s)


def roster(chatbots: Mapping[str, SpeakerConfig]) -> dict[str, SpeakerConfig]:
    """Returns the chatbots of a run; an empty roster is all scripted chatbots of the reference population."""
    return dict(chatbots) or {name: SpeakerConfig(kind="population") for name in chatbot_names()}
