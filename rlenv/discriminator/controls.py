"""Controls of the discriminator: is it strong enough for its accuracy to mean anything, and does it see only text?

* Power: a deliberately bad simulator must be detected: shuffled words (``shuffle_words_within_user``), and, harder,
  real messages of other users in the wrong conversation (``swap_users``). If the discriminator misses it, a low
  accuracy elsewhere proves nothing.
* Referees: cheap judges of other kinds on the same split: word counts (TF-IDF and logistic regression), and style
  (message lengths, punctuation, function words; gradient boosting).
* Leaks: lengths are matched within pairs (``match_lengths``), and ``leak_report`` measures how much trivial formatting
  gives away.

The paper has none of these. We read accuracies like those of Table 2 together with them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from rlenv.core.seeds import derive_seed
from rlenv.core.types import Message, Record, Session
from rlenv.data.linguistics import WORD, words
from rlenv.discriminator.labelled import LabelledSession


def shuffle_words_within_user(sessions: Sequence[Session], seed: int = 0) -> list[Session]:
    """Returns the sessions with the user's words shuffled across all of the user's messages in the session.

    Everything else (spaces, line breaks, punctuation) stays in place. Every message keeps its number of words and its
    punctuation, and every session its words, so only word order and meaning can give it away. The chatbot's messages
    are unchanged.
    """
    return [_shuffled(session, random.Random(derive_seed(seed, "shuffle", session.session_id))) for session in sessions]


def swap_users(sessions: Sequence[Session], seed: int = 0, every: int = 1) -> list[Session]:
    """Returns the sessions with the user's messages replaced by another user's at the same turns.

    Every message is real and in its place in a conversation, so only what it answers, and whom it fits, can give it
    away. A turn that the other session does not have keeps its message.

    Args:
        sessions: at least two users; a session without another user's is returned unchanged.
        seed: of the pairing.
        every: 1 replaces every message, 2 every second one, beginning with the second.
    """
    rng = random.Random(derive_seed(seed, "swap"))
    order = list(range(len(sessions)))
    rng.shuffle(order)
    place = {index: position for position, index in enumerate(order)}
    swapped = []
    for index, session in enumerate(sessions):
        others = (sessions[order[(place[index] + step) % len(order)]] for step in range(1, len(order)))
        donor = next((o for o in others if not o.user_id or o.user_id != session.user_id), None)
        texts = donor.user_messages() if donor is not None else []
        turn, messages = 0, []
        for message in session.messages:
            if message.role == "user":
                turn += 1
                if turn % every == 0 and turn <= len(texts):
                    message = Message(role="user", content=texts[turn - 1])
            messages.append(message)
        update = {"session_id": f"{session.session_id}:swapped", "source": "swapped", "messages": tuple(messages)}
        swapped.append(session.model_copy(update=update))
    return swapped


class Matched(Record):
    """Pairs of sessions of equal length, and what was cut or left out for it."""

    items: tuple[LabelledSession, ...]
    """The pairs, one after the other, the real session first."""
    num_pairs: int
    num_unpaired: int
    """Sessions without a partner of the same context."""
    num_empty: int
    """Pairs left out because one side has no user message."""
    turns_cut_real: int
    turns_cut_simulated: int


def match_lengths(real: Sequence[LabelledSession], simulated: Sequence[LabelledSession]) -> Matched:
    """Returns pairs of the same context, both cut to the number of user messages of the shorter one.

    At every turn there are then as many real as simulated sessions, and neither the number of turns (which is capped
    for simulated sessions) nor the last speaker gives the label away. If a context has several sessions, the first real
    one is paired with the first simulated one, and so on.
    """
    waiting: dict[str, list[LabelledSession]] = {}
    for item in simulated:
        waiting.setdefault(item.context_id, []).append(item)
    items: list[LabelledSession] = []
    counts = {"pairs": 0, "empty": 0, "real": 0, "simulated": 0}
    for one in real:
        if not waiting.get(one.context_id):
            continue
        other = waiting[one.context_id].pop(0)
        lengths = len(one.session.user_messages()), len(other.session.user_messages())
        turns = min(lengths)
        if turns == 0:
            counts["empty"] += 1
            continue
        counts["pairs"] += 1
        counts["real"] += lengths[0] - turns
        counts["simulated"] += lengths[1] - turns
        items.extend([_cut(one, turns), _cut(other, turns)])
    return Matched(
        items=tuple(items),
        num_pairs=counts["pairs"],
        num_unpaired=len(real) + len(simulated) - 2 * (counts["pairs"] + counts["empty"]),
        num_empty=counts["empty"],
        turns_cut_real=counts["real"],
        turns_cut_simulated=counts["simulated"],
    )


class RefereeScore(Record):
    """The referee's accuracy on whole validation sessions."""

    accuracy: float
    num_train: int
    num_validation: int


