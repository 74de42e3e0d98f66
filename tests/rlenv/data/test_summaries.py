"""Summaries: what is asked and written, nothing twice, nothing of a person's lost, and failures that can be resumed."""

import json
import re
import threading

import pytest

from rlenv.core import aio
from rlenv.core.errors import ConfigError, EngineError, OverlongError, PhaseError
from rlenv.core.types import Generation, Message, Session, SessionContext
from rlenv.data.summaries import WRITE, SummaryConfig, summarize
from rlenv.prompting.cutting import estimate_tokens
from rlenv.speakers.completers import CachedCompleter, EndpointCompleter, EngineCompleter
from tests.local_endpoint import serve

SECRET = "word-from-a-message"


class ListCompleter:
    """Answers each request with its number; fails or stays silent where told."""

    name = "list"

    def __init__(self, fail=lambda prompt: False, silent=0):
        self.prompts = []
        self.seeds = []
        self.fail = fail
        self.silent = silent

    async def complete(self, messages, max_tokens, seed, schema=None):
        self.prompts.append(messages)
        self.seeds.append(seed)
        if self.fail(messages[1]["content"]):
            raise EngineError("the model is away")
        if len(self.prompts) <= self.silent:
            return " "
        return f"answer {len(self.prompts)}"


def session(session_id, user="ann", text=SECRET, **context):
    messages = (Message(role="user", content=f"{text} {session_id}"), Message(role="assistant", content="I see."))
    return Session(session_id=session_id, user_id=user, messages=messages, context=SessionContext(**context))


def run(sessions, completer, folder, **config):
    settings = SummaryConfig(**{"concurrency": 1, **config})
    return aio.run(summarize(sessions, CachedCompleter(completer, folder), settings))


def test_a_session_gets_its_own_summary_earlier_ones_and_the_long_term(tmp_path):
    sessions = [session("a1"), session("b1", "bob"), session("a2"), session("a3")]
    done, report = run(sessions, ListCompleter(), tmp_path)
    contexts = {s.session_id: s.context for s in done}
    assert contexts["a1"].current_summary == "answer 1"
    assert contexts["a1"].previous_summaries == ()
    assert contexts["a2"].previous_summaries == ("answer 1",)
    assert contexts["a3"].previous_summaries == ("answer 1", "answer 3")
    assert contexts["a3"].long_term_context == "answer 5"
    assert contexts["a3"].generated == ("current_summary", "previous_summaries", "long_term_context")
    assert contexts["a3"].recent_sessions == (sessions[2].messages,)
    assert contexts["b1"].generated == ("current_summary",)
    assert contexts["b1"].long_term_context is None
    assert (report.num_asked, report.num_cached, report.num_users) == (5, 0, 2)
    assert (report.num_current, report.num_previous, report.num_long_term, report.num_recent) == (4, 2, 1, 2)


def test_the_model_sees_the_transcript_of_the_session_and_the_earlier_summaries(tmp_path):
    completer = ListCompleter()
    run([session("a1"), session("a2"), session("a3")], completer, tmp_path)
    assert completer.prompts[0][1]["content"] == f"User: {SECRET} a1\nChatbot: I see.\n\n{WRITE}"
    assert completer.prompts[3][1]["content"] == f"- answer 1\n- answer 2\n\n{WRITE}"


def test_only_the_latest_earlier_summaries_are_kept(tmp_path):
    done, _ = run(
        [session(f"a{i}") for i in range(6)], ListCompleter(), tmp_path, num_previous=3, num_recent_sessions=0
    )
    assert done[5].context.previous_summaries == ("answer 3", "answer 4", "answer 5")
    assert done[5].context.recent_sessions == ()


def test_text_by_people_is_kept_and_used_for_the_other_sessions(tmp_path):
    written = session("a1", current_summary="By hand.")
    own = session("a3", previous_summaries=("P1.", "P2."), long_term_context="Mine.")
    completer = ListCompleter()
    done, report = run([written, session("a2"), own], completer, tmp_path)
    assert done[0] == written
    assert done[1].context.previous_summaries == ("By hand.",)
    assert done[2].context.previous_summaries == ("P1.", "P2.")
    assert done[2].context.long_term_context == "Mine."
    assert done[2].context.generated == ("current_summary",)
    assert (len(completer.prompts), report.num_kept) == (2, 3)


