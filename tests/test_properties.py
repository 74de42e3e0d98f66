"""Properties that hold for any text and any values: what is written is read, and what people type is what they get."""

from __future__ import annotations

import csv
import json
import tempfile
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from launch.run.manifest import MANIFEST, faults, write_manifest
from launch.run.settings import load_config, to_dict
from rlenv.core.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_at, tidy_adapter
from rlenv.core.canary import Canary, read_canary, write_canary
from rlenv.core.files import read_records, to_line, write_atomic
from rlenv.core.plain_yaml import read_overrides, read_yaml
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import ConversationState, Message, Session, SessionContext, Turn, Utterance
from rlenv.data.importers import import_chat
from rlenv.data.linguistics import APOSTROPHES, type_token_ratio, word_entropy, words
from rlenv.data.sessions import merge_neighbours, num_neighbours, read_sessions, write_sessions
from rlenv.env.conversation import begin
from rlenv.judges.questions import action_question, issue_question, read_actions, read_issues
from rlenv.speakers.thoughts import without_thoughts

property_test = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
"""Equal examples in every run."""

ANY = st.characters(exclude_categories=())  # halves of emojis too
WRITABLE = st.characters(exclude_categories=("Cs",))
TRICKY = st.sampled_from(
    [
        *("", " ", "[]", "[1, 2]", "{}", '"', "null", "007", "yes", "1e5", "a: b", "#x", "a, b", "x\ny"),
        *("\u2028", "é", "e\u0301", "\ufeff"),
    ]
)
TEXT = st.one_of(TRICKY, st.text(ANY, max_size=30))
WRITABLE_TEXT = st.one_of(TRICKY, st.text(WRITABLE, max_size=30))
NAMES = st.text(WRITABLE, min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
"""What a JSON file may hold."""
LABELS = st.one_of(st.none(), st.lists(NAMES, max_size=2).map(tuple))
ROLES = st.sampled_from(["user", "assistant"])
OTHER = st.dictionaries(st.text(WRITABLE, min_size=1, max_size=8).map("x-{}".format), VALUES, max_size=2)
"""Fields that rlenv does not know."""
MESSAGES = st.builds(
    lambda role, content, actions, issues, other: Message(
        role=role, content=content, actions=actions, issues=issues, **other
    ),
    ROLES,
    TEXT,
    LABELS,
    LABELS,
    OTHER,
)
CONTEXTS = st.builds(
    SessionContext,
    profile=st.none() | TEXT,
    previous_summaries=st.lists(TEXT, max_size=2).map(tuple),
    recent_sessions=st.lists(st.lists(MESSAGES, max_size=2).map(tuple), max_size=2).map(tuple),
)
SESSIONS = st.lists(
    st.builds(
        lambda name, user, context, messages, other: Session(
            session_id=name, user_id=user, context=context, messages=tuple(messages), **other
        ),
        NAMES,
        TEXT,
        CONTEXTS,
        st.lists(MESSAGES, max_size=5),
        OTHER,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda session: session.session_id,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all examples: a function's own would be shared by them too, as hypothesis warns."""
    return tmp_path_factory.mktemp("properties")


# ---------------------------------------------------------------------------------------------------------- sessions


@property_test
@given(sessions=SESSIONS, name=st.sampled_from(["s.jsonl", "s.jsonl.gz"]))
def test_sessions_are_read_as_they_were_written_and_written_again_byte_for_byte(folder, sessions, name):
    path, again = folder / name, folder / f"again-{name}"
    write_sessions(path, sessions)
    read = read_sessions(path, neighbours="keep")
    assert read == sessions
    write_sessions(again, read)
    assert again.read_bytes() == path.read_bytes()


@property_test
@given(sessions=SESSIONS)
def test_joined_messages_alternate_and_lose_no_text(folder, sessions):
    write_sessions(folder / "m.jsonl", sessions)
    for before, after in zip(sessions, read_sessions(folder / "m.jsonl"), strict=True):
        assert num_neighbours(after.messages) == 0 and merge_neighbours(after) == after
        for role in ("user", "assistant"):
            said = [[m.content for m in s.messages if m.role == role and m.content] for s in (before, after)]
            assert "\n".join(said[0]) == "\n".join(said[1])


@property_test
@given(spoken=st.lists(st.tuples(ROLES, TEXT), max_size=4), context=CONTEXTS)
def test_conversations_are_read_as_they_were_written(folder, spoken, context):
    turns = tuple(Turn(role=role, utterance=Utterance(text=text)) for role, text in spoken)
    state = begin("c", context, opener="user", seed=1).model_copy(update={"turns": turns})
    write_atomic(folder / "c.jsonl.gz", [to_line(state.model_dump(mode="json"))])
    assert read_records(folder / "c.jsonl.gz", ConversationState) == [state]


# ----------------------------------------------------------------------------------------------------------- imports

SPOKEN = st.lists(st.tuples(ROLES, WRITABLE_TEXT.filter(bool)), min_size=1, max_size=4)
GPT = {"user": "human", "assistant": "gpt"}


def openai(said):
    return [{"role": role, "content": text} for role, text in said]


FORMS = {
    "ShareGPT": lambda said: {"conversations": [{"from": GPT[role], "value": text} for role, text in said]},
    "messages": lambda said: {"messages": openai(said)},
    "parts": lambda said: {"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in said]},
    "a list": openai,
    "a list as text": lambda said: {"chat": json.dumps(openai(said))},
    "a list as Python prints it": lambda said: {"dialog": repr(openai(said))},
    "with a system message": lambda said: {"messages": [{"role": "system", "content": "Be kind."}, *openai(said)]},
}


@property_test
@given(said=SPOKEN, form=st.sampled_from(sorted(FORMS)), lines=st.booleans())
def test_a_chat_is_imported_from_each_form_as_it_was_said(folder, said, form, lines):
    value = FORMS[form](said)
    path = folder / ("chat.jsonl" if lines else "chat.json")
    path.write_text(json.dumps(value) + "\n" if lines else json.dumps([value], indent=1))
    [session], _ = import_chat(path)
    assert [(m.role, m.content) for m in session.messages] == said


@property_test
@given(asked=WRITABLE_TEXT.filter(bool), answered=WRITABLE_TEXT.filter(bool))
@example(asked="[]", answered="[1, 2]")
def test_a_prompt_and_its_completion_are_imported_as_they_were_said(folder, asked, answered):
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": asked, "completion": answered}) + "\n")
    [session], _ = import_chat(folder / "pairs.jsonl")
    assert [(m.role, m.content) for m in session.messages] == [("user", asked), ("assistant", answered)]


@property_test
@given(chats=st.lists(SPOKEN, min_size=1, max_size=3))
def test_a_table_with_a_message_a_row_is_imported_as_it_was_said(folder, chats):
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "speaker", "text"])
        writer.writerows([f"c{i}", role, text] for i, said in enumerate(chats) for role, text in said)
    sessions, _ = import_chat(folder / "rows.csv")
    assert [[(m.role, m.content) for m in s.messages] for s in sessions] == chats


# ---------------------------------------------------------------------------------------------------------- settings


@property_test
@given(text=WRITABLE_TEXT)
def test_a_typed_value_is_the_text_that_was_typed_or_a_number_that_is_written_so(text):
    text = text.strip()
    assume(text and text[0] not in "[{\"'")
    [(key, value)] = read_overrides([f"name={text}"])
    assert key == "name"
    if value is None:
        assert text in ("~", "null", "Null", "NULL")
    elif isinstance(value, bool):
        assert text.lower() == str(value).lower()
    else:
        assert value == text or float(text) == value


@property_test
@given(value=st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_numbers_true_false_and_null_are_typed_as_a_run_writes_them(value):
    written = yaml.safe_dump(value).split("\n")[0]
    [(_, read)] = read_overrides([f"x={written}"])
    assert read == value and type(read) is type(value)


@property_test
@given(text=WRITABLE_TEXT)
def test_a_quoted_value_is_the_text_in_the_quotation_marks(text):
    [(_, read)] = read_overrides([f"x={json.dumps(text)}"])
    assert read == text


@property_test
@given(value=st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=5))
def test_what_a_run_writes_as_yaml_is_read_as_it_was(value):
    assume("\\ud" not in json.dumps(value))
    assume(value is not None)
    assert read_yaml(yaml.safe_dump(value)) == value


@settings(property_test, max_examples=30)
@given(name=WRITABLE_TEXT.filter(bool), temperature=st.floats(0, 5), turns=st.integers(1, 10**9))
def test_the_settings_of_a_run_are_read_as_they_were_written(folder, name, temperature, turns):
    assume("${" not in name)
    path = folder / "run.yaml"
    values = {"name": name, "simulator": {"sampling": {"temperature": temperature}}, "env": {"max_turns": turns}}
    path.write_text(yaml.safe_dump({**values, "out_dir": str(folder / "run")}), encoding="utf-8")
    config = load_config(path)
    assert (config.name, config.simulator.sampling.temperature, config.env.max_turns) == (name, temperature, turns)
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    assert to_dict(load_config(path)) == to_dict(config)


# ------------------------------------------------------------------------------------------------------------- words

WORDY = st.text(st.one_of(st.sampled_from("ab éüßİſ我睡ัमै'’ʼ.-_7\u0301\u200d"), WRITABLE), max_size=25)


@property_test
@given(text=WORDY, apostrophe=st.sampled_from(APOSTROPHES))
def test_words_do_not_depend_on_the_apostrophe_or_on_how_letters_are_encoded(text, apostrophe):
    typed = "".join("'" if letter in APOSTROPHES else letter for letter in text)
    assert words(typed.replace("'", apostrophe)) == words(typed)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) == words(text)


@property_test
@given(one=WORDY, two=WORDY)
def test_words_of_two_messages_are_those_of_each(one, two):
    assert words(f"{one}\n{two}") == words(one) + words(two)


@property_test
@given(text=st.text(st.characters(max_codepoint=127), max_size=40))
def test_a_letter_beyond_ascii_changes_no_other_word(text):
    assert words(f"{text} é") == [*words(text), "é"]


@property_test
@given(tokens=st.lists(NAMES, min_size=1))
def test_figures_of_words_do_not_depend_on_their_order_and_keep_to_their_range(tokens):
    assert word_entropy(tokens) == pytest.approx(word_entropy(tokens[::-1]), abs=1e-9)
    assert 0 <= word_entropy(tokens) <= len(tokens) and 0 < type_token_ratio(tokens) <= 1


# ------------------------------------------------------------------------------------------------------------ judges

TAXONOMY = load_taxonomy()
SAID = Session(
    session_id="s",
    messages=tuple(Message(role=r, content="x") for _ in range(3) for r in ("user", "assistant")),
)  # fmt: skip
ISSUES, ACTIONS = issue_question(SAID, TAXONOMY), action_question(SAID, 2, TAXONOMY, 1)
PROSE = st.text(st.one_of(st.sampled_from('{}[]"`,:\n '), st.characters(exclude_categories=("Cs",))), max_size=40)
THOUGHTS = st.one_of(
    *(
        PROSE.map(form.format)
        for form in (
            "<think>{0}</think>",
            "<think>{0} {{\"issues\": [], \"actions\": []}}</think>",
            "<THINKING>\n{0}\n</THINKING>\n",
            "{0}</think>",
            "[THINK]{0}[/THINK]",
            "◁think▷{0}◁/think▷",
            "<seed:think>{0}</seed:think>",
            "<|START_THINKING|>{0}<|END_THINKING|>",
            "<|channel|>analysis<|message|>{0}<|end|><|start|>assistant<|channel|>final<|message|>",
        )
    ),
    st.just(""),
)  # fmt: skip
FENCES = st.sampled_from(["{0}", "```json\n{0}\n```", "```\n{0}\n```", "**{0}**", "Answer: {0}.", '{{"answer": {0}}}'])


def wrapped(reply: str, thoughts: str, before: str, fence: str, after: str) -> str:
    return f"{thoughts}{before}\n{fence.format(reply)}\n{after}"


@property_test
@given(
    entries=st.lists(
        st.tuples(st.sampled_from(TAXONOMY.issue_ids()), st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        max_size=3,
    ),
    indent=st.sampled_from([None, 1]),
    around=st.tuples(THOUGHTS, PROSE, FENCES, PROSE),
)
def test_a_valid_reply_means_the_same_whatever_stands_around_it(entries, indent, around):
    reply = json.dumps({"issues": [{"category": c, "messages": m} for c, m in entries]}, indent=indent)
    thoughts, before, fence, after = around
    answer = read_issues(wrapped(reply, thoughts, before, fence, after), ISSUES, TAXONOMY)
    assert answer == read_issues(reply, ISSUES, TAXONOMY) and answer.num_unknown == 0


@property_test
@given(
    actions=st.lists(st.sampled_from(TAXONOMY.actions), max_size=3), around=st.tuples(THOUGHTS, PROSE, FENCES, PROSE)
)
def test_an_action_may_be_named_by_its_id_or_its_name(actions, around):
    thoughts, before, fence, after = around
    by_id, by_name = (json.dumps({"actions": [getattr(a, key) for a in actions]}) for key in ("id", "name"))
    wanted = {2: tuple(dict.fromkeys(a.id for a in actions))}
    assert read_actions(wrapped(by_id, thoughts, before, fence, after), ACTIONS, TAXONOMY).labels == wanted
    assert read_actions(by_name, ACTIONS, TAXONOMY).labels == wanted


@property_test
@given(text=TEXT.map(str.strip), thoughts=THOUGHTS)
def test_an_answer_is_what_follows_the_thoughts(text, thoughts):
    assume("<" not in text and "[THINK" not in text and "▷" not in text)
    assert without_thoughts(f"{thoughts}\n{text}") == text


# ------------------------------------------------------------------------------------------- adapters and manifests

FILES = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=20).filter(
        lambda name: name not in (".", "..", MANIFEST)
    ),
    st.binary(max_size=40),
    min_size=1,
    max_size=4,
)


