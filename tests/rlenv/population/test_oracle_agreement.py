"""Agreement of the oracle with labels by hand, on free text of language models.

``data/chatbot_messages_*.jsonl`` are conversations of population users with SmolLM2-135M-Instruct and with a small
Llama fine-tuned on the scripted chatbots, generated on the engine. The chatbot messages with ``issues`` were sampled
from those that the oracle had flagged and from those that it had not, and were labelled by the definitions of
Appendix E without knowledge of its labels. ``weight`` is the number of messages of the sampled conversations that one
message represents; ``mind`` is the user's hidden state when it read the message. The oracle was improved on other
conversations after the first batch, and was not changed after the second.
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


def _issues_by_user(session: Session, index: int) -> frozenset[str]:
    """Returns the issues that the session's user finds in message ``index``, as the reward in training sees them."""
    turns = tuple(Turn(role=m.role, utterance=Utterance(text=m.content)) for m in session.messages[: index + 1])
    state = begin(session.session_id.split("-", 1)[1], session.context, seed=session.model_extra["seed"])
    mind = session.messages[index - 1].model_extra["mind"]
    state = state.model_copy(update={"turns": turns, "user_memory": mind})
    reply = asyncio.run(PopulationUser().reply(state, reply_seed(state)))
    return frozenset(reply.memory["issues"])


@cache
def _by_users(batch: str) -> tuple[Labelled, ...]:
    return tuple(
        (frozenset(m.issues), _issues_by_user(session, i), m.model_extra["weight"])
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
    """Returns precision, recall and kappa, weighted to the conversations that the messages were sampled from."""
    hits = sum(w for hand, oracle, w in rows if has(hand) and has(oracle))
    by_hand, by_oracle = sum(w for h, _, w in rows if has(h)), sum(w for _, o, w in rows if has(o))
    total = sum(w for _, _, w in rows)
    observed = (total - by_hand - by_oracle + 2 * hits) / total
    expected = (by_hand * by_oracle + (total - by_hand) * (total - by_oracle)) / total**2
    return hits / by_oracle, hits / by_hand, (observed - expected) / (1 - expected)


def _is(issue: str) -> Callable[[frozenset[str]], bool]:
    return lambda labels: issue in labels


@pytest.mark.parametrize("batch", BATCHES)
def test_every_label_is_a_category_and_the_batches_are_complete(batch):
    rows = _by_users(batch)
    assert len(rows) == BATCHES[batch]
    known = set(load_taxonomy().issue_ids())
    assert set().union(*(hand | oracle for hand, oracle, _ in rows)) <= known
    flagged = [bool(hand) for hand, _, _ in rows]
    assert sum(flagged) >= 10 and flagged.count(False) >= 5


def test_with_equal_weights_the_weighted_kappa_is_cohens():
    rows = [(hand, oracle, 1.0) for hand, oracle, _ in _by_users("first")]
    found = cohens_kappa([bool(hand) for hand, _, _ in rows], [bool(oracle) for _, oracle, _ in rows])
    assert _shares(rows, bool)[2] == pytest.approx(found.kappa)


def _except_nonsense(labels: frozenset[str]) -> bool:
    return bool(labels - {"unclear_or_confusing_wording"})


@pytest.mark.parametrize(
    ("batch", "has", "precision", "recall", "kappa"),
    [
        ("first", bool, 0.95, 0.65, 0.45),
        ("second", bool, 0.95, 0.3, 0.2),
        ("first", _except_nonsense, 0.8, 0.75, 0.65),
        ("second", _except_nonsense, 0.75, 0.45, 0.4),
    ],
    ids=["first", "second", "first, without nonsense", "second, without nonsense"],
)
def test_users_agree_with_labels_by_hand(batch, has, precision, recall, kappa):
    """What is flagged is an issue; most nonsense made of ordinary words is missed."""
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
def test_each_category_with_several_messages_reaches_its_precision_and_recall(batch, issue, precision, recall):
    found = _shares(_by_users(batch), _is(issue))
    assert found[0] >= precision and found[1] >= recall, found


@pytest.mark.parametrize("batch", BATCHES)
def test_labels_from_texts_alone_agree_no_less_than_the_users(batch):
    by_text, by_users = _shares(_by_text(batch), bool), _shares(_by_users(batch), bool)
    assert by_text[0] >= 0.95 and by_text[2] >= by_users[2]