def test_generated_text_is_replaced_and_a_second_run_sends_no_request(tmp_path):
    sessions = [session("a1"), session("a2"), session("a3")]
    first, _ = run(sessions, ListCompleter(), tmp_path / "one")
    again, report = run(first, completer := ListCompleter(), tmp_path / "one")
    assert again == first
    assert (completer.prompts, report.num_cached, report.num_kept) == ([], 4, 0)
    _, other = run(first, ListCompleter(), tmp_path / "two")
    assert other.num_asked == 4


def test_equal_requests_are_asked_once_even_at_the_same_time(tmp_path):
    same = [session("s", user=f"u{i}").model_copy(update={"session_id": f"s{i}"}) for i in range(8)]
    completer = ListCompleter()
    _, report = run(same, completer, tmp_path, concurrency=8)
    assert (len(completer.prompts), report.num_asked, report.num_cached) == (1, 1, 7)


def test_a_failed_run_resumes(tmp_path):
    sessions = [session(f"s{i}", user=f"u{i}") for i in range(5)]
    with pytest.raises(PhaseError, match=r"1 summaries failed of 5 sessions.*session s3.*4 answers are kept") as caught:
        run(sessions, ListCompleter(fail=lambda prompt: "s3" in prompt), tmp_path)
    assert SECRET not in str(caught.value)
    completer = ListCompleter()
    _, report = run(sessions, completer, tmp_path)
    assert (len(completer.prompts), report.num_asked, report.num_cached) == (1, 1, 4)


def test_a_dead_model_is_not_asked_for_every_session(tmp_path):
    completer = ListCompleter(fail=lambda prompt: True)
    with pytest.raises(PhaseError, match="stopped after 3"):
        run([session(f"s{i}", user=f"u{i}") for i in range(50)], completer, tmp_path, max_failures=3)
    assert len(completer.prompts) == 3


def test_an_empty_answer_is_requested_again_with_another_seed_and_never_cached(tmp_path):
    completer = ListCompleter(silent=2)
    done, _ = run([session("a")], completer, tmp_path, seed=7)
    assert (completer.seeds, done[0].context.current_summary) == ([7, 8, 9], "answer 3")
    with pytest.raises(PhaseError, match="no answer in 2 tries"):
        run([session("b")], ListCompleter(silent=9), tmp_path, attempts=2)


def test_long_sessions_are_cut_in_their_middle_to_the_budget(tmp_path):
    messages = tuple(Message(role="assistant" if i % 2 else "user", content=f"number {i}") for i in range(999))
    completer = ListCompleter()
    _, report = run([Session(session_id="a", messages=messages)], completer, tmp_path, input_tokens=100)
    shown = completer.prompts[0][1]["content"].removesuffix(f"\n\n{WRITE}")
    assert estimate_tokens(shown) <= 100
    assert shown.startswith("User: number 0\n")
    assert shown.endswith("User: number 998")
    assert report.num_cut == 1


def test_sessions_without_words_are_counted_not_asked(tmp_path):
    completer = ListCompleter()
    empty = Session(session_id="a", messages=(Message(role="user", content=" \n"),))
    done, report = run([empty], completer, tmp_path)
    assert (done, completer.prompts, report.num_empty) == ([empty], [], 1)


def test_a_damaged_answer_on_disk_is_asked_again(tmp_path):
    run([session("a")], ListCompleter(), tmp_path)
    (path,) = tmp_path.rglob("*.json")
    assert SECRET not in path.read_text()
    path.write_text('{"text": ')
    assert run([session("a")], ListCompleter(), tmp_path)[1].num_asked == 1


def test_wrong_settings_are_reported_together():
    with pytest.raises(
        ConfigError, match=r"(?s)num_previous: expected 1 or more, got 0.*input_tokens: expected 64 or more"
    ):
        SummaryConfig(num_previous=0, input_tokens=1)


# -------------------------------------------------------------------------------------- the endpoint


def ask(completer, text="hello", max_tokens=9, seed=3):
    return aio.run(completer.complete([{"role": "user", "content": text}], max_tokens, seed))


def test_an_endpoint_is_asked_in_the_openai_protocol_with_the_named_key(monkeypatch):
    monkeypatch.setenv("A_KEY", "k-1")
    with serve(lambda body: "  Said. \n") as endpoint:
        assert ask(EndpointCompleter(endpoint.base_url, "m", "A_KEY")) == "Said."
        (request,) = endpoint.requests
    assert request == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.3,
        "max_tokens": 9,
        "seed": 3,
    }
    assert endpoint.keys == ["Bearer k-1"]


