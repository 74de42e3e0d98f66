"""Each detector: what it finds, what it must leave alone, and how it does where the truth is known."""

from __future__ import annotations

import asyncio

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Message, Session
from rlenv.judges.compare import category_agreement
from rlenv.judges.detectors import DETECTORS, DetectorJudge
from rlenv.population.corpus import generate_sessions

QUESTION = "What was the hardest part of the week for you?"
ADVICE = "Maybe a short walk before bed would help you rest."


def session(*texts: str) -> Session:
    """Returns a session; texts are ``"u: ..."`` or ``"a: ..."``."""
    roles = {"u": "user", "a": "assistant"}
    return Session(
        session_id="s", messages=tuple(Message(role=roles[t[0]], content=t[2:].removeprefix(" ")) for t in texts)
    )


def last(*texts: str) -> tuple[str, ...]:
    """Returns what the detectors say of the last message."""
    return asyncio.run(DetectorJudge().annotate(session(*texts))).labels[-1]


@pytest.mark.parametrize(
    ("texts", "issues"),
    [
        # the same twice
        (("a: I see.", "a: I see."), {"duplicate_chatbot_messages"}),
        ((f"a: {ADVICE}", "u: hm", f"a: {ADVICE.upper()}"), {"duplicate_chatbot_messages"}),
        (("a: I see.", "u: and then he left", "a: I see."), set()),
        ((f"a: {ADVICE}", "u: can you say that again?", f"a: {ADVICE}"), set()),
        ((f"u: {ADVICE}", f"a: {ADVICE}"), set()),
        # asked again
        ((f"a: {QUESTION}", "u: the evenings", "a: I see.", "u: yes", f"a: {QUESTION}"), {"repetitive_questions"}),
        ((f"a: {QUESTION}", "u: the evenings", f"a: Hm. And {QUESTION.lower()}"), {"repetitive_questions"}),
        ((f"a: {ADVICE}", "u: no", "a: I see.", "u: hm", f"a: {ADVICE}"), {"repetitive_questions"}),
        ((f"a: {QUESTION}", "u: what do you mean?", f"a: I mean, {QUESTION.lower()}"), set()),
        ((f"a: {QUESTION}", "u: the evenings", "a: What was the best part of the evening for you?"), set()),
        (("a: Is there anything else on your mind today?", "u: no", "a: Ok.", "u: hm", "a: So, is there anything else "
          "on your mind today?"), set()),
        ((f"u: {QUESTION}", f"a: {QUESTION}"), set()),
        # cut
        (("u: hi", "a: Have you thought about the"), {"incomplete_message"}),
        (("u: hi", "a: That sounds hard. Maybe you could"), {"incomplete_message"}),
        (("u: hi", "a: It seems that a lot of this is,"), {"incomplete_message"}),
        (("u: hi", "a: There is nothing wrong. Nothing to be ashamed of"), set()),
        (("u: hi", "a: i would if i could"), set()),
        (("u: hi", "a: that is so hard to hear :("), set()),
        (("u: hi", "a: So what I hear is that the", "a: evenings are hard"), set()),
        (("u: hi", "a: Of the"), set()),
        # leaving
        (("u: I have to go now, my bus is coming", "a: And how did it start?"), {"ignoring_request_to_end_session"}),
        (("u: ok bye", "a: What did you feel then?"), {"ignoring_request_to_end_session"}),
        (("u: that's enough for today.", "a: Why do you say so?"), {"ignoring_request_to_end_session"}),
        (("u: sorry, gotta run!", "a: Of course. Shall we talk on Monday?"), set()),
        (("u: I have to go now", "a: Take care! Will you be fine?"), set()),
        (("u: I have to go to work every day", "a: And how is that?"), set()),
        (("u: you have to go, she said", "a: And what did you do?"), set()),
        (("u: i don't have to leave", "a: What keeps you?"), set()),
        (("u: he never even kissed us goodnight", "a: What was that like?"), set()),
        (("u: is that goodbye?", "a: What do you think?"), set()),
        (("u: bye", "a: I will be here."), set()),
        # nothing there
        (("u: hi", "a: "), {"blank_message"}),
        (("u: hi", "a: \u200b \u00a0"), {"blank_message"}),
        (("u: hi", "a: ..."), {"blank_message"}),
        (("u: hi", "a: ?"), set()),
        (("u: hi", "a: 🙂"), set()),
        # what programs leave behind
        *((("u: hi", f"a: {text}"), {"formatting_glitch"}) for text in (
            "Hello {{name}}!", "Hello {user_name}!", "Hello [insert name]!", "I hear you.<|im_end|>", "I hear<br>you.",
            "It&#39;s hard.", "Itâ€™s hard.", "First.\\n\\nThen.", "undefined", "So \ufffd hard.",
        )),
        *((("u: hi", f"a: {text}"), set()) for text in (
            "**Try** this:\n- a walk\n- a bath", "5 < 6 and 7 > 6", "It is {so} hard [really].", "It is null and void.",
            "None of that is your fault.", "My nan said it is fine.",
        )),
    ],
)  # fmt: skip
def test_a_detector_finds_its_issue_and_leaves_the_rest_alone(texts, issues):
    assert set(last(*texts)) == issues


