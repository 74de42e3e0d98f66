"""A language model as a judge, over a real server: what is asked and read, retries, failures, nothing paid twice."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from rlenv.core import aio
from rlenv.core.errors import ConfigError, EngineError, PhaseError
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Generation, Message, Session, SessionContext
from rlenv.judges.annotate import judged, with_labels
from rlenv.judges.llm import LLMJudge, LLMJudgeConfig
from rlenv.judges.questions import Answer, MalformedReply, issue_question, read_issues
from rlenv.speakers.completers import CachedCompleter, EndpointCompleter, EngineCompleter
from tests.local_endpoint import serve

SECRET = "word-from-a-message"
TAXONOMY = load_taxonomy()
SESSION = Session(
    session_id="s7",
    context=SessionContext(situation="Works at night."),
    messages=(
        Message(role="assistant", content="Hello."),
        Message(role="user", content=f"I am angry {SECRET}"),
        Message(role="assistant", content="Get over it."),
        Message(role="user", content=" "),
    ),
)


def issues(*found: tuple[str, list[int]]) -> str:
    return json.dumps({"issues": [{"category": c, "messages": n} for c, n in found]})


def wants(body, kind: str) -> bool:
    return kind in body["response_format"]["json_schema"]["schema"]["properties"]


def greeting(i: int) -> tuple[Message, ...]:
    return (Message(role="user", content=f"hi {i}"), Message(role="assistant", content=f"hello {i}"))


def answer(body) -> str:
    """A good judge's reply to either question."""
    if wants(body, "issues"):
        return issues(("unempathetic_responses", [2]), ("premature_wrap_up", [2, 2]))
    return '{"actions": ["negative_affect", "negative_affect"]}'


def judge(endpoint, folder, **config) -> LLMJudge:
    completer = EndpointCompleter(endpoint.base_url, "m", temperature=0.0)
    return LLMJudge(CachedCompleter(completer, folder), TAXONOMY, LLMJudgeConfig(**config))


def ask(who: LLMJudge, session: Session = SESSION):
    return aio.run(who.annotate(session)).labels


def test_issues_are_given_to_the_named_messages_and_actions_to_the_messages_in_question(tmp_path):
    with serve(answer) as endpoint:
        assert ask(judge(endpoint, tmp_path)) == (
            (), ("negative_affect",), ("unempathetic_responses", "premature_wrap_up"), (),
        )  # fmt: skip
        assert len(endpoint.requests) == 2  # an empty message is not asked about
        whole = next(b for b in endpoint.requests if wants(b, "issues"))
        single = next(b for b in endpoint.requests if wants(b, "actions"))
    text = whole["messages"][1]["content"]
    assert "Chatbot [1]: Hello.\nUser: I am angry" in text and "Chatbot [2]: Get over it." in text
    assert "- Works at night." in text
    for issue in TAXONOMY.issues:
        assert f"- {issue.id}: {issue.name}. {issue.description}" in whole["messages"][0]["content"]
    item = whole["response_format"]["json_schema"]["schema"]["properties"]["issues"]["items"]["properties"]
    assert item["category"]["enum"] == list(TAXONOMY.issue_ids())
    assert item["messages"]["items"] == {"type": "integer", "minimum": 1, "maximum": 2}
    assert single["messages"][1]["content"] == f"Said before:\nChatbot: Hello.\n\nThe message:\nI am angry {SECRET}"
    assert whole["response_format"]["json_schema"]["strict"] is True


def test_equal_requests_are_cached_and_another_taxonomy_text_or_model_is_requested_anew(tmp_path):
    with serve(answer) as endpoint:
        first = ask(judge(endpoint, tmp_path))
        assert ask(judge(endpoint, tmp_path)) == first
        assert len(endpoint.requests) == 2
        ask(judge(endpoint, tmp_path, kinds=("issues",)))
        assert len(endpoint.requests) == 2
        shorter = TAXONOMY.model_copy(update={"issues": TAXONOMY.issues[:10]})
        cached = CachedCompleter(EndpointCompleter(endpoint.base_url, "m", temperature=0.0), tmp_path)
        ask(LLMJudge(cached, shorter, LLMJudgeConfig(kinds=("issues",))))
        assert len(endpoint.requests) == 3
        other = SESSION.model_copy(update={"messages": (*SESSION.messages, Message(role="assistant", content="Hm."))})
        ask(judge(endpoint, tmp_path, kinds=("issues",)), other)
        assert len(endpoint.requests) == 4
    assert all(SECRET not in path.read_text() for path in tmp_path.rglob("*.json"))


MALFORMED = (
    f"I think {SECRET}",
    '{"issues": [{"category": "unempathetic_responses", "messages": [2',
    '{"problems": []}',
    '{"issues": ["unempathetic_responses"]}',
    issues((SECRET, [1])),
    issues(("unempathetic_responses", [3])),
    issues(("unempathetic_responses", [0])),
    '{"issues": [{"category": "unempathetic_responses", "messages": [true]}]}',
    '{"issues": [{"category": ["x"], "messages": [1]}]}',
    "[]",
)


