"""Section 3.5 by hand: rewards that telescope, critical turns, alternatives by forking, the keep rule, the counts."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.log_odds import branch_rewards, turn_rewards
from rlenv.core.types import Adapter, Branch, Message, Sampling, Session, SessionContext, SessionScores, Utterance
from rlenv.env.conversation import Limits, apply, before_user_turn, begin, converse, reply_seed, to_session
from rlenv.learning.preferences import (
    PreferencesConfig,
    build_preferences,
    critical_turns,
    keep,
    preference_pair,
    sample_alternatives,
)
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, Latency, ScriptedChatbot, ScriptedDiscriminator, ScriptedEngine
from trainers.pretrain.loop import train_tokenizer

ADAPTER = Adapter(name="it2", path="/a/it2", digest="2" * 64)


@pytest.fixture(scope="module")
def format():
    return chat_format(
        train_tokenizer(["I sleep badly and it is mostly work, I think. user assistant system"] * 3, 400, 2048)
    )


@pytest.fixture
def simulator(format) -> EngineSpeaker:
    plain = [i for i in range(len(format.tokenizer)) if i not in format.tokenizer.all_special_ids]
    script = EngineScript(mean_tokens=6, end_rate=0.2, latency=Latency(median_s=0.0005))
    engine = ScriptedEngine(plain, script)
    return EngineSpeaker(
        "simulator", engine, format, "user", lambda c: "You are a user.", Sampling(max_tokens=12), ADAPTER
    )


@pytest.fixture
def conversations(simulator):
    async def hold():
        states = [begin(f"c{i}", SessionContext(), opener=("user", "assistant")[i % 2], seed=i) for i in range(12)]
        chatbot = ScriptedChatbot()
        return await asyncio.gather(*(converse(s, simulator, chatbot, Limits(max_turns=6)) for s in states))

    states = [s for s in asyncio.run(hold()) if s.num_user_turns]
    return [(to_session(s, session_id=f"{s.context_id}#0", source="t", chatbot="b"), s) for s in states]


class Scores:
    """A discriminator that says what the test wrote down."""

    def __init__(self, trunk, branches=()):
        self.trunk, self.branches = trunk, branches

    async def log_odds(self, session, branches=()):
        return SessionScores(
            session_id=session.session_id,
            log_odds=self.trunk,
            branches=tuple(tuple(self.branches[b.turn][: len(b.texts)]) for b in branches),
        )


def test_rewards_telescope_to_the_sessions_change_in_log_odds():
    rng = random.Random(0)
    for length in (1, 2, 30):
        scores = [0.0] + [rng.gauss(0, 3) for _ in range(length)]
        assert sum(turn_rewards(scores)) == pytest.approx(scores[-1] - scores[0], abs=1e-12)
    assert turn_rewards([0.0, 2.0, -1.0, -0.5]).tolist() == [2.0, -3.0, 0.5]


def test_an_alternative_is_rewarded_against_the_turn_before_it():
    trunk = [0.0, 2.0, -1.0]
    assert branch_rewards(trunk, 2, [3.0, 1.0]).tolist() == [1.0, -1.0]
    assert branch_rewards(trunk, 1, [3.0, -1.0]).tolist() == [3.0, -1.0]
    assert branch_rewards(trunk, 2, [trunk[2]])[0] == turn_rewards(trunk)[1]  # the original message keeps its reward


def test_critical_turns_are_the_first_highest_and_the_first_lowest():
    assert critical_turns([0.5, 2.0, -1.0, 2.0, -1.0]) == {"highest": 2, "lowest": 3}
    assert critical_turns([0.0, 0.0]) == {"highest": 1}
    assert critical_turns([]) == {}


def pair_of(chosen: float, rejected: float, simulator, conversations):
    session, state = conversations[0]
    sampled = [Utterance(text="a", token_ids=(5,)), Utterance(text="b", token_ids=(6,))]
    return preference_pair(state, session.session_id, 1, "highest", sampled, [chosen, rejected], simulator)


def test_a_pair_is_kept_only_where_zero_lies_strictly_between(simulator, conversations):
    values = (-1.0, -1e-9, 0.0, 1e-9, 1.0)
    for chosen, rejected in itertools.product(values, values):
        if chosen > rejected:
            assert keep(pair_of(chosen, rejected, simulator, conversations)) is (chosen > 0 > rejected)


def test_alternatives_share_the_past_tokens_and_the_simulators_version(simulator, conversations):
    _, state = max(conversations, key=lambda c: c[1].num_user_turns)
    for turn in range(1, state.num_user_turns + 1):
        asked: list[tuple] = []
        generate = simulator.engine.generate

        async def record(token_ids, sampling, adapter=None, conversation=None, asked=asked, generate=generate):
            asked.append((tuple(token_ids), sampling.seed, adapter, conversation))
            return await generate(token_ids, sampling, adapter, conversation)

        simulator.engine.generate = record
        alternatives = asyncio.run(sample_alternatives(state, turn, simulator, 8))
        simulator.engine.generate = generate
        prompts, seeds, adapters, keys = (set(column) for column in zip(*asked, strict=True))
        assert len(alternatives) == len(seeds) == 8 and len(prompts) == len(adapters) == len(keys) == 1
        assert prompts == {tuple(simulator.prompt(before_user_turn(state, turn)))}
        sampled = [t for t in state.turns if t.role == "user"][turn - 1].utterance
        (prompt,) = prompts
        index = [i for i, t in enumerate(state.turns) if t.role == "user"][turn - 1]
        later = simulator.prompt(state.model_copy(update={"turns": state.turns[: index + 1], "end": None}))
        body = sampled.token_ids[:-1] if sampled.token_ids[-1] in simulator.format.stop_token_ids else sampled.token_ids
        assert tuple(later[: len(prompt) + len(body)]) == (*prompt, *body)


def test_alternatives_are_the_same_whenever_they_are_sampled(simulator, conversations):
    _, state = conversations[1]
    once, again = (asyncio.run(sample_alternatives(state, 1, simulator, 5)) for _ in range(2))
    more = asyncio.run(sample_alternatives(state, 1, simulator, 9))
    assert once == again == more[:5]
    assert len({a.token_ids for a in more}) > 5


def test_a_context_with_half_a_character_is_spoken_of(simulator):
    state = begin("c", SessionContext(profile="half \ud83d"), seed=0)
    assert asyncio.run(simulator.reply(state, 1)).token_ids


def test_alternatives_are_the_replies_of_the_fork_with_a_seed_each(simulator, conversations):
    _, state = conversations[2]
    fork = before_user_turn(state, 1)

    async def one_by_one() -> list[Utterance]:
        return [await simulator.reply(fork, reply_seed(fork, "alternative", i)) for i in range(8)]

    assert asyncio.run(sample_alternatives(state, 1, simulator, 8)) == asyncio.run(one_by_one())


def test_the_pair_holds_the_best_over_the_worst_with_their_sampled_tokens(simulator, conversations):
    session, state = conversations[0]
    sampled = asyncio.run(sample_alternatives(state, 1, simulator, 4))
    pair = preference_pair(state, session.session_id, 1, "lowest", sampled, [0.5, -2.0, 3.0, 3.0], simulator)
    assert pair.chosen_ids == sampled[2].token_ids and pair.rejected_ids == sampled[1].token_ids
    assert (pair.reward_chosen, pair.reward_rejected, pair.rewards) == (3.0, -2.0, (0.5, -2.0, 3.0, 3.0))
    assert (pair.simulator, pair.turn, pair.critical) == ("it2", 1, "lowest")
    decode = simulator.format.tokenizer.decode
    assert (pair.prompt, pair.chosen) == (decode(pair.prompt_ids), decode(pair.chosen_ids))
    assert pair.prompt_ids == tuple(simulator.prompt(before_user_turn(state, 1)))


def test_the_pairs_of_a_session_worked_by_hand(format, simulator, monkeypatch):
    state = begin("c", SessionContext(), seed=0)
    for text in ("one", "why", "two", "so", "three"):
        state = apply(state, Utterance(text=text, token_ids=format.reply_ids(text)), Limits(max_turns=3))
    session = to_session(state, session_id="s", source="t", chatbot="b")
    texts = iter(["a", "b", "", "d"] + ["same"] * 4)

    async def replies(_state, seeds):
        said = [next(texts) for _ in seeds]
        return [Utterance(text=t, ends_session=not t, token_ids=format.reply_ids(t, ends_session=not t)) for t in said]

    monkeypatch.setattr(simulator, "replies", replies)
    # rewards 1, 2, -4: the highest is turn 2, the lowest turn 3
    judge = Scores((0.0, 1.0, 3.0, -1.0), {2: (1.5, 0.25, 2.0), 3: (9.0, 9.0, 9.0, 9.0)})
    made = asyncio.run(build_preferences([(session, state)], simulator, judge, PreferencesConfig(num_alternatives=4)))
    (pair,) = made.pairs
    assert (pair.turn, pair.critical, pair.rewards) == (2, "highest", (0.5, -0.75, 1.0))
    assert (pair.chosen_ids, pair.rejected_ids) == (format.reply_ids("d"), format.reply_ids("b"))
    assert made.counts == {
        "sessions": 1, "too_long": 0, "critical_turns": 2, "alternatives": 8, "without_text": 1, "too_few": 1,
        "made": 1, "kept": 1,
    }  # fmt: skip


def test_the_counts_add_up_and_every_kept_pair_keeps_the_rule(simulator, conversations):
    made = asyncio.run(
        build_preferences(conversations, simulator, ScriptedDiscriminator(), PreferencesConfig(num_alternatives=4))
    )
    counts = made.counts
    assert counts["sessions"] == len(conversations) == len(made.scores)
    assert counts["alternatives"] == 4 * counts["critical_turns"]
    assert counts["made"] + counts["too_few"] == counts["critical_turns"]
    dropped = counts.get("dropped_chosen_not_positive", 0) + counts.get("dropped_rejected_not_negative", 0)
    assert counts["kept"] + dropped == counts["made"] and counts["kept"] == len(made.pairs) > 0
    assert all(keep(pair) and pair.reward_chosen == max(pair.rewards) for pair in made.pairs)
    assert [s.session_id for s in made.scores] == [session.session_id for session, _ in conversations]


class Reads(ScriptedDiscriminator):
    """Raises an error for some sessions, after a wait."""

    def __init__(self, error: Exception, session_ids, wait_s: float = 0.0) -> None:
        super().__init__()
        self.error, self.session_ids, self.wait_s, self.num_scored = error, set(session_ids), wait_s, 0

    async def log_odds(self, session, branches=()):
        if session.session_id in self.session_ids:
            raise self.error
        await asyncio.sleep(self.wait_s)
        self.num_scored += 1
        return await super().log_odds(session, branches)


def test_sessions_that_are_too_long_for_the_discriminator_are_counted_and_the_others_go_on(simulator, conversations):
    config = PreferencesConfig(num_alternatives=4)
    everything = asyncio.run(build_preferences(conversations, simulator, ScriptedDiscriminator(), config))
    long = {conversations[1][0].session_id, conversations[4][0].session_id}
    progress = []
    reads = Reads(OverlongError("does not fit 10 tokens"), long)
    made = asyncio.run(build_preferences(conversations, simulator, reads, config, lambda: progress.append(1)))
    assert made.pairs == [pair for pair in everything.pairs if pair.session_id not in long]
    assert made.scores == [scores for scores in everything.scores if scores.session_id not in long]
    assert (made.counts["sessions"], made.counts["too_long"]) == (len(conversations), 2)
    assert len(progress) == len(conversations)


def test_an_error_is_raised_if_no_session_fits_the_discriminator(simulator, conversations):
    reads = Reads(OverlongError("raise discriminator.max_tokens"), [s.session_id for s, _ in conversations])
    with pytest.raises(OverlongError, match=r"raise discriminator\.max_tokens"):
        asyncio.run(build_preferences(conversations, simulator, reads, PreferencesConfig()))


def test_an_error_that_ends_the_phase_leaves_no_session_running(simulator, conversations):
    reads = Reads(EngineError("the discriminator is gone"), [conversations[3][0].session_id], wait_s=0.01)

    async def main():
        with pytest.raises(EngineError, match="is gone"):
            await build_preferences(conversations, simulator, reads, PreferencesConfig())
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(0.05)
        assert reads.num_scored == 0

    asyncio.run(main())


def test_pairs_are_the_same_whatever_the_concurrency(simulator, conversations):
    sets = [
        asyncio.run(
            build_preferences(conversations, simulator, ScriptedDiscriminator(), PreferencesConfig(3, concurrency=n))
        )
        for n in (1, 5, 256)
    ]
    assert sets[0] == sets[1] == sets[2]


def test_the_stand_in_discriminator_is_causal_and_agrees_with_itself_on_branches():
    messages = [Message(role=("user", "assistant")[i % 2], content=f"m{i}") for i in range(7)]
    session = Session(session_id="s", messages=tuple(messages))
    judge = ScriptedDiscriminator(seed=1)
    scores = asyncio.run(judge.log_odds(session, [Branch(turn=3, texts=("m4", "else"))]))
    assert len(scores.log_odds) == 5 and scores.log_odds[0] == 0.0
    assert scores.branches[0][0] == scores.log_odds[3] != scores.branches[0][1]
    for cut in range(1, 7):
        edited = session.model_copy(
            update={"messages": (*messages[:cut], Message(role=messages[cut].role, content="edited"))}
        )
        edited_log_odds = asyncio.run(judge.log_odds(edited)).log_odds
        untouched = 1 + sum(m.role == "user" for m in messages[:cut])
        assert edited_log_odds[:untouched] == scores.log_odds[:untouched]
    with pytest.raises(IndexError, match="turn 9"):
        asyncio.run(judge.log_odds(session, [Branch(turn=9, texts=("x",))]))


def test_the_stand_in_engine_depends_on_prompt_seed_and_adapter_and_ends_with_stop_tokens():
    engine = ScriptedEngine(range(10, 60), EngineScript(mean_tokens=5, end_rate=0.5))

    def ask(prompt=(1, 2), seed=0, adapter=None, temperature=1.0):
        sampling = Sampling(seed=seed, max_tokens=8, temperature=temperature, stop_token_ids=(3, 4))
        return asyncio.run(engine.generate(prompt, sampling, adapter))

    assert ask() == ask() and len(ask().logprobs) == len(ask().token_ids)
    assert len({ask().token_ids, ask(seed=1).token_ids, ask((1, 3)).token_ids, ask(adapter=ADAPTER).token_ids}) == 4
    assert ask(seed=1, temperature=0) == ask(seed=2, temperature=0)
    replies = [ask(seed=s) for s in range(100)]
    for reply in replies:
        stopped = reply.token_ids[-1] in (3, 4)
        assert (reply.finish_reason == "stop") is stopped and len(reply.token_ids) <= 8
        assert stopped or len(reply.token_ids) == 8
        assert not {3, 4} & set(reply.token_ids[:-1])
    assert {r.token_ids[-1] for r in replies} >= {3, 4} and any(r.finish_reason == "length" for r in replies)


def test_the_stand_ins_latency_has_a_long_tail():
    seconds = sorted(Latency(median_s=0.1, straggler_rate=0.02).seconds(i) for i in range(2000))
    assert 0.08 < seconds[1000] < 0.12 and seconds[-1] > 10 * seconds[1000]
    with pytest.raises(ConfigError, match=r"Latency\.median_s: expected 0 or more"):
        Latency(median_s=-1)


def test_fewer_than_two_alternatives_are_refused():
    with pytest.raises(ConfigError, match="num_alternatives"):
        PreferencesConfig(num_alternatives=1)


def test_forks_differ_from_one_another_and_from_the_original_message(simulator, conversations):
    _, state = conversations[0]
    fork = before_user_turn(state, 1)
    seeds = [reply_seed(fork), *(reply_seed(fork, "alternative", i) for i in range(8))]
    assert len(set(seeds)) == 9