@settings(property_test, max_examples=100)
@given(files=FILES, data=st.data())
def test_a_manifest_finds_nothing_in_what_it_lists_and_each_change_of_it(files, data):
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for name, content in files.items():
            (root / name).write_bytes(content)
        write_manifest(root)
        assert faults(root) == []
        name = data.draw(st.sampled_from(sorted(files)))
        kind = data.draw(st.sampled_from(["missing", "truncated", "changed", "unknown"]))
        if kind == "missing":
            (root / name).unlink()
        elif kind == "truncated":
            assume(files[name])
            (root / name).write_bytes(files[name][:-1])
        elif kind == "changed":
            (root / name).write_bytes(files[name] + b"x")
        else:
            name = f"{name[:5]}+"
            assume(name not in files)
            (root / name).write_bytes(b"")
        assert [(fault.file, fault.kind) for fault in faults(root)] == [(name, kind)]


@settings(property_test, max_examples=100)
@given(config=st.dictionaries(NAMES, VALUES, max_size=4), weights=st.binary(min_size=1, max_size=20), data=st.data())
def test_equal_adapters_have_equal_digests_and_a_changed_byte_another(config, weights, data):
    assume("\\ud" not in json.dumps(config))

    def written(weights: bytes, order: list[str]) -> str:
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / ADAPTER_CONFIG).write_text(json.dumps({key: config[key] for key in order}))
            (Path(made) / ADAPTER_WEIGHTS).write_bytes(weights)
            tidy_adapter(made)
            return adapter_at(made, "a").digest

    digest = written(weights, sorted(config))
    assert written(weights, sorted(config, reverse=True)) == digest
    at = data.draw(st.integers(0, len(weights) - 1))
    assert written(weights[:at] + bytes([weights[at] ^ 1]) + weights[at + 1 :], sorted(config)) != digest


@property_test
@given(
    prompts=st.lists(st.lists(st.integers(0, 10**6), max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    logprobs=st.lists(st.floats(-1e9, 0), min_size=1, max_size=3).map(tuple),
)
def test_a_canary_is_read_as_it_was_written(folder, prompts, logprobs):
    rows = tuple(logprobs for _ in prompts)
    tokens = tuple(tuple(range(len(logprobs))) for _ in prompts)
    canary = Canary(dtype="float32", prompts=prompts, tokens=tokens, logprobs=rows, base=rows)
    write_canary(canary, folder)
    assert read_canary(folder) == canary