GOOD = issues(("unempathetic_responses", [2]))
READ = (
    f"<think>Maybe {issues(('premature_wrap_up', [1]))}? No.</think>\n{GOOD}",
    f"{GOOD}\nThe second message answers {{nothing}}.",
    f"A draft: {issues()}\nThe answer: ```json\n{GOOD}\n```",
    issues(("Unempathetic responses", [2])),
    issues(("unempathetic-responses", [2])),
    issues(("unempathetic_responses: Unempathetic responses", [2])),
    GOOD.replace("[2]", '["2"]'),
    GOOD.replace("[2]", '["Chatbot [2]"]'),
    GOOD.replace("[2]", "2"),
    GOOD.replace('"issues"', '"Issues"'),
    '{"issues": {"category": "unempathetic_responses", "messages": [2]}}',
)


@pytest.mark.parametrize("reply", READ)
def test_the_usual_forms_of_a_reply_are_read(reply):
    assert read_issues(reply, issue_question(SESSION, TAXONOMY), TAXONOMY) == Answer({2: ("unempathetic_responses",)})


def test_a_category_called_none_is_no_category():
    question = issue_question(SESSION, TAXONOMY)
    assert read_issues(issues(("None", [1])), question, TAXONOMY) == Answer({})


def test_an_unknown_category_among_known_ones_is_left_out_and_counted(tmp_path):
    reply = issues(("unempathetic_responses", [2]), ("rude_tone", [1]))
    with serve(lambda body: reply if wants(body, "issues") else '{"actions": ["greets", "is_tired"]}') as endpoint:
        who = judge(endpoint, tmp_path)
        done, report = with_labels([SESSION], aio.run(judged([SESSION], who)), who)
    assert report.num_unknown == 2
    assert [m.actions or m.issues for m in done[0].messages[:3]] == [(), ("greets",), ("unempathetic_responses",)]


def test_only_a_reply_that_seems_cut_is_told_so():
    question = issue_question(SESSION, TAXONOMY)
    for reply, cut in (("I would rather not.", False), ('{"issues": [', True), ("<think>Well", True), ("{a}", False)):
        with pytest.raises(MalformedReply) as caught:
            read_issues(reply, question, TAXONOMY)
        assert ("max_tokens" in str(caught.value)) is cut


def test_a_session_without_a_usable_reply_is_left_as_it_was_and_the_others_are_labelled(tmp_path):
    sessions = [SESSION.model_copy(update={"session_id": f"s{i}", "messages": greeting(i)}) for i in range(4)]
    with serve(lambda body: SECRET if "hi 2" in str(body["messages"]) else answer_first(body)) as endpoint:
        who = judge(endpoint, tmp_path)
        found = aio.run(judged(sessions, who))
        done, report = with_labels(sessions, found, who)
        assert report.num_not_judged == 1 and done[2] == sessions[2] and done[3].messages[1].issues == ()
        with pytest.raises(PhaseError, match=r"none of 1 sessions was judged.*no usable reply"):
            aio.run(judged(sessions[2:3], who))


@pytest.mark.parametrize("reply", MALFORMED)
def test_a_malformed_reply_is_reported_without_its_text(reply):
    question = issue_question(SESSION, TAXONOMY)
    with pytest.raises(MalformedReply) as caught:
        read_issues(reply, question, TAXONOMY)
    assert SECRET not in str(caught.value)


def test_a_malformed_reply_is_asked_again_and_a_rerun_asks_nothing(tmp_path):
    replies = iter([f"Sure! {SECRET}", '```json\n{"issues": []}\n```'])
    with serve(lambda body: next(replies)) as endpoint:
        who = judge(endpoint, tmp_path, kinds=("issues",))
        assert ask(who) == ((), (), (), ())
        one, two = endpoint.requests
        assert one["seed"] != two["seed"]
        assert "An earlier reply could not be used: a reply of" in two["messages"][1]["content"]
        assert ask(judge(endpoint, tmp_path, kinds=("issues",))) == ((), (), (), ())
        assert len(endpoint.requests) == 2


def test_only_malformed_replies_are_an_error_with_the_session_and_are_not_cached(tmp_path):
    with serve(lambda body: SECRET) as endpoint:
        who = judge(endpoint, tmp_path, kinds=("issues",), attempts=2)
        with pytest.raises(EngineError, match=r"session s7: m at http.*no usable reply in 2 tries") as caught:
            ask(who)
        assert SECRET not in str(caught.value)
        endpoint.answer = lambda body: '{"issues": []}'
        assert ask(judge(endpoint, tmp_path, kinds=("issues",), attempts=2)) == ((), (), (), ())
        assert len(endpoint.requests) == 3


