"""A run of Algorithm 1 as one object: its configuration, its directory, and what serves and trains its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

from launch.run.config import RunConfig, SpeakerConfig
from launch.run.contents import chatbot_adapters, model_folder
from launch.run.directory import RunDirectory
from launch.run.roster import make_speaker, roster
from launch.run.serving import Serving, cluster
from launch.run.settings import to_dict
from launch.run.training import Training
from rlenv.core.protocols import Engine, Speaker
from rlenv.core.types import Adapter, Seat
from rlenv.prompting.system_texts import simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker


class AdversarialRun:
    """What the phases of Algorithm 1 work on. A phase takes from it the sections of the configuration that it reads.

    Args:
        config: the run's.
        directory: where its phases leave their files; None is ``config.out_dir``.
        serving: engines that belong to somebody else; None makes the run's own, which it also stops.
    """

    def __init__(
        self, config: RunConfig, directory: RunDirectory | None = None, serving: Serving | None = None
    ) -> None:
        self.config = config
        self.directory = directory or RunDirectory(config.out_dir)
        self.training = Training(self.directory, config.train, config.seed)
        self.chatbots = roster(config.chatbots)
        self._others_serving = serving

    @contextmanager
    def opened(self) -> Iterator[AdversarialRun]:
        """Gives the run with its directory locked and a cluster to work on; its engines stop at the end.

        Raises:
            ConfigError: another driver is at work in the directory, or it holds a run with other settings.
        """
        with self.directory.locked():
            self.directory.open(to_dict(self.config))
            with cluster(self.config.ray):
                try:
                    yield self
                finally:
                    self._close()

    def _close(self) -> None:
        if self._others_serving is None and "serving" in self.__dict__:
            self.serving.close()

    @cached_property
    def serving(self) -> Serving:
        """The run's engines, none of them started yet. Base models must be prepared before."""
        if self._others_serving is not None:
            return self._others_serving
        model = model_folder(self.directory, self.config.simulator.model)
        return Serving(self.config, model, self.directory.path("logs"))

    @contextmanager
    def speakers(self, simulator: Adapter | str) -> Iterator[tuple[Speaker, dict[str, Speaker]]]:
        """Gives the simulated user and the chatbots by name, on engines that run for the time of the block.

        Args:
            simulator: a version of the trained simulator, or the name of a zero-shot model.
        """
        zero_shot = {simulator: self.config.zero_shot[simulator]} if isinstance(simulator, str) else {}
        names = {s.engine for s in (*self.chatbots.values(), *zero_shot.values()) if s.kind == "engine"}
        if not isinstance(simulator, str):
            names.add("simulator")
        with self.serving.engines(*sorted(names)) as engines:
            adapters = chatbot_adapters(self.directory, self.chatbots)

            def seated(name: str, seat: Seat, speaker: SpeakerConfig) -> Speaker:
                formats = self.serving.formats
                return make_speaker(
                    name, seat, speaker, self.config.context, engines=engines, formats=formats, adapters=adapters
                )

            user: Speaker
            if isinstance(simulator, str):
                user = seated(simulator, "user", zero_shot[simulator])
            else:
                user = make_simulator(self.config, self.serving, engines, simulator)
            yield user, {name: seated(name, "chatbot", chatbot) for name, chatbot in self.chatbots.items()}


def make_simulator(
    config: RunConfig, serving: Serving, engines: Mapping[str, Engine], adapter: Adapter
) -> EngineSpeaker:
    """Returns the trained simulator in the user's seat: one adapter version."""
    chat = serving.formats["simulator"]
    text = simulator_system_text(config.context, token_counter(chat))
    sampling = config.simulator.sampling
    return EngineSpeaker(adapter.name, engines["simulator"], chat, "user", text, sampling, adapter)
