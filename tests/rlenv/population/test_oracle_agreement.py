"""The oracle on free text of language models, against messages that were read and labelled by hand.

``data/chatbot_messages_*.jsonl`` are conversations of population users with SmolLM2-135M-Instruct and with a small
Llama tuned on the scripted chatbots, all held on the engine. The chatbot messages that carry ``issues`` were drawn from
those that the oracle of that time flagged and from those that it did not, and labelled by the definitions of Appendix E
without a look at what it said; ``weight`` is how many messages of the sample's conversations one stands for. ``mind``
is the state of mind in which the user heard the message. The oracle was mended on other conversations after the first
batch, and was not touched after the second.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Session, Turn, Utterance
from rlenv.data.sessions import read_sessions
from rlenv.env.conversation import begin, reply_seed
from rlenv.judges.compare import cohens_kappa
from rlenv.judges.oracle import OracleJudge
from rlenv.population.users.user import PopulationUser

DATA = Path(__file__).with_name("data")
BATCHES = {"first": 100, "second": 50}
Labelled = tuple[frozenset[str], frozenset[str], float]
"""Labels by hand, labels of the oracle, weight."""


@cache
def _sessions(batch: str) -> tuple[Session, ...]:
    return tuple(read_sessions(DATA / f"chatbot_messages_{batch}.jsonl", neighbours="keep"))


def _heard(session: Session, index: int) -> frozenset[str]:
    """Returns what the user of the session finds wrong with message ``index``, as training's reward hears it."""
    turns = tuple(Turn(role=m.role, utterance=Utterance(text=m.content)) for m in session.messages[: index + 1])
    state = begin(session.session_id.split("-", 1)[1], session.context, seed=session.model_extra["seed"])
    mind = session.messages[index - 1].model_extra["mind"]
    state = state.model_copy(update={"turns": turns, "user_memory": mind})
    reply = asyncio.run(PopulationUser().reply(state, reply_seed(state)))
    return frozenset(reply.memory["issues"])


@cache
def _by_users(batch: str) -> tuple[Labelled, ...]:
    return tuple(
        (frozenset(m.issues), _heard(session, i), m.model_extra["weight"])
        for session in _sessions(batch)
        for i, m in enumerate(session.messages)
        if m.role == "assistant" and m.issues is not None
    )


@cache
def _by_text(batch: str) -> tuple[Labelled, ...]:
    found = []
    for session in _sessions(batch):
        labels = asyncio.run(OracleJudge().annotate(session)).labels
        found += [
            (frozenset(m.issues), frozenset(of), m.model_extra["weight"])
            for m, of in zip(session.messages, labels, strict=True)
            if m.role == "assistant" and m.issues is not None
        ]
    return tuple(found)


def _shares(rows: Sequence[Labelled], has: Callable[[frozenset[str]], bool]) -> tuple[float, float, float]:
    """Returns precision, recall and kappa in the conversations that the messages were drawn from."""
    hits = sum(w for hand, oracle, w in rows if has(hand) and has(oracle))
    by_hand, by_oracle = sum(w for h, _, w in rows if has(h)), sum(w for _, o, w in rows if has(o))
    total = sum(w for _, _, w in rows)
    observed = (total - by_hand - by_oracle + 2 * hits) / total
    expected = (by_hand * by_oracle + (total - by_hand) * (total - by_oracle)) / total**2
    return hits / by_oracle, hits / by_hand, (observed - expected) / (1 - expected)


def _is(issue: str) -> Callable[[frozenset[str]], bool]:
    return lambda labels: issue in labels


@pytest.mark.parametrize("batch", BATCHES)
def test_every_label_is_a_category_and_the_batches_are_whole(batch):
    rows = _by_users(batch)
    assert len(rows) == BATCHES[batch]
    known = set(load_taxonomy().issue_ids())
    assert set().union(*(hand | oracle for hand, oracle, _ in rows)) <= known
    flagged = [bool(hand) for hand, _, _ in rows]
    assert sum(flagged) >= 10 and flagged.count(False) >= 5


def test_an_equal_weight_gives_cohens_kappa():
    rows = [(hand, oracle, 1.0) for hand, oracle, _ in _by_users("first")]
    found = cohens_kappa([bool(hand) for hand, _, _ in rows], [bool(oracle) for _, oracle, _ in rows])
    assert _shares(rows, bool)[2] == pytest.approx(found.kappa)


def _but_nonsense(labels: frozenset[str]) -> bool:
    return bool(labels - {"unclear_or_confusing_wording"})


@pytest.mark.parametrize(
    ("batch", "has", "precision", "recall", "kappa"),
    [
        ("first", bool, 0.95, 0.65, 0.45),
        ("second", bool, 0.95, 0.3, 0.2),
        ("first", _but_nonsense, 0.8, 0.75, 0.65),
        ("second", _but_nonsense, 0.75, 0.45, 0.4),
    ],
    ids=["first", "second", "first, without nonsense", "second, without nonsense"],
)
def test_users_find_wrong_what_a_reader_finds_wrong(batch, has, precision, recall, kappa):
    """What is flagged is an issue; of what is one, nonsense made of ordinary words goes unseen for the most part."""
    found = _shares(_by_users(batch), has)
    assert all(value >= floor for value, floor in zip(found, (precision, recall, kappa), strict=True)), found


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("issue", "precision", "recall"),
    [
        ("incomplete_message", 0.7, 1.0),
        ("ignoring_request_to_end_session", 1.0, 1.0),
        ("premature_wrap_up", 1.0, 1.0),
        ("inappropriate_self_disclosure", 0.9, 0.55),
        ("invalidating_or_dismissive_framing", 0.7, 1.0),
        ("repetitive_questions", 1.0, 0.5),
        ("unclear_or_confusing_wording", 0.85, 0.1),
    ],
)
def test_categories_with_several_messages_are_met_one_by_one(batch, issue, precision, recall):
    found = _shares(_by_users(batch), _is(issue))
    assert found[0] >= precision and found[1] >= recall, found


@pytest.mark.parametrize("batch", BATCHES)
def test_the_texts_alone_say_no_less_than_the_users(batch):
    by_text, by_users = _shares(_by_text(batch), bool), _shares(_by_users(batch), bool)
    assert by_text[0] >= 0.95 and by_text[2] >= by_users[2]
