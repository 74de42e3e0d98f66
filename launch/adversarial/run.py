"""A run of Algorithm 1 as one object: its configuration, its directory, its engines and its training phases."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from launch.run.cluster.connection import cluster, cluster_size
from launch.run.config.run import RunConfig, has_room
from launch.run.config.speaker import SpeakerConfig
from launch.run.contents import chatbot_adapters, model_folder
from launch.run.directory import TRAINING, RunDirectory
from launch.run.readers import ADVERSARIAL
from launch.run.roster import make_speaker, roster
from launch.run.serving import Serving
from launch.run.settings import open_run
from launch.run.training import Training
from rlenv.core.protocols import Engine, Speaker
from rlenv.core.types import Adapter, Seat
from rlenv.prompting.system_texts import simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker
from trainers.backend.worker_group import WorkerGroup


class AdversarialRun:
    """The state that the phases of Algorithm 1 share. A phase reads the sections of ``config`` that it needs.

    Args:
        config: the run's configuration.
        directory: where the phases write their files; None is ``config.out_dir``.
        serving: engines that another run owns and stops; None starts the run's own.
    """

    def __init__(
        self, config: RunConfig, directory: RunDirectory | None = None, serving: Serving | None = None
    ) -> None:
        self.config = config
        self.directory = directory or RunDirectory(config.out_dir)
        self.training = Training(self.directory, config.train, config.seed)
        self.chatbots = roster(config.chatbots)
        self._shared_serving = serving

    @contextmanager
    def opened(self) -> Iterator[AdversarialRun]:
        """Yields the run with its directory locked and a Ray cluster; stops its engines at the end.

        Raises:
            ConfigError: another driver is working in the directory, or it holds a run with other settings.
        """
        with self.directory.locked():
            open_run(self.directory, self.config, ADVERSARIAL)
            with cluster(self.config.ray):
                if self.config.train.keep_workers and has_room(self.config, *cluster_size(), operator.add):
                    workers = WorkerGroup(self.config.train, self.directory.path(TRAINING))
                    self.training = replace(self.training, workers=workers)
                try:
                    yield self
                finally:
                    self._close()

    def _close(self) -> None:
        self.training.close()
        if self._shared_serving is None and "serving" in self.__dict__:
            self.serving.close()

    @cached_property
    def serving(self) -> Serving:
        """The run's engines; each starts at its first use. Base models must be prepared before."""
        if self._shared_serving is not None:
            return self._shared_serving
        model = model_folder(self.directory, self.config.simulator.model)
        return Serving(self.config, model, self.directory.path("logs"))

    @contextmanager
    def speakers(self, simulator: Adapter | str) -> Iterator[tuple[Speaker, dict[str, Speaker]]]:
        """Yields the user simulator and the chatbots by name, on engines that run until the block ends.

        Args:
            simulator: a version of the trained simulator, or the name of a zero-shot model.
        """
        zero_shot = {simulator: self.config.zero_shot[simulator]} if isinstance(simulator, str) else {}
        names = {s.engine for s in (*self.chatbots.values(), *zero_shot.values()) if s.kind == "engine"}
        if not isinstance(simulator, str):
            names.add("simulator")
        with self.serving.engines(*sorted(names)) as engines:
            adapters = chatbot_adapters(self.directory, self.chatbots)

            def in_seat(name: str, seat: Seat, speaker: SpeakerConfig) -> Speaker:
                formats = self.serving.formats
                return make_speaker(
                    name, seat, speaker, self.config.context, engines=engines, formats=formats, adapters=adapters
                )

            user: Speaker
            if isinstance(simulator, str):
                user = in_seat(simulator, "user", zero_shot[simulator])
            else:
                user = make_simulator(self.config, self.serving, engines, simulator)
            yield user, {name: in_seat(name, "chatbot", chatbot) for name, chatbot in self.chatbots.items()}


def make_simulator(
    config: RunConfig, serving: Serving, engines: Mapping[str, Engine], adapter: Adapter
) -> EngineSpeaker:
    """Returns one version of the trained simulator as the speaker in the user's seat."""
    chat = serving.formats["simulator"]
    text = simulator_system_text(config.context, token_counter(chat))
    sampling = config.simulator.sampling
    return EngineSpeaker(adapter.name, engines["simulator"], chat, "user", text, sampling, adapter)