def test_a_server_without_schemas_is_asked_without_them_from_then_on(tmp_path):
    def refuse(body):
        if "response_format" in body:
            return 400, {"message": "unknown field response_format", "param": "response_format"}
        return '{"issues": []}' if "issues that its messages" in body["messages"][0]["content"] else '{"actions": []}'

    with serve(refuse) as endpoint:
        assert ask(judge(endpoint, tmp_path, concurrency=1)) == ((), (), (), ())
        assert ["response_format" in body for body in endpoint.requests] == [True, False, False]


def test_concurrent_requests_are_limited_over_all_sessions_and_failures_are_counted(tmp_path):
    sessions = [SESSION.model_copy(update={"session_id": f"s{i}", "messages": greeting(i)}) for i in range(12)]
    with serve(answer_first) as endpoint:
        found = aio.run(judged(sessions, judge(endpoint, tmp_path, concurrency=3), concurrency=12))
        assert len(found) == 12 and len(endpoint.requests) == 24
        assert endpoint.most_at_once <= 3
        endpoint.answer = lambda body: (400, {"message": SECRET})
        with pytest.raises(PhaseError, match="12 of 12 sessions were not judged; the first: session s") as caught:
            aio.run(judged(sessions, judge(endpoint, tmp_path / "new"), concurrency=1))
        assert SECRET not in str(caught.value)


def test_a_session_too_long_for_the_judge_is_left_as_it_was_and_counted(tmp_path):
    sessions = [SESSION.model_copy(update={"session_id": f"s{i}", "messages": greeting(i)}) for i in range(5)]

    def reads(body):
        if "hi 3" in str(body["messages"]):
            return 400, {"message": f"{SECRET} context length", "code": "context_length_exceeded"}
        return answer_first(body)

    with serve(reads) as endpoint:
        who = judge(endpoint, tmp_path)
        found = aio.run(judged(sessions, who))
        assert [i for i, annotation in enumerate(found) if annotation is None] == [3]
        done, report = with_labels(sessions, found, who)
        assert (report.num_sessions, report.num_not_judged, report.num_labelled) == (5, 1, 8)
        assert done[3] == sessions[3] and all(done[i].messages[1].issues == () for i in (0, 1, 2, 4))
        with pytest.raises(PhaseError, match=r"none of 1 sessions was judged .*; the first: session s3") as caught:
            aio.run(judged(sessions[3:4], who))
        assert SECRET not in str(caught.value)


def answer_first(body) -> str:
    return '{"issues": []}' if wants(body, "issues") else '{"actions": []}'


def test_a_wrong_key_stops_at_once(tmp_path):
    with (
        serve(lambda body: (401, {"message": "no"})) as endpoint,
        pytest.raises(ConfigError, match="status 401"),
    ):
        ask(judge(endpoint, tmp_path))


def test_wrong_settings_are_reported_together():
    wrong = r"(?s)\.kinds\.0: expected 'actions' or 'issues'.*\.attempts: expected 1 or more, got 0"
    with pytest.raises(ConfigError, match=wrong):
        LLMJudgeConfig(kinds=("moods",), attempts=0)


class Echo:
    """An engine that notes how it is asked and says nothing."""

    def __init__(self):
        self.schemas = []

    async def generate(self, token_ids, sampling, adapter=None, conversation=None):
        self.schemas.append(sampling.json_schema)
        return Generation(token_ids=(), logprobs=(), finish_reason="stop")


@pytest.mark.parametrize("structured", [True, False])
def test_an_engine_is_constrained_to_the_schema_if_it_can_be(tiny_llama, structured):
    from transformers import AutoTokenizer

    engine = Echo()
    completer = EngineCompleter(engine, AutoTokenizer.from_pretrained(tiny_llama), "tiny", structured=structured)
    aio.run(completer.complete([{"role": "user", "content": "hi"}], 5, 0, {"type": "object"}))
    assert engine.schemas == ['{"type": "object"}' if structured else None]


def test_sessions_that_share_a_request_fail_in_words_where_one_of_them_is_given_up(tmp_path):
    twins = [SESSION.model_copy(update={"session_id": f"s{i}"}) for i in range(2)]

    def slow_and_refused(body):
        if wants(body, "issues"):
            return 400, {"message": SECRET}
        time.sleep(0.3)  # still under way when the session is given up
        return '{"actions": []}'

    with (
        serve(slow_and_refused) as endpoint,
        pytest.raises(PhaseError, match="2 of 2 sessions were not judged"),
    ):
        aio.run(judged(twins, judge(endpoint, tmp_path)))


def test_an_answer_that_two_wait_for_survives_the_one_who_asked_first(tmp_path):
    async def both(completer):
        first, second = (
            asyncio.ensure_future(completer.complete([{"role": "user", "content": "Well?"}], 5, 1)) for _ in range(2)
        )
        await asyncio.sleep(0.1)
        first.cancel()
        return await second

    with serve(lambda body: time.sleep(0.3) or "Yes.") as endpoint:
        completer = CachedCompleter(EndpointCompleter(endpoint.base_url, "m"), tmp_path)
        assert asyncio.run(both(completer)) == "Yes."
        assert len(endpoint.requests) == 1
