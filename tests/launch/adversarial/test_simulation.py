"""The conversations phase writes what ended, in the order of the plan, and keeps only places in memory."""

from __future__ import annotations

import gc
import json

from launch.adversarial.simulation import plan_episodes, read_simulated, simulate
from launch.run.config.run import CollectConfig
from rlenv.env.collect import Collected
from rlenv.env.conversation import Limits
from rlenv.population.corpus import generate_sessions
from rlenv.speakers.scripted import Latency, ScriptedChatbot, ScriptedUser

NUM, SIMULATIONS, AT_ONCE = 6, 20, 5
SESSIONS = generate_sessions(NUM, 1, 0)
CONTEXTS = {"adversarial": SESSIONS[:4], "evaluation": SESSIONS[4:]}
CONFIG = CollectConfig(simulations_per_context=SIMULATIONS, concurrency=AT_ONCE)


class Watching(ScriptedUser):
    """A user that counts the results in memory whenever it opens a conversation."""

    most = 0

    async def reply(self, state, seed):
        """Returns the next message."""
        if len(state.turns) < 2:
            self.most = max(self.most, sum(type(each) is Collected for each in gc.get_objects()))
        return await super().reply(state, seed)


def test_a_conversation_that_has_ended_does_not_stay_in_memory(tmp_path):
    user = Watching("user", leave_rate=0.3)
    simulate(tmp_path / "out", "t", "base", user, {"bot": ScriptedChatbot("bot")}, CONTEXTS, CONFIG, Limits(3), 0)
    assert len(read_simulated(tmp_path / "out")) == NUM * SIMULATIONS
    assert 0 < user.most <= 3 * AT_ONCE


def test_files_are_equal_and_in_the_plans_order_whatever_ends_first(tmp_path):
    bots, files = {"bot": ScriptedChatbot("bot")}, []
    for name, latency in (("quick", Latency()), ("slow", Latency(median_s=0.001, straggler_rate=0.2))):
        user = ScriptedUser("user", leave_rate=0.3, latency=latency)
        simulate(tmp_path / name, "t", "base", user, bots, CONTEXTS, CONFIG, Limits(3), 0)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"sessions.jsonl", "conversations.jsonl.gz", "counts.json"}
    planned = [episode.episode_id for episode in plan_episodes(CONTEXTS, ["bot"], CONFIG, 0)]
    assert [json.loads(line)["session_id"] for line in files[0]["sessions.jsonl"].splitlines()] == planned
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick", "slow"]
