"""The Ray actor that collects a chatbot's episodes: the rounds of its training, and the evaluations of its versions.

    driver ──starts──> RolloutHost ──owns──> engines, discriminator
    learner's worker ──round(number, adapter folder)──> RolloutHost ──> [ConversationGroup]

The driver owns it, not the learner. So its engines survive the death of a learner's worker, and the restarted worker
uses the same handle. It reserves no CPU and runs one call at a time. If the host itself dies, it and its engines are
started again and the call is repeated.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from actors.metrics import Conversations
from actors.supervision import Supervised, start_all
from launch.chatbot.config import CHATBOT, ChatbotRunConfig
from launch.chatbot.records import RoundRecords, RoundSeconds, write_episodes
from launch.run.contents import discriminator_checkpoint
from launch.run.directory import RunDirectory
from launch.run.roster import make_speaker
from launch.serving.env import Served, serve
from rlenv.core.adapters import adapter_at
from rlenv.core.aio import all_of
from rlenv.core.aio import run as run_async
from rlenv.core.errors import OverlongError
from rlenv.core.types import Adapter
from rlenv.env.collect import Collected, Episode, collect, few_failures, in_order
from rlenv.env.conversation import to_session
from rlenv.env.core import ConversationCore
from rlenv.env.ensemble import Ensemble
from rlenv.evaluation.chatbot_rl.figures import evaluation_episode, figures_of
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode
from rlenv.learning.group_plan import plan_evaluation, plan_groups
from rlenv.learning.rows import ConversationGroup
from rlenv.learning.simulator_faults import fault_threshold, message_weights
from rlenv.learning.trajectory import trajectories_of
from rlenv.rewards.registry import ISSUE_SOURCES
from rlenv.speakers.engine import EngineSpeaker
from trainers.discriminator.fit import read_validation

log = logging.getLogger(__name__)

RESTARTS = 2
START_TIMEOUT_S = 3600.0
"""Each of its engines has its own, shorter limit."""


class RolloutHost:
    """Collects episodes of one chatbot's versions with the users of one env.

    Args:
        config: the run's settings, with the chatbot's model resolved to a folder.
        root: the run directory.
    """

    def __init__(self, config: ChatbotRunConfig, root: str) -> None:
        self._config = config
        self._root = Path(root)
        self._records = RoundRecords(self._root / "rounds")
        self._open = ExitStack()

    def start(self) -> None:
        """Starts the engines."""
        _ = self._served

    def round(self, number: int, adapter_folder: str) -> list[ConversationGroup]:
        """Returns the conversations of a round by group, and records them; reads them if they are recorded already.

        Args:
            number: the round's number, counted over the whole run.
            adapter_folder: the adapter of the chatbot's version.

        Raises:
            PhaseError: more conversations failed than ``max_failed_share``.
        """
        config, adapter = self._config, _version(adapter_folder)
        speaker = self._speaker(adapter)
        plan = plan_groups(
            self._contexts(config.split),
            self._users,
            number,
            config.rl.num_groups,
            config.rl.group_size,
            config.seed,
        )
        results = self._records.read(number, adapter)
        if results is None:
            results = self._collect_round(number, plan, adapter)
        result_of = {result.episode: result for result in results}
        return [self._group([result_of[episode] for episode in episodes], speaker) for episodes in plan]

    def measure(self, adapter_folder: str, users: Mapping[str, Mapping[str, float]], out_dir: str) -> None:
        """Collects the evaluation episodes of a version, the same for all versions, and writes them by group of users.

        Args:
            adapter_folder: the version's adapter.
            users: the weights of the users in each group.
            out_dir: the folder of the files ``{group}.jsonl.gz``.
        """
        evaluation = self._config.evaluation
        contexts = self._contexts(evaluation.split)[: evaluation.num_contexts]
        for group, weights in users.items():
            episodes = self._evaluate(_version(adapter_folder), weights, contexts, evaluation.conversations_per_context)
            write_episodes(Path(out_dir) / f"{group}.jsonl.gz", episodes)

    def close(self) -> None:
        """Stops the engines."""
        self._open.close()

    # ------------------------------------------------------------------------- speakers and contexts

    @cached_property
    def _served(self) -> Served:
        serving = serve(
            self._config,
            "chatbot",
            engines=[self._config.chatbot.engine],
            judged=self._config.faults.quantile > 0,
            log_dir=self._root / "logs",
        )
        return self._open.enter_context(serving)

    @property
    def _users(self) -> Ensemble:
        counterparts = self._served.parts.counterparts
        assert isinstance(counterparts, Ensemble)
        return counterparts

    def _contexts(self, split: str | None) -> list[str]:
        return [s.context_id for s in self._served.parts.scenarios if split in (None, s.split)]

    def _speaker(self, adapter: Adapter) -> EngineSpeaker:
        speaker = make_speaker(
            CHATBOT,
            "chatbot",
            self._config.chatbot,
            self._config.settings.context,
            engines=self._served.pools,
            formats=self._served.formats,
            adapters={CHATBOT: adapter},
        )
        assert isinstance(speaker, EngineSpeaker)
        return speaker

    # ----------------------------------------------------------------------------------- conversations

    def _collect(self, episodes: Sequence[Episode], speaker: EngineSpeaker) -> list[Collected]:
        parts, config = self._served.parts, self._config
        core = ConversationCore(parts.scenarios, self._users, "chatbot", parts.limits, parts.reward)
        counts, concurrency = Conversations(speaker.name), config.settings.collect.concurrency
        collected = collect(speaker, core.sibling, counts.begun(episodes), concurrency=concurrency)
        checked = few_failures(counts.ended(collected), config.max_failed_share, len(episodes), "rollouts")
        return run_async(in_order(checked, episodes))

    def _collect_round(self, number: int, plan: Sequence[Sequence[Episode]], adapter: Adapter) -> list[Collected]:
        began = time.monotonic()
        results = self._collect([episode for episodes in plan for episode in episodes], self._speaker(adapter))
        rollouts = time.monotonic() - began
        held_out = {}
        evaluation = self._config.evaluation
        if evaluation.every and number % evaluation.every == 0:
            contexts = self._contexts(evaluation.split)[: evaluation.every_contexts]
            held_out = {
                name: figures_of(self._evaluate(adapter, {name: 1.0}, contexts, 1)) for name in self._config.held_out
            }
        seconds = RoundSeconds(rollouts=rollouts, measuring=time.monotonic() - began - rollouts)
        self._records.write(number, adapter, results, figures_of(self._labelled(results)), held_out, seconds)
        return results

    def _evaluate(
        self, adapter: Adapter, weights: Mapping[str, float], contexts: Sequence[str], conversations: int
    ) -> list[EvaluationEpisode]:
        users = Ensemble({name: self._users[name] for name in weights}, weights)
        episodes = plan_evaluation(contexts, users, conversations, self._config.seed)
        return self._labelled(self._collect(episodes, self._speaker(adapter)))

    def _labelled(self, results: Sequence[Collected]) -> list[EvaluationEpisode]:
        issues = ISSUE_SOURCES[self._config.evaluation.labels]

        async def label() -> list[EvaluationEpisode]:
            return [evaluation_episode(r, await issues(r.state) if r.state else ()) for r in results]

        return run_async(label())

    def _group(self, results: Sequence[Collected], speaker: EngineSpeaker) -> ConversationGroup:
        complete = [result for result in results if result.state is not None and result.rewards]
        trajectories = trajectories_of(complete, speaker)
        return ConversationGroup(
            group_id=results[0].episode.context_id,
            trajectories=tuple(trajectories),
            turn_weights=self._weights(complete),
            num_failed=sum(result.failure is not None for result in results),
        )

    # ---------------------------------------------------------------------------- the simulator's faults

    def _weights(self, results: Sequence[Collected]) -> tuple[tuple[float, ...], ...]:
        """Returns the weights of each conversation's messages; () where faults are not detected."""
        discriminator, faults = self._served.discriminator, self._config.faults
        if discriminator is None or faults.quantile == 0:
            return ()

        async def weigh(result: Collected) -> tuple[float, ...]:
            assert result.state is not None
            session = to_session(result.state, session_id=result.episode.episode_id, source="env", chatbot="env")
            try:
                scores = await discriminator.log_odds(session)
            except OverlongError as error:
                log.warning("a conversation is too long for the discriminator; its faults are not detected: %s", error)
                return message_weights(result.state, [0.0] * (result.state.num_user_turns + 1), -math.inf, faults)
            return message_weights(result.state, scores.log_odds, self._threshold, faults)

        return tuple(run_async(all_of(weigh, results)))

    @cached_property
    def _threshold(self) -> float:
        """The threshold of a fault, from the simulated sessions of the discriminator's validation."""
        config = self._config
        checkpoint = discriminator_checkpoint(RunDirectory(config.run), config.settings, config.discriminator)
        simulated = [scored.log_odds for scored in read_validation(checkpoint) if not scored.real]
        return fault_threshold(simulated, config.faults)


