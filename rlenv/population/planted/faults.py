"""Sessions of the population with planted faults of the simulated user, and traps that are none; labels are known.

What a planted user says as the chatbot is said by the population's scripted chatbots, or written here as language
models write; the rules of ``rlenv.evaluation.user_faults`` were written without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from rlenv.core.types import Message, Session
from rlenv.env.conversation import Limits
from rlenv.population.corpus import generate_sessions

NONE = "none"
"""The label of sessions without a planted fault."""


@dataclass(frozen=True)
class Planted:
    """A session, the kind of fault that was planted in it, and the form."""

    session: Session
    kind: str
    form: str


AS_CHATBOT = (
    "I'm sorry you're dealing with so much. What has been the hardest part of it?",
    "It sounds like you have been carrying this alone for a long time.",
    "Thank you for sharing that with me. I'm here whenever you want to go on.",
    "How can I support you today?",
    "As an AI, I can't feel tired, but I can listen.",
    "Your feelings are completely valid, and it makes sense that you're exhausted.",
    "Have you considered talking to a professional about this?",
    "Would you like to explore what is behind that worry?",
    "I hear you. That must be really hard.",
    "Let's try a breathing exercise together. Breathe in for four counts.",
    "Remember that healing takes time, and you deserve kindness.",
    "I appreciate your openness. Can you describe a moment when you felt safe?",
    "You mentioned your work earlier. What would a good day there look like for you?",
    "I want to acknowledge how much courage it took to say this.",
    "If you ever feel unsafe, please contact your local emergency number.",
    "What do you need most right now?",
)
TRAPS = (
    "You said it sounds like I'm tired. I'm not tired.",
    "My doctor always asks how that makes me feel, and I never know.",
    "I was 16 when it began.",
    "I'm 20 minutes late for everything.",
    "My mother is 71 and still tells me what to do.",
    "My son turned 9 last week.",
    "I don't know. I don't know.",
    "My ex husband used to say I was too much.",
    "People keep saying I'm not alone, and I feel alone all the same.",
    "I have tried everything, running, tea, tablets.",
    "She told me to take a deep breath. That made it worse.",
    "What do you think I should do?",
    "Sorry, I mean what I said before, I can't sleep.",
    "I need somebody to listen, that's all.",
)


def plant_faults(num: int, seed: int) -> list[Planted]:
    """Returns ``num`` labelled sessions of distinct users, a sixth of each: the kinds of faults, traps, plain ones."""
    sessions = generate_sessions(num, 1, seed)
    rng = Random(f"planted-faults-{seed}")
    makers: list[Callable[[Session, Random], Planted]] = [_leaves, _repeats, _chatbot, _contradicts, _trap, _plain]
    planted = []
    for index, session in enumerate(sessions):
        found = makers[index % len(makers)](session, rng)
        ended = found.session.model_copy(update={"ended_by": _ended_by(found)})  # as of a simulated session
        planted.append(Planted(ended, found.kind, found.form))
    return planted


def _ended_by(found: Planted) -> str:
    """Returns who ended a session: the user, where it has the last word and nothing was put in its mouth."""
    said = found.session.messages[-1].role == "user" and len(found.session.user_messages()) < Limits().max_turns
    return "user" if said and found.kind in (NONE, "left_early") else "limit"


def _plain(session: Session, rng: Random) -> Planted:
    return Planted(session, NONE, "plain")


def _trap(session: Session, rng: Random) -> Planted:
    if rng.random() < 0.2:  # leaves early, but says so
        kept = _until_user(session, rng.choice((1, 2)))
        goodbye = rng.choice(("I have to go, sorry.", "bye", "this isn't helping", "thanks, that's all for today"))
        last = kept[-1].model_copy(update={"content": f"{kept[-1].content} {goodbye}"})
        return Planted(_with(session, (*kept[:-1], last)), NONE, "trap: early, with a goodbye")
    if rng.random() < 0.15:  # repeats itself, because it was asked to
        turn = _user_place(session, rng)
        asked = Message(role="assistant", content="Could you say that again?")
        messages = (*session.messages[: turn + 1], asked, session.messages[turn], *session.messages[turn + 1 :])
        return Planted(_with(session, messages), NONE, "trap: asked to repeat")
    return Planted(_said(session, rng, rng.choice(TRAPS)), NONE, "trap: words")


def _leaves(session: Session, rng: Random) -> Planted:
    if rng.random() < 0.5:
        kept = list(_until_user(session, 1))
        return Planted(_with(session, kept), "left_early", "after the first message")
    if rng.random() < 0.5:
        return Planted(_with(session, _until_user(session, 2)), "left_early", "after the second message")
    kept = list(_until_user(session, rng.randint(3, 5)))
    question = rng.choice(
        ("Do you think that is normal?", "What should I do now?", "can you help me with that?", "so what is next?")
    )
    kept[-1] = kept[-1].model_copy(update={"content": f"{kept[-1].content} {question}"})
    return Planted(_with(session, kept), "left_early", "with a question")


def _repeats(session: Session, rng: Random) -> Planted:
    places = [i for i, m in enumerate(session.messages) if m.role == "user" and len(m.content.split()) >= 7]
    if len(places) < 2:
        long = Message(role="user", content="I keep thinking about the same thing every night and cannot stop.")
        return Planted(_with(session, (*session.messages, long, _ask(rng), long)), "repeats_itself", "the same words")
    first, second = sorted(rng.sample(places, 2))
    text, form = (
        session.messages[first].content,
        rng.choice(("same", "typed again", "some words fewer", "reworded", "loop")),
    )
    tokens = text.split()
    if form == "typed again":
        text = text.lower().replace(".", "").replace(",", "")
    elif form == "some words fewer":
        gone = rng.randrange(len(tokens))
        text = " ".join(token for i, token in enumerate(tokens) if i != gone)
    elif form == "reworded":
        text = f"Like I said, {text[0].lower()}{text[1:]} It is just that."
    elif form == "loop":
        text = " ".join(["I just can't do it anymore."] * rng.randint(3, 5))
    return Planted(_replaced(session, second, text), "repeats_itself", form)


def _chatbot(session: Session, rng: Random) -> Planted:
    heard = [m.content for m in session.messages[:-1] if m.role == "assistant" and len(m.content.split()) >= 6]
    form = rng.choice(("scripted chatbot's", "language model's", "an echo"))
    if form == "an echo" and heard:
        return Planted(_replaced(session, _last_user(session), rng.choice(heard)), "speaks_as_chatbot", form)
    if form == "scripted chatbot's":
        others = [m.content for s in generate_sessions(1, 1, rng.randrange(10**6)) for m in s.messages
                  if m.role == "assistant" and len(m.content.split()) >= 6]  # fmt: skip
        if others:
            return Planted(_replaced(session, _user_place(session, rng), rng.choice(others)), "speaks_as_chatbot", form)
    text = rng.choice(AS_CHATBOT)
    return Planted(_replaced(session, _user_place(session, rng), text), "speaks_as_chatbot", "language model's")


def _contradicts(session: Session, rng: Random) -> Planted:
    name, age, job = (session.context.profile or "Alex, 40, teacher.").split(".")[0].split(", ")[:3]
    other_age = int(age) + rng.choice((-1, 1)) * rng.randint(5, 12)
    other_name = rng.choice([n for n in ("Oliver", "Hannah", "Yusuf", "Chloe", "Stefan", "Ines") if n != name])
    other_job = rng.choice([j for j in ("plumber", "dentist", "pilot", "librarian") if j not in job])
    known = session.context.long_term_context or ""
    partner = next((kind for kind in ("wife", "husband", "girlfriend", "boyfriend") if f" {kind} " in known), None)
    forms = [
        ("age", f"I'm {other_age} and I feel old."),
        ("age", f"i'm a {other_age} year old and still like this"),
        ("age", f"I turned {other_age} last week."),
        ("age", f"At {other_age}, one should have learnt this."),
        ("name", f"My name is {other_name}, by the way."),
        ("name", f"You can call me {other_name}."),
        ("name", f"{other_name} here again."),
        ("job", f"I work as a {other_job}, so I see it every day."),
        ("job", f"Being a {other_job} does not help."),
        ("other", f"I never had a friend called {_friend(session)}."),
    ]
    if partner:
        other = "husband" if partner in ("wife", "girlfriend") else "wife"
        forms += [
            ("partner", f"My {other} says I work too much."),
            ("partner", f"I told my {partner} Robin about it."),
            ("partner", "I live alone and never had anybody."),
        ]
    form, text = rng.choice(forms)
    return Planted(_said(session, rng, text), "contradicts_profile", form)


def _friend(session: Session) -> str:
    known = session.context.long_term_context or ""
    return known.partition("friend ")[2].split(".")[0].split(",")[0] or "Sam"


def _ask(rng: Random) -> Message:
    return Message(role="assistant", content=rng.choice(("What else is on your mind?", "How was your day?")))


def _until_user(session: Session, turn: int) -> tuple[Message, ...]:
    """Returns the messages up to the user's ``turn``-th, with nothing in it that says goodbye."""
    kept: list[Message] = []
    for message in session.messages:
        kept.append(message)
        turn -= message.role == "user"
        if not turn:
            break
    return tuple(kept)


def _user_place(session: Session, rng: Random) -> int:
    return rng.choice([i for i, m in enumerate(session.messages) if m.role == "user"])


def _last_user(session: Session) -> int:
    return max(i for i, m in enumerate(session.messages) if m.role == "user")


def _said(session: Session, rng: Random, text: str) -> Session:
    """Returns the session with a sentence added to a message of the user."""
    place = _user_place(session, rng)
    before = session.messages[place].content
    joined = f"{before}{'' if before[-1:] in '.!?' else '.'} {text}" if before else text
    return _replaced(session, place, joined)


def _replaced(session: Session, place: int, text: str) -> Session:
    changed = session.messages[place].model_copy(update={"content": text})
    return _with(session, (*session.messages[:place], changed, *session.messages[place + 1 :]))


def _with(session: Session, messages: Iterable[Message]) -> Session:
    return session.model_copy(update={"messages": tuple(messages)})
