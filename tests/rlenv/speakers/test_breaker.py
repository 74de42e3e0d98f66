"""An endpoint that fails for a while costs time and no conversation, and one that is dead ends the phase soon."""

from __future__ import annotations

import asyncio
import time

import pytest

from launch.adversarial.simulation import simulate
from launch.run.settings import load_config
from rlenv.core.errors import EngineError, PhaseError, UnreachableError
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Sampling
from rlenv.judges.annotate import judged
from rlenv.judges.llm import LLMJudge, LLMJudgeConfig
from rlenv.population.corpus import generate_sessions
from rlenv.speakers.breaker import Breaker
from rlenv.speakers.completers import CachedCompleter, EndpointCompleter
from rlenv.speakers.endpoint import EndpointSpeaker
from rlenv.speakers.scripted import ScriptedUser
from tests.local_endpoint import serve


class Endpoint:
    """Fails requests until ``up``, and counts them."""

    def __init__(self, error: type[Exception] = UnreachableError) -> None:
        self.up = False
        self.asked = 0
        self.error = error

    async def ask(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.up:
            raise self.error("down")
        return "hello"


async def fail(breaker: Breaker, endpoint: Endpoint, times: int) -> None:
    for _ in range(times):
        with pytest.raises(endpoint.error):
            await breaker.call(endpoint.ask)


def test_after_some_failures_in_a_row_all_wait_until_a_request_succeeds():
    async def outage() -> tuple[list[str], int]:
        breaker, endpoint = Breaker("m", after=3, patience_s=60, pause_s=0.05), Endpoint()
        await fail(breaker, endpoint, 2)
        waiting = [asyncio.ensure_future(breaker.call(endpoint.ask))]
        await asyncio.sleep(0.01)
        waiting += [asyncio.ensure_future(breaker.call(endpoint.ask)) for _ in range(20)]
        await asyncio.sleep(0.02)
        held_back = endpoint.asked
        endpoint.up = True
        return await asyncio.gather(*waiting), held_back

    said, held_back = asyncio.run(outage())
    assert said == ["hello"] * 21 and held_back == 3


def test_while_all_wait_few_requests_are_sent_and_none_fails():
    async def outage() -> int:
        breaker, endpoint = Breaker("m", after=3, patience_s=60, pause_s=0.1), Endpoint()
        await fail(breaker, endpoint, 2)
        waiting = [asyncio.ensure_future(breaker.call(endpoint.ask)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting += [asyncio.ensure_future(breaker.call(endpoint.ask)) for _ in range(50)]
        await asyncio.sleep(0.5)
        asked, endpoint.up = endpoint.asked, True
        assert await asyncio.gather(*waiting) == ["hello"] * 53
        return asked

    assert 6 <= asyncio.run(outage()) <= 5 + 6


def test_a_dead_endpoint_fails_requests_at_once_with_what_to_do_and_may_come_back():
    async def death() -> float:
        breaker, endpoint = Breaker("m at http://x", after=2, patience_s=0.1, pause_s=0.3), Endpoint()
        await fail(breaker, endpoint, 1)
        with pytest.raises(EngineError, match=r"m at http://x: 2 requests in a row .*check that the server runs"):
            await breaker.call(endpoint.ask)
        began = time.monotonic()
        with pytest.raises(EngineError, match="have failed"):
            await breaker.call(endpoint.ask)
        seconds = time.monotonic() - began
        assert endpoint.asked == 2
        endpoint.up = True
        await asyncio.sleep(0.31)
        assert await breaker.call(endpoint.ask) == "hello" == await breaker.call(endpoint.ask)
        return seconds

    assert asyncio.run(death()) < 0.04


def test_an_endpoint_that_has_never_answered_is_not_waited_for_as_long():
    async def death(answers_first: bool) -> bool:
        breaker = Breaker("m", after=2, patience_s=60, first_patience_s=0.1, pause_s=0.2)
        endpoint = Endpoint()
        if answers_first:
            endpoint.up = True
            await breaker.call(endpoint.ask)
            endpoint.up = False
        await fail(breaker, endpoint, 1)
        waiting = asyncio.ensure_future(breaker.call(endpoint.ask))
        done, _ = await asyncio.wait([waiting], timeout=1.0)
        waiting.cancel()
        return bool(done) and isinstance(waiting.exception(), EngineError)

    assert asyncio.run(death(answers_first=False)) and not asyncio.run(death(answers_first=True))


def test_what_an_endpoint_refuses_says_nothing_about_its_life():
    async def refusals() -> int:
        breaker, endpoint = Breaker("m", after=2, patience_s=60, pause_s=60), Endpoint(EngineError)
        await fail(breaker, endpoint, 9)
        return endpoint.asked

    assert asyncio.run(refusals()) == 9


def speaker(url: str, **waits: float) -> EndpointSpeaker:
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.9)
    made = EndpointSpeaker("them", "chatbot", url, "m", None, lambda context: "s", sampling, retries=0)
    made._client.breaker = Breaker("m", **waits)
    return made


def simulated(tmp_path, url: str, **waits: float) -> None:
    sessions = generate_sessions(10, 1, 0)
    contexts = {"adversarial": sessions, "evaluation": []}
    config = load_config(None, ["env.max_turns=3", "collect.simulations_per_context=4", "collect.concurrency=4"])
    bots = {"them": speaker(url, **waits)}
    user = ScriptedUser("user", leave_rate=0.0)
    simulate(tmp_path / "simulated", "t", "base", user, bots, contexts, config.collect, config.env, 0)


def test_an_outage_in_the_middle_of_a_phase_costs_no_conversation(tmp_path):
    began: list[float] = []

    def answer(body):
        began.append(time.monotonic())
        down = len(began) > 30 and began[-1] - began[30] < 0.3
        return (503, {"message": "restarting"}) if down else "hm"

    with serve(answer) as server:
        simulated(tmp_path, server.base_url, after=2, patience_s=30, pause_s=0.1)
    assert (tmp_path / "simulated" / "sessions.jsonl").read_text().count("\n") == 40


def judge(url: str, folder, **waits: float) -> LLMJudge:
    completer = EndpointCompleter(url, "m", timeout_s=0.5, retries=0)
    completer._client.breaker = Breaker("m", **waits)
    config = LLMJudgeConfig(kinds=("issues",), concurrency=4)
    return LLMJudge(CachedCompleter(completer, folder), load_taxonomy(), config)


def test_an_outage_of_a_judge_costs_no_session(tmp_path):
    began: list[float] = []

    def answer(body):
        began.append(time.monotonic())
        down = len(began) > 10 and began[-1] - began[10] < 0.3
        return (503, {"message": "restarting"}) if down else '{"issues": []}'

    sessions = generate_sessions(40, 1, 0)
    with serve(answer) as server:
        asked = judged(sessions, judge(server.base_url, tmp_path, after=2, patience_s=30, pause_s=0.1), concurrency=4)
        assert None not in asyncio.run(asked)


@pytest.mark.parametrize("hangs", [True, False])
def test_a_judge_that_is_dead_or_hangs_ends_the_annotation_soon_with_one_message(hangs, tmp_path):
    def answer(body):
        time.sleep(2.0 * hangs)
        return 503, {"message": "gone"}

    sessions, began = generate_sessions(60, 1, 0), time.monotonic()
    with serve(answer) as server:
        waits = {"after": 2, "patience_s": 30, "first_patience_s": 0.1, "pause_s": 0.1}
        asked = judged(sessions, judge(server.base_url, tmp_path, **waits), concurrency=4)
        with pytest.raises(PhaseError, match=r"of 60 sessions were not judged .*run the same command again"):
            asyncio.run(asked)
        assert len(server.requests) < 30
    assert time.monotonic() - began < 60


def test_a_phase_whose_endpoint_is_dead_ends_when_too_many_have_failed_and_not_when_all_have(tmp_path):
    with serve(lambda body: (503, {"message": "gone"})) as server:
        with pytest.raises(PhaseError, match=r"3 of 40 conversations failed .*Run the same command again"):
            simulated(tmp_path, server.base_url, after=2, patience_s=0.1, pause_s=0.1)
        assert len(server.requests) < 20
    assert not (tmp_path / "simulated").exists()