def _version(adapter_folder: str) -> Adapter:
    return adapter_at(adapter_folder, Path(adapter_folder).name)


# -------------------------------------------------------------------------------- in the learner's worker


@dataclass(frozen=True)
class HostedRollouts:
    """A ``trainers.chatbot_rl.rounds.Rollouts`` that gets its rounds from the rollout host."""

    plan: ChatbotRunConfig
    """The settings that determine the conversations; two runs with equal settings are the same."""
    first_round: int
    """The learner's first round, counted over the whole run."""
    host: Supervised = field(compare=False)

    def __call__(self, number: int, adapter_folder: str) -> list[ConversationGroup]:
        """Returns the groups of a round; see ``Rollouts``."""
        groups: list[ConversationGroup] = self.host.ask("round", self.first_round + number, adapter_folder)
        return groups


def start_host(config: ChatbotRunConfig, root: Path) -> Supervised:
    """Returns a running host; the caller closes it, and its engines with it.

    Raises:
        ConfigError: the settings cannot be served.
        EngineError: an engine did not start.
    """
    host = Supervised(
        "rollout host",
        partial(RolloutHost, config, str(root)),
        log=f"{root}/logs/rollout-host.log",
        max_restarts=RESTARTS,
        startup_timeout_s=START_TIMEOUT_S,
        answer_timeout_s=config.answer_timeout_s,
        num_cpus=0,
    )
    start_all([host])
    return host
