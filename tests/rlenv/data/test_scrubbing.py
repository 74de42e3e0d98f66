"""Personal data in sessions are replaced by placeholders; without Presidio most of these tests skip."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from launch.adversarial.phases import check_scrubbed
from launch.cli.main import app
from launch.run.config.data import DataConfig
from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session, SessionContext
from rlenv.data import scrubbing
from rlenv.data.scrubbing import MARK, Scrubber, is_scrubbed, scrub
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.population.planted.identifiers import plant_identifiers

HAS_PRESIDIO = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(not HAS_PRESIDIO, reason="needs the extra scrub: pip install 'rlenv[scrub]'")


@pytest.fixture(scope="module")
def scrubber() -> Scrubber:
    return Scrubber()


def session(*texts: str, **context: object) -> Session:
    messages = tuple(Message(role="user", content=text) for text in texts)
    return Session(session_id="s-1", user_id="u-1", messages=messages, context=SessionContext(**context))


@needs_presidio
@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("My name is Aoife O'Brien.", "My name is [NAME]."),
        ("my name is dmitri and i am sad", "my name is [NAME] and i am sad"),
        ("I told Dr. Okafor about it.", "I told Dr. [NAME] about it."),
        ("call me on +44 7700 900123, ok?", "call me on [PHONE], ok?"),
        ("my number is 07700 900123", "my number is [PHONE]"),
        ("write to jo.smith@example.com please", "write to [EMAIL] please"),
        ("jo.smith at example dot com", "[EMAIL]"),
        ("I live at 12b Oak Street, Leeds LS1 4AB.", "I live at [ADDRESS]."),
        ("see https://www.facebook.com/jo.smith.9 now", "see [URL] now"),
        ("My NHS number is 943 476 5919.", "My NHS number is [ID]."),
        ("the case no. AB-12345 is mine", "the case no. [ID] is mine"),
        ("ssn 219-09-9999", "ssn [ID]"),
        ("it's @jo_smith9 on insta", "it's [ID] on insta"),
        ("I slept 3 hours, woke at 4.30 and owe 12,500.", "I slept 3 hours, woke at 4.30 and owe 12,500."),
        ("my brother has left, my friend is here", "my brother has left, my friend is here"),
    ],
)
def test_each_kind_is_replaced_and_the_rest_stays(text, clean, scrubber):
    assert scrub([session(text)], scrubber)[0][0].messages[0].content == clean


@needs_presidio
def test_a_name_found_once_is_replaced_wherever_it_stands_in_the_session(scrubber):
    done, report = scrub([session("my name is zainab", "ZAINAB again", profile="Zainab, 36, nurse")], scrubber)
    assert [m.content for m in done[0].messages] == ["my name is [NAME]", "[NAME] again"]
    assert done[0].context.profile == "[NAME], 36, nurse" and report.kinds == {"name": 3}


@needs_presidio
def test_all_texts_of_a_context_are_scrubbed_and_labels_ids_and_other_fields_stay(scrubber):
    mail = "jo@example.com"
    old = (Message(role="assistant", content=mail, issues=("early_advice",)),)
    given = session(mail, situation=mail, long_term_context=mail, current_summary=mail, previous_summaries=(mail, "x"),
                    recent_sessions=(old,)).model_copy(update={"app": mail})  # fmt: skip
    done = scrub([given], scrubber)[0][0]
    context = done.context
    assert (context.situation, context.long_term_context, context.current_summary) == ("[EMAIL]",) * 3
    assert context.previous_summaries == ("[EMAIL]", "x")
    [[message]] = context.recent_sessions
    assert message.content == "[EMAIL]" and message.issues == ("early_advice",)
    assert (done.session_id, done.user_id, done.model_extra["app"]) == ("s-1", "u-1", mail)
    assert done.model_extra[MARK]["counts"] == {"email": 6}


@needs_presidio
def test_scrubbing_again_changes_nothing(scrubber):
    once, _ = scrub([session("I'm at jo@example.com, my name is Sarah Smith, 12 Oak Street")], scrubber)
    twice, report = scrub(once, scrubber)
    assert twice[0].messages == once[0].messages and (report.num_marked, report.num_changed) == (1, 0)


@needs_presidio
def test_on_a_labelled_sample_most_is_found(scrubber):
    sample = [one for one in plant_identifiers(160, 7) if one.planted]
    left = []
    for one in sample:
        start, end = one.planted
        found = scrubber.find(one.text)
        if not all(any(f.start <= i < f.end for f in found) for i in range(start, end) if one.text[i].isalnum()):
            left.append(one.kind)
    assert len(left) <= 0.08 * len(sample), left


@needs_presidio
def test_the_command_counts_by_kind_and_shows_no_text(tmp_path):
    write_sessions(tmp_path / "in.jsonl", [session("my name is Zainab Nguyen", "zainab@example.com")])
    done = CliRunner().invoke(app, ["scrub", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")])
    assert done.exit_code == 0 and "[NAME]" in done.output and "ainab" not in done.output
    assert all(map(is_scrubbed, read_sessions(tmp_path / "out.jsonl")))


def test_without_presidio_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scrubbing, "MODELS", ("no_such_model",))
    with pytest.raises(ConfigError, match=r"pip install 'rlenv\[scrub\]'"):
        Scrubber()


def test_a_run_that_requires_scrubbing_refuses_sessions_without_the_mark():
    marked = session("Hi").model_copy(update={MARK: {"by": "rules 1", "counts": {}}})
    data = DataConfig(path="mine.jsonl", scrub="required")
    assert check_scrubbed([marked, marked], data) == 2
    with pytest.raises(ConfigError, match=r"1 of 2 sessions of mine\.jsonl carry no mark"):
        check_scrubbed([marked, session("Hi")], data)
    assert check_scrubbed([marked, session("Hi")], DataConfig(path="mine.jsonl")) == 1
