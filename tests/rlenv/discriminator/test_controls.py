"""The power control keeps lengths, pairs are cut alike, leaks are measured, and the referee detects differences."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session
from rlenv.discriminator.controls import (
    auc,
    leak_report,
    match_lengths,
    referee_accuracy,
    shuffle_words_within_user,
    style_referee_accuracy,
    swap_users,
)
from rlenv.discriminator.labelled import LabelledSession, split_by_context

WORDS = ["I", "can't", "sleep;", "so", "tired,", "you", "know.", "My", "sister", "left", "a", "café", "closed!"]


def session(name: str, turns: int, seed: int = 0, opener: str = "user", tail: bool = True) -> Session:
    rng = random.Random(f"{name}{seed}")
    messages = [] if opener == "user" else [Message(role="assistant", content="Hello.")]
    for turn in range(turns):
        messages.append(Message(role="user", content=" ".join(rng.choices(WORDS, k=rng.randint(4, 12)))))
        if tail or turn < turns - 1:
            messages.append(Message(role="assistant", content="Tell me more."))
    return Session(session_id=name, messages=tuple(messages))


def labelled(context: str, real: bool, turns: int, **more: object) -> LabelledSession:
    name = f"{context}-{'real' if real else 'sim'}"
    return LabelledSession(context_id=context, real=real, session=session(name, turns, **more))


def test_shuffled_words_stay_in_their_session_and_counts_stay_in_their_message() -> None:
    sessions = [session(f"s{i}", 6) for i in range(5)]
    shuffled = shuffle_words_within_user(sessions, seed=3)
    changed = 0
    for before, after in zip(sessions, shuffled, strict=True):
        assert Counter(re.findall(r"[\w']+", " ".join(before.user_messages()))) == Counter(
            re.findall(r"[\w']+", " ".join(after.user_messages()))
        )
        for old, new in zip(before.messages, after.messages, strict=True):
            if old.role == "assistant":
                assert old == new
                continue
            assert len(old.content.split()) == len(new.content.split())
            assert re.sub(r"[\w']+", "", old.content) == re.sub(r"[\w']+", "", new.content)
            changed += old.content != new.content
        assert sum(map(len, before.user_messages())) == sum(map(len, after.user_messages()))
    assert changed > 20
    assert shuffle_words_within_user(sessions, seed=3) == shuffled
    assert shuffle_words_within_user(sessions, seed=4) != shuffled


def test_pairs_are_cut_after_the_same_user_message() -> None:
    real = [labelled("a", True, 7), labelled("b", True, 2), labelled("c", True, 3), labelled("d", True, 0)]
    fake = [labelled("b", False, 5), labelled("a", False, 4, tail=False), labelled("d", False, 3)]
    matched = match_lengths(real, fake)
    assert matched.num_pairs == 2 and matched.num_unpaired == 1 and matched.num_empty == 1
    assert (matched.turns_cut_real, matched.turns_cut_simulated) == (3, 3)
    lengths = {}
    for item in matched.items:
        assert item.session.messages[-1].role == "user"
        lengths.setdefault(item.context_id, set()).add(len(item.session.user_messages()))
    assert lengths == {"a": {4}, "b": {2}}
    report = leak_report(matched.items)
    assert report["num_user_turns"] == report["user_ends"] == 0.5


def test_a_planted_leak_shows_in_its_own_feature_alone() -> None:
    items = [labelled(f"c{i}", real, 4) for i in range(40) for real in (True, False)]
    assert leak_report(items)["surrounding_space"] == 0.5
    planted = [
        item
        if item.real
        else item.model_copy(
            update={
                "session": item.session.model_copy(
                    update={
                        "messages": tuple(
                            m.model_copy(update={"content": m.content + " "}) for m in item.session.messages
                        )
                    }
                )
            }
        )
        for item in items
    ]
    report = leak_report(planted)
    assert report["surrounding_space"] == 0.0
    assert report["num_user_turns"] == report["newline_rate"] == 0.5
    assert leak_report(items[:1])["num_user_turns"] is None


def test_auc_equals_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    labels, values = rng.random(200) < 0.4, rng.integers(0, 6, 200)
    assert auc(list(labels), list(values)) == pytest.approx(roc_auc_score(labels, values))


def test_the_referee_detects_other_words_and_is_at_chance_without_a_difference() -> None:
    same = [labelled(f"c{i}", real, 5) for i in range(120) for real in (True, False)]
    train, validation = split_by_context(same, 160, 80)
    assert referee_accuracy(train, validation).accuracy == pytest.approx(0.5, abs=0.15)
    fake = [
        item.model_copy(
            update={"session": session(item.session.session_id, 5).model_copy(update={"messages": messages})}
        )
        for item in same
        if not item.real
        for messages in [
            tuple(m.model_copy(update={"content": "as an assistant I feel"}) for m in item.session.messages)
        ]
    ]
    train, validation = split_by_context([*[i for i in same if i.real], *fake], 160, 80)
    score = referee_accuracy(train, validation)
    assert score.accuracy > 0.95 and (score.num_train, score.num_validation) == (160, 80)


def test_no_context_is_on_both_sides_in_any_order_of_the_items() -> None:
    items = [labelled(f"c{i}", real, 2) for i in range(50) for real in (True, False)]
    train, validation = split_by_context(items, 60, 40, seed=1)
    assert (len(train), len(validation)) == (60, 40)
    assert not {i.context_id for i in train} & {i.context_id for i in validation}
    assert sum(i.real for i in train) == 30 and sum(i.real for i in validation) == 20
    again = split_by_context(items[::-1], 60, 40, seed=1)
    assert {i.context_id for i in again[0]} == {i.context_id for i in train}
    assert {i.context_id for i in split_by_context(items, 60, 40, seed=2)[0]} != {i.context_id for i in train}
    with pytest.raises(ConfigError, match="there are 100"):
        split_by_context(items, 80, 40)


def talks(count: int) -> list[Session]:
    """Sessions of different users, whose messages name their user and turn."""
    return [
        Session(
            session_id=f"s{user}",
            user_id=f"u{user}",
            messages=tuple(
                Message(
                    role="assistant" if i % 2 else "user", content=f"{'bot' if i % 2 else 'user'} {user} {i // 2 + 1}"
                )
                for i in range(6)
            ),
        )
        for user in range(count)
    ]


def test_swapped_messages_are_another_users_at_the_same_turns() -> None:
    for before, after in zip(talks(5), swap_users(talks(5), seed=1), strict=True):
        users = {text.split()[1] for text in after.user_messages()}
        assert len(users) == 1 and users != {before.user_messages()[0].split()[1]}
        assert [text.split()[2] for text in after.user_messages()] == ["1", "2", "3"]
        assert [m for m in after.messages if m.role != "user"] == [m for m in before.messages if m.role != "user"]


def test_every_second_message_can_be_swapped() -> None:
    for before, after in zip(talks(5), swap_users(talks(5), seed=1, every=2), strict=True):
        same = [a == b for a, b in zip(before.user_messages(), after.user_messages(), strict=True)]
        assert same == [True, False, True]


def test_a_turn_that_the_other_user_does_not_have_keeps_its_message() -> None:
    long, short = talks(2)
    short = short.model_copy(update={"messages": short.messages[:1]})
    assert swap_users([long, short])[0].user_messages() == ["user 1 1", *long.user_messages()[1:]]


def test_sessions_of_the_same_user_are_not_swapped() -> None:
    mine = [session.model_copy(update={"user_id": "u"}) for session in talks(2)]
    assert [s.user_messages() for s in swap_users(mine)] == [s.user_messages() for s in mine]


def test_the_style_referee_sees_style_and_is_at_chance_without_a_difference() -> None:
    rng = random.Random(0)

    def items(mark: str, count: int, name: str) -> list[LabelledSession]:
        made = []
        for i in range(count):
            for real in (True, False):
                texts = [
                    " ".join(rng.choices(("day", "work", "I", "you", "so"), k=8)) + (mark if real else "")
                    for _ in range(4)
                ]
                messages = tuple(Message(role="user", content=text) for text in texts)
                one = Session(session_id=f"{name}{i}{real}", messages=messages)
                made.append(LabelledSession(context_id=f"{name}{i}", real=real, session=one))
        return made

    assert style_referee_accuracy(items("!", 40, "a"), items("!", 20, "b")).accuracy > 0.95
    assert 0.3 < style_referee_accuracy(items("", 40, "a"), items("", 40, "b")).accuracy < 0.7