def referee_accuracy(
    train: Sequence[LabelledSession], validation: Sequence[LabelledSession], seed: int = 0
) -> RefereeScore:
    """Returns the accuracy of TF-IDF (character 3- to 5-grams, word 1- and 2-grams) with logistic regression.

    It reads the user's messages of whole sessions. Text is not lower-cased, because case is characteristic of people.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(
        TfidfVectorizer(analyzer="char", ngram_range=(3, 5), min_df=2, sublinear_tf=True, lowercase=False),
        TfidfVectorizer(analyzer="word", ngram_range=(1, 2), sublinear_tf=True, lowercase=False, token_pattern=r"\S+"),
    )
    judge = make_pipeline(features, LogisticRegression(C=10.0, max_iter=2000, random_state=seed))
    judge.fit([_user_text(item) for item in train], [item.real for item in train])
    predicted = judge.predict([_user_text(item) for item in validation])
    correct = [bool(p) == item.real for p, item in zip(predicted, validation, strict=True)]
    return RefereeScore(accuracy=sum(correct) / len(correct), num_train=len(train), num_validation=len(validation))


FUNCTIONWORDS = (
    "i", "me", "my", "you", "he", "she", "it", "we", "they", "this", "that", "a", "an", "the", "and", "but", "or", "if",
    "so", "because", "when", "then", "not", "no", "just", "really", "very", "to", "of", "in", "on", "at", "for", "with",
    "about", "from", "as", "is", "am", "are", "was", "were", "be", "been", "have", "has", "had", "do", "did", "can",
    "could", "would", "should", "will", "what", "why", "how", "like", "know", "think", "feel", "want",
)  # fmt: skip
"""Words whose rates describe style rather than topic."""


def style_referee_accuracy(
    train: Sequence[LabelledSession], validation: Sequence[LabelledSession], seed: int = 0
) -> RefereeScore:
    """Returns the accuracy of gradient boosting on a session's style: lengths, punctuation, function words.

    It reads the user's messages of whole sessions, and knows no content words.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    judge = HistGradientBoostingClassifier(max_iter=150, max_depth=3, learning_rate=0.08, random_state=seed)
    judge.fit([style(item.session) for item in train], [item.real for item in train])
    predicted = judge.predict([style(item.session) for item in validation])
    correct = [bool(p) == item.real for p, item in zip(predicted, validation, strict=True)]
    return RefereeScore(accuracy=sum(correct) / len(correct), num_train=len(train), num_validation=len(validation))


def style(session: Session) -> list[float]:
    """Returns the numbers that describe how a session's user writes, [F]."""
    texts = session.user_messages()
    messages = [words(text) for text in texts]
    said = [word for message in messages for word in message]
    counts, total = Counter(said), max(1, len(said))
    sizes = [len(message) for message in messages] or [0]
    spread = max(sizes) - min(sizes)
    return [
        *(feature(session) for feature in FEATURES.values()),
        sum(sizes) / len(sizes),
        float(spread),
        sum(map(len, said)) / total,
        len(counts) / total,
        sum(count == 1 for count in counts.values()) / total,
        *(sum(text.count(mark) for text in texts) / total for mark in ",.?!'’…-"),
        *(counts[word] / total for word in FUNCTIONWORDS),
    ]