def test_user_messages_get_no_labels_and_every_message_has_an_entry():
    found = asyncio.run(DetectorJudge().annotate(session("u: the", "u: the", "a: ", "u: ", "u: undefined"))).labels
    assert found == ((), (), ("blank_message",), (), ())
    assert asyncio.run(DetectorJudge().annotate(session())).labels == ()


def test_detectors_name_issues_of_the_taxonomy_and_can_be_chosen():
    assert set(DETECTORS) <= set(load_taxonomy().issue_ids())
    judge = DetectorJudge(["blank_message"])
    assert asyncio.run(judge.annotate(session("a: <br>", "a: "))).labels == ((), ("blank_message",))
    with pytest.raises(ConfigError, match=r"no detector of 'blank_mesage'; there are .*did you mean 'blank_message'"):
        DetectorJudge(["blank_mesage"])


def test_on_the_population_every_detection_is_right():
    pairs = []
    for known in generate_sessions(60, 1, seed=3):
        labels = asyncio.run(DetectorJudge().annotate(known)).labels
        pairs += [(m.issues, said) for m, said in zip(known.messages, labels, strict=True) if m.role == "assistant"]
    truth, said = zip(*pairs, strict=True)
    for issue, agreement in category_agreement(truth, said, list(DETECTORS)).items():
        right = sum(issue in a and issue in b for a, b in pairs)
        assert right == agreement.num_second, issue
    assert sum(map(len, said)) >= 5


ADD = "What do you get if you add {} to 28, halve the whole sum and subtract the {} number from it?"


@pytest.mark.parametrize(
    "texts",
    [
        ("u: Can you write a letter to my landlord?", "a: Dear [Landlord's Name],\nit is cold.\n[Your Name]"),
        ("u: draft an email please", "a: Hello [insert name],\nI am ill today.\nKind regards,"),
        ("u: how do I print a name in python?", "a: Use print('%s' % name) or {user_name}."),
        ("u: what is jinja", "a: It replaces `{{ name }}` by the name."),
        ("u: what is jinja", "a: Like this:\n```\n<b>{{ name }}</b>\n```"),
        ("u: how many are left?", "a: None."),
        ("u: what is 1/0?", "a: Undefined."),
        ("u: show me the formula", "a: The largest is x_{max_value} then."),
        ("u: hm", f"a: {ADD.format(14, 'first')}", "u: 21", f"a: Right. {ADD.format(16, 'first')}"),
        ("u: hm", f"a: {ADD.format('four', 'first')}", "u: 16", f"a: Right. {ADD.format('six', 'first')}"),
        ("u: hm", f"a: {ADD.format(14, 'first')}", "u: 20", f"a: Not quite. {ADD.format(14, 'first')}"),
        ("u: hm", "a: What is the value of x in the second equation of this system?", "u: 2",
         "a: And what is the value of y in the second equation of this system?"),
        ("u: which plan?", "a: You should take plan A"),
    ],
)  # fmt: skip
def test_nothing_is_found_where_people_write_texts_count_and_program(texts):
    assert last(*texts) == ()


def test_failures_are_found_beside_numbers_and_names():
    again = "a: Did Anna call you at 8 this morning?"
    assert last(again, "u: yes she did", f"{again[:3]}Hm. {again[3:]}") == ("repetitive_questions",)
    assert last("u: I feel low", "a: Hello {{user_name}}, welcome.") == ("formatting_glitch",)
    close = "Are you and your sister still close these days?"
    assert last(f"a: {close}", "u: yes", f"a: I see. {close}") == ("repetitive_questions",)
    assert last("u: He broke the code of trust, I write about it", "a: Hello [insert name]!") == ("formatting_glitch",)
    assert last("u: write a letter", "a: Dear landlord<|im_end|>") == ("formatting_glitch",)
