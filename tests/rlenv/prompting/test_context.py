"""The user context of Appendix A: order of the parts, what a budget drops first, and what the chatbot cannot see."""

import random
from itertools import pairwise

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, SessionContext
from rlenv.prompting.context import SIMULATOR_INSTRUCTION, ContextConfig, build_context, chatbot_context
from rlenv.prompting.cutting import MARK, cut_end, cut_middle, cut_start
from rlenv.prompting.system_texts import chatbot_system_text, discriminator_system_text, simulator_system_text


def words(text):
    return len(text.split())


def letters(text):
    return len(text)


def quarters(text):
    return -(-len(text) // 4)


def past(*contents):
    return tuple(Message(role="assistant" if i % 2 else "user", content=c) for i, c in enumerate(contents))


def full_context(**changes):
    fields = {
        "profile": "A nurse of 34.",
        "situation": "Cannot sleep.",
        "long_term_context": "Works on saying no.",
        "previous_summaries": tuple(f"Summary number{i} here." for i in range(1, 8)),
        "current_summary": "Talks about nights.",
        "recent_sessions": (past("old one", "old two"), past("new one", "new two\nsecond line", "new three")),
        "problem_type": "sleep",
        "emotion_type": None,
        "secret_field": "never shown",
    }
    return SessionContext(**(fields | changes))


def small(budget, **changes):
    return ContextConfig(budget_tokens=budget, **{"instruction": "Be the user.", **changes})


def test_the_parts_are_in_the_order_of_appendix_a_under_short_headings():
    built = build_context(full_context(), small(1000, num_previous_summaries=3), words)
    assert built.text() == (
        "Be the user.\n\n"
        "## Profile\nA nurse of 34.\nSituation: Cannot sleep.\nProblem type: sleep\n\n"
        "## Long term\nWorks on saying no.\n\n"
        "## Earlier sessions, latest last\n"
        "- Summary number5 here.\n- Summary number6 here.\n- Summary number7 here.\n\n"
        "## This session\nTalks about nights.\n\n"
        "## Recent messages\n2 sessions ago:\nUser: old one\nChatbot: old two\n"
        "Last session:\nUser: new one\nChatbot: new two\n  second line\nUser: new three"
    )
    assert [d.what for d in built.dropped] == [f"summary {i} of 7" for i in (1, 2, 3, 4)]
    assert built.num_tokens == words(built.text())


def test_empty_parts_are_omitted_with_their_headings():
    assert build_context(SessionContext(), small(10, instruction=""), words).parts == ()
    blank = SessionContext(profile=" ", situation="", previous_summaries=("",), recent_sessions=(past("", "\n"),))
    built = build_context(blank, small(10), words)
    assert built.text() == "Be the user."
    assert built.dropped == ()


def test_the_chatbot_sees_neither_the_current_summary_nor_the_simulators_instruction():
    built = chatbot_context(full_context(), small(1000), words)
    assert [p.name for p in built.parts] == ["profile", "long_term_context", "previous_summaries", "recent_messages"]
    assert "Talks about nights" not in built.text()
    assert "Be the user" not in built.text()


def test_distant_history_is_dropped_first_and_the_current_session_last():
    whole = words(build_context(full_context(), small(1000, num_previous_summaries=7), words).text())
    dropped_by_budget = []
    for budget in range(whole, 0, -1):
        built = build_context(full_context(), small(budget, num_previous_summaries=7), words)
        dropped_by_budget.append({d.what for d in built.dropped})
    order = [what for before, after in pairwise(dropped_by_budget) for what in after - before]
    first = [next(i for i, what in enumerate(order) if name in what) for name in DROP_ORDER]
    assert first == sorted(first)


DROP_ORDER = [
    "of 2 messages of recent session 1 of 2",
    "summary 1 of 7",
    "summary 6 of 7",
    "long-term context",
    "messages of recent session 2 of 2",
    "summary 7 of 7",
    "profile",
    "current summary",
    "instruction",
]


@pytest.mark.parametrize(
    "count", [words, letters, quarters, lambda text: len(text) ** 2, lambda text: 3 if text else 0]
)
def test_the_budget_is_never_exceeded(count):
    rng = random.Random(5)

    def text(most):
        return " ".join("".join(rng.choices("abc.\n😀", k=rng.randint(1, 9))) for _ in range(rng.randint(0, most)))

    for _ in range(150):
        context = SessionContext(
            profile=text(40),
            situation=text(9),
            long_term_context=text(200),
            current_summary=text(60),
            previous_summaries=tuple(text(30) for _ in range(rng.randint(0, 6))),
            recent_sessions=tuple(
                past(*(text(rng.choice((5, 300))) for _ in range(4))) for _ in range(rng.randint(0, 3))
            ),
        )
        config = small(rng.randint(1, 300), instruction=text(20))
        for build in (build_context, chatbot_context):
            built = build(context, config, count)
            assert count(built.text()) <= config.budget_tokens
            assert built.num_tokens == (count(built.text()) if built.parts else 0)


def test_no_part_is_kept_if_one_of_higher_priority_is_dropped():
    for budget in range(5, 80):
        text = build_context(full_context(), small(budget), words).text()
        kept = [bit in text for bit in ("Be the", "nights", "sleep.", "number7", "three", "no.", "number6", "old two")]
        assert kept == sorted(kept, reverse=True)


def test_an_overlong_item_is_cut_at_its_end_and_leaves_room_for_the_others():
    long = full_context(current_summary="First sentence. " + "many words here. " * 500, previous_summaries=("Short.",))
    built = build_context(long, small(130), words)
    assert [p.name for p in built.parts] == [
        "instruction",
        "profile",
        "long_term_context",
        "previous_summaries",
        "current_summary",
        "recent_messages",
    ]
    (report,) = built.dropped
    assert report.what == "end of current summary"
    assert report.tokens == 1502 - words(built.parts[4].text.partition("\n")[2])
    assert f"here. {MARK}" in built.text()


def test_the_newest_message_is_cut_at_its_start():
    only = SessionContext(recent_sessions=(past("alpha " * 300 + "omega."),))
    built = build_context(only, small(60), words)
    assert built.text().endswith("alpha omega.")
    assert f"User: {MARK} alpha" in built.text()
    assert [d.what for d in built.dropped] == ["start of a message"]


def test_a_lone_surrogate_does_not_reach_the_tokenizer():
    built = build_context(SessionContext(profile="cut \ud83d here"), small(50), lambda text: len(text.encode("utf-8")))
    assert "cut \ufffd here" in built.text()


def test_system_texts_are_built_once_a_context():
    counted = []

    def count(text):
        counted.append(text)
        return words(text)

    for make in (simulator_system_text, chatbot_system_text, discriminator_system_text):
        build, alone = make(small(60), count), make(small(60), words)
        for context in (full_context(), full_context(problem_type="work"), full_context(profile="Half \ud83d")):
            first = build(context)
            counted.clear()
            assert build(context.model_copy(deep=True)) == first == alone(context)
            assert not counted
        assert build(full_context()) != build(full_context(problem_type="work"))


def test_the_report_of_dropped_parts_contains_no_text():
    built = build_context(full_context(), small(12), words)
    assert built.dropped
    shown = " ".join(d.what for d in built.dropped)
    assert not any(word in shown for word in ("nurse", "nights", "old two", "Works"))


def test_a_context_survives_json():
    built = build_context(full_context(), small(40), words)
    assert type(built).model_validate_json(built.model_dump_json()) == built


def test_the_defaults_are_the_papers():
    config = ContextConfig()
    assert (config.budget_tokens, config.num_previous_summaries) == (15_000, 5)
    assert config.instruction == SIMULATOR_INSTRUCTION
    assert words(SIMULATOR_INSTRUCTION) < 200
    with pytest.raises(ConfigError, match=r"ContextConfig\.budget_tokens: expected 1 or more, got 0"):
        ContextConfig(budget_tokens=0)


@pytest.mark.parametrize("count", [words, letters, quarters])
def test_cuts_fit_their_room_and_keep_the_start_or_the_end(count):
    rng = random.Random(1)
    for _ in range(200):
        text = " ".join(rng.choices(["one", "two.", "three!", "x" * 40, "\n"], k=rng.randint(1, 40))).strip() or "a"
        room = rng.randint(1, 60)
        start, end = cut_end(text, room, count), cut_start(text, room, count)
        assert count(start) <= room
        assert count(end) <= room
        assert text.startswith(start.removesuffix(MARK).rstrip())
        assert text.endswith(end.removeprefix(MARK).lstrip())
        lines = cut_middle(text.split("\n"), room, count)
        assert count("\n".join(lines)) <= room or lines == [MARK]


def test_the_middle_of_a_long_session_is_dropped_first():
    lines = [f"line {i}" for i in range(100)]
    kept = cut_middle(lines, 30, words)
    assert kept[0] == "line 0"
    assert kept[-1] == "line 99"
    assert kept.count(MARK) == 1
    assert words("\n".join(kept)) <= 30
