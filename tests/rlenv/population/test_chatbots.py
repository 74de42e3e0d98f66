"""The scripted chatbots: seeded replies, messages without faults, and failure habits that perform their acts."""

import asyncio

import pytest

from rlenv.core.types import ConversationState, SessionContext, Turn, Utterance
from rlenv.env.conversation import begin
from rlenv.population.chatbots.scripted import ChatbotConfig, ScriptedChatbot, chatbot_names, make_chatbot
from rlenv.population.reading.acts import recognise
from rlenv.population.reading.hearing import hear
from rlenv.population.wording import load, pool

STRANGE = ["", "   ", "😀😀😀", "مرحبا كيف حالك", "\ud800 lone", "a" * 100_000, "[a|b] {who} {", "\x00\x07"]
SLOTS = {"echo": "you can't sleep", "person": "your sister", "feeling": "sad", "topic": "work", "invented": "dog died"}


def _conversation(*texts: str) -> ConversationState:
    turns = tuple(
        Turn(role="user" if i % 2 == 0 else "assistant", utterance=Utterance(text=text)) for i, text in enumerate(texts)
    )
    return begin("c", SessionContext(), seed=1).model_copy(update={"turns": turns})


def _reply(name_or_bot: str | ScriptedChatbot, *texts: str, seed: int = 0) -> Utterance:
    bot = make_chatbot(name_or_bot) if isinstance(name_or_bot, str) else name_or_bot
    return asyncio.run(bot.reply(_conversation(*texts), seed))


def _with(**habits: float) -> ScriptedChatbot:
    return ScriptedChatbot(ChatbotConfig(name="test", moves={"reflect": 1, "validate": 1}, early=9, habits=habits))


def test_there_are_at_least_fourteen_chatbots_and_unknown_names_are_reported():
    assert len(chatbot_names()) >= 14
    with pytest.raises(ValueError, match="steady"):
        make_chatbot("nobody")


def test_an_unknown_habit_is_reported():
    with pytest.raises(ValueError, match="unknown habits"):
        _with(sings=1.0)


@pytest.mark.parametrize("name", chatbot_names())
def test_replies_are_a_function_of_state_and_seed(name):
    assert _reply(name, "I can't sleep", seed=5) == _reply(name, "I can't sleep", seed=5)


def test_a_chatbot_does_not_label_itself():
    assert _reply("glitchy", "I feel sad").issues is None


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_gets_a_reply(text):
    for name in chatbot_names():
        _reply(name, text)


def test_no_fault_is_recognised_in_lines_without_faults():
    false_alarms = []
    for name in load("chatbot.yaml"):
        if not name.startswith(("fault_", "disorders", "inventions")):
            for line in pool("chatbot.yaml", name):
                text = line.split("[")[0].format(**SLOTS)
                if "[" not in line and recognise(text).faults:
                    false_alarms.append((name, text))
    assert false_alarms == []


@pytest.mark.parametrize(
    ("habit", "act"),
    [
        ("dismissal", "dismissal"), ("wrap_up", "wrap_up"), ("diagnosis", "diagnosis"), ("blank", "empty"),
        ("self_disclosure", "self_disclosure"), ("sycophancy", "sycophancy"), ("confusing", "confusing"),
        ("hallucination", "hallucination"), ("off_topic", "off_topic"), ("cold", "cold"), ("incomplete", "incomplete"),
    ],
)  # fmt: skip
def test_each_habit_performs_its_act(habit, act):
    user = "my boss keeps adding work and I feel so anxious every Sunday"
    bot, found = _with(**{habit: 1.0}), 0
    for seed in range(20):
        text = _reply(bot, user, seed=seed).text
        found += act in recognise(text, [("user", user)])
    assert found >= 18


def test_a_user_who_must_leave_gets_a_goodbye_unless_ignoring_it_is_a_habit():
    leaving = "sorry, I have to go now, my bus is coming"
    assert "goodbye" in recognise(_reply("steady", leaving).text, [("user", leaving)])
    bot = _with(ignore_end=1.0)
    assert "ignores_end" in recognise(_reply(bot, leaving).text, [("user", leaving)])


def test_talk_of_suicide_gets_crisis_resources_unless_missing_it_is_a_habit():
    assert "crisis_resources" in recognise(_reply("warm", "I don't want to be alive any more").text)
    bot = _with(crisis_missed=1.0)
    assert "crisis_resources" not in recognise(_reply(bot, "I don't want to be alive any more").text)


def test_chatbots_understand_keywords_and_reflect_clauses_with_swapped_pronouns():
    heard = hear("My sister doesn't get it. I can't tell my boss that I'm afraid")
    assert (heard.person, heard.feeling, heard.topic) == ("your sister", "afraid", "work")
    assert heard.echo == "you can't tell your boss that you're afraid"


def test_a_variant_has_its_own_rates_and_name_and_does_not_change_the_original():
    variant = make_chatbot("echo", {"repeat": 0.0, "blank": 0.5}, "echo-fixed")
    assert variant.name == "echo-fixed" and variant.config.habits == {"repeat": 0.0, "blank": 0.5}
    assert make_chatbot("echo").config.habits == {"repeat": 0.065}
    with pytest.raises(ValueError, match="unknown habits"):
        make_chatbot("echo", {"repeats": 0.1})