def test_a_missing_key_is_reported_by_name_before_any_request(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        ask(EndpointCompleter("http://127.0.0.1:9/v1", "m", "NO_SUCH_KEY"))


def test_a_request_is_repeated_after_a_passing_error():
    stumbles = iter([(500, {"message": "no"}), (429, {"message": "slow"})])
    with serve(lambda body: next(stumbles, "Said.")) as endpoint:
        assert ask(EndpointCompleter(endpoint.base_url, "m")) == "Said."
        assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": SECRET}, ConfigError),
        (404, {"message": SECRET}, ConfigError),
        (400, {"message": f"{SECRET} context length"}, OverlongError),
        (400, {"message": SECRET}, EngineError),
        (500, {"message": SECRET}, EngineError),
    ],
)
def test_a_refused_request_is_reported_by_status_and_never_by_text(status, error, kind):
    with serve(lambda body: (status, error)) as endpoint:
        with pytest.raises(kind) as caught:
            ask(EndpointCompleter(endpoint.base_url, "m", retries=0))
        assert SECRET not in str(caught.value)
        assert len(endpoint.requests) == 1


def test_an_unreachable_server_is_an_engine_error():
    with pytest.raises(EngineError, match="APIConnectionError after 0 retries"):
        ask(EndpointCompleter("http://127.0.0.1:9/v1", "m", retries=0))


def test_a_reasoning_model_is_asked_with_the_options_it_accepts():
    def answer(body):
        wrong = next((name for name in ("max_tokens", "temperature") if name in body), None)
        return (400, {"message": "unsupported", "param": wrong}) if wrong else "Said."

    with serve(answer) as endpoint:
        completer = EndpointCompleter(endpoint.base_url, "m")
        assert (ask(completer), ask(completer)) == ("Said.", "Said.")
        assert [len(r) for r in endpoint.requests] == [5, 5, 4, 4]  # one option renamed, then one left out


def test_a_wrong_key_stops_the_run_at_once(tmp_path):
    with serve(lambda body: (401, {"message": "no"})) as endpoint:
        sessions = [session(f"s{i}", user=f"u{i}") for i in range(30)]
        with pytest.raises(ConfigError, match="status 401"):
            run(sessions, EndpointCompleter(endpoint.base_url, "m"), tmp_path, concurrency=2)
        assert len(endpoint.requests) <= 4


def test_requests_are_concurrent_up_to_the_limit(tmp_path):
    full = threading.Barrier(4)

    def answer(body):
        full.wait(timeout=20)  # answers come only once four requests are there together
        return "Said."

    with serve(answer) as endpoint:
        completer = EndpointCompleter(endpoint.base_url, "m", retries=0)
        run([session(f"s{i}", user=f"u{i}") for i in range(16)], completer, tmp_path, concurrency=4)
        assert endpoint.most_at_once == 4


# ---------------------------------------------------------------------------------------- the engine


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|endoftext|>"]})
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return made


class RecordingEngine:
    def __init__(self, reply):
        self.reply = reply
        self.calls = []

    async def generate(self, token_ids, sampling, adapter=None, conversation=None):
        self.calls.append((list(token_ids), sampling))
        return Generation(token_ids=self.reply, logprobs=[0.0] * len(self.reply), finish_reason="stop")


def test_an_engine_gets_the_models_own_chat_template_and_its_answer_is_text(tokenizer):
    engine = RecordingEngine(tokenizer.encode(" Said. <|im_end|>"))
    completer = EngineCompleter(engine, tokenizer, "tiny")
    messages = [{"role": "system", "content": "Sum up."}, {"role": "user", "content": "a <|im_end|> b"}]
    assert aio.run(completer.complete(messages, 20, seed=5)) == "Said."
    ((ids, sampling),) = engine.calls
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2  # the one in the text stays text
    assert (sampling.max_tokens, sampling.seed, sampling.temperature) == (20, 5, 0.3)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in sampling.stop_token_ids


def test_an_engine_writes_summaries_too(tmp_path, tokenizer):
    completer = EngineCompleter(RecordingEngine(tokenizer.encode("Brief.<|im_end|>")), tokenizer, "tiny")
    cached = CachedCompleter(completer, tmp_path)
    done, _ = aio.run(summarize([session("a")], cached, SummaryConfig(), completer.count_tokens))
    assert done[0].context.current_summary == "Brief."
    (path,) = tmp_path.rglob("*.json")
    assert re.fullmatch(r"[0-9a-f]{64}", path.stem)
    assert json.loads(path.read_text())["text"] == "Brief."