def leak_report(items: Sequence[LabelledSession]) -> dict[str, float | None]:
    """Returns, for each trivial feature, the AUC of separating real from simulated sessions by that feature alone.

    0.5 is no leak; 1 means that real sessions always have more of it, 0 that they always have less. None if a class is
    missing. ``surrounding_space`` is measured on the text as stored; the discriminator's layout trims it.
    """
    labels = [item.real for item in items]
    return {name: auc(labels, [feature(item.session) for item in items]) for name, feature in FEATURES.items()}


def auc(labels: Sequence[bool], values: Sequence[float]) -> float | None:
    """Returns the probability that a positive has a higher value than a negative; ties count half; None for one class.

    >>> auc([True, True, False], [2.0, 1.0, 1.0])
    0.75
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, values)) if len(set(labels)) == 2 else None


def _rate(test: Callable[[str], bool]) -> Callable[[Session], float]:
    def rate(session: Session) -> float:
        texts = session.user_messages()
        return sum(map(test, texts)) / len(texts) if texts else 0.0

    return rate


def _density(count: Callable[[str], int]) -> Callable[[Session], float]:
    def density(session: Session) -> float:
        text = "".join(session.user_messages())
        return count(text) / len(text) if text else 0.0

    return density


FEATURES: dict[str, Callable[[Session], float]] = {
    "num_user_turns": lambda s: float(len(s.user_messages())),
    "num_messages": lambda s: float(len(s.messages)),
    "user_opens": lambda s: float(bool(s.messages) and s.messages[0].role == "user"),
    "user_ends": lambda s: float(bool(s.messages) and s.messages[-1].role == "user"),
    "user_characters_per_turn": lambda s: sum(map(len, s.user_messages())) / max(1, len(s.user_messages())),
    "surrounding_space": _rate(lambda t: t != t.strip()),
    "empty_message": _rate(lambda t: not t.strip()),
    "lower_case_start": _rate(lambda t: t.strip()[:1].islower()),
    "final_full_stop": _rate(lambda t: t.strip().endswith(".")),
    "newline_rate": _density(lambda t: t.count("\n")),
    "double_space_rate": _density(lambda t: t.count("  ")),
    "non_ascii_rate": _density(lambda t: sum(ord(c) > 127 for c in t)),
    "digit_rate": _density(lambda t: sum(c.isdigit() for c in t)),
    "upper_case_rate": _density(lambda t: sum(c.isupper() for c in t)),
}
"""Trivial features of a session's user messages and of its shape."""


def _shuffled(session: Session, rng: random.Random) -> Session:
    words = [word for text in session.user_messages() for word in WORD.findall(text)]
    rng.shuffle(words)
    shuffled = iter(words)
    messages = tuple(
        Message(role="user", content=WORD.sub(lambda _: next(shuffled), m.content)) if m.role == "user" else m
        for m in session.messages
    )
    return session.model_copy(
        update={"session_id": f"{session.session_id}:shuffled", "source": "shuffled", "messages": messages}
    )


def cut_after_turn(session: Session, turns: int) -> Session:
    """Returns the session up to and including user message ``turns``; the whole session if it has fewer."""
    users = [i for i, m in enumerate(session.messages) if m.role == "user"]
    if len(users) < turns:
        return session
    return session.model_copy(update={"messages": session.messages[: users[turns - 1] + 1]})


def _cut(item: LabelledSession, turns: int) -> LabelledSession:
    return item.model_copy(update={"session": cut_after_turn(item.session, turns)})


def _user_text(item: LabelledSession) -> str:
    return "\n".join(text.strip() for text in item.session.user_messages())
