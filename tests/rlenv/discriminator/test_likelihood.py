"""The discriminator that reads with the simulator: layout, statistics by hand, branches, fitting, and its folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlenv.core.errors import OverlongError
from rlenv.core.types import Branch, Message, Session
from rlenv.discriminator.likelihood import (
    LikelihoodDiscriminator,
    features,
    prefix_texts,
    turn_features,
)
from rlenv.discriminator.reading import Reader, TokenStatistics, read_row
from rlenv.discriminator.regressions import LikelihoodModel, fit_likelihood
from rlenv.models.tree_batch import TokenTree
from rlenv.prompting.chat_format import chat_format

SYSTEM = "a person"


@pytest.fixture(scope="module")
def reader(tiny_llama: Path) -> Reader:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    return Reader(model, chat_format(AutoTokenizer.from_pretrained(tiny_llama)))


def session(*texts: str, name: str = "s") -> Session:
    """User and chatbot in turn; the user opens."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))  # type: ignore[arg-type]
    return Session(session_id=name, messages=messages)


TALK = session("I feel low", "since when", "since May", "go on", "that is all")


def fitted(reader: Reader) -> LikelihoodModel:
    """Fitted on random sessions, half of them with other words."""
    rng = np.random.default_rng(0)
    x, texts, real, contexts = [], [], [], []
    for number in range(24):
        words = ("I", "feel", "low", "today") if number % 2 else ("and", "work", "is", "hard")
        talk = session(*(" ".join(rng.choice(words, 3)) for _ in range(5)))
        row = read_row(reader.chat, talk.messages, SYSTEM, 500)
        x.append(turn_features(row, reader.read([row])[0].own))
        texts.append(prefix_texts(row.texts))
        real.append(bool(number % 2))
        contexts.append(str(number // 2))
    model, out_of_fold = fit_likelihood(x, texts, real, contexts, [str(number) for number in range(24)])
    assert [len(each) for each in out_of_fold] == [3] * 24
    return model


@pytest.fixture(scope="module")
def model(reader: Reader) -> LikelihoodModel:
    return fitted(reader)


def test_only_the_users_tokens_are_read(reader: Reader):
    chat = reader.chat
    row = read_row(chat, TALK.messages, SYSTEM, 500)
    read = [row.ids[i] for i in row.targets]
    assert read == [i for text in ("I feel low", "since May", "that is all") for i in chat.reply_ids(text)]
    assert [row.ids[start] for start in row.starts] == [chat.reply_ids(text)[0] for text in row.texts]
    assert row.ends[-1] == len(row.targets)


def test_a_session_is_cut_after_a_whole_message(reader: Reader):
    whole = read_row(reader.chat, TALK.messages, SYSTEM, 500)
    row = read_row(reader.chat, TALK.messages, SYSTEM, len(whole.ids) - 1)
    assert (len(row.ends), row.num_turns) == (2, 3)


def test_blanked_messages_leave_only_their_end_token(reader: Reader):
    row = read_row(reader.chat, TALK.messages, SYSTEM, 500, blank_user=True)
    assert [row.ids[i] for i in row.targets] == [reader.chat.end_of_turn] * 3


def test_user_only_leaves_the_chatbot_out(reader: Reader):
    row = read_row(reader.chat, TALK.messages, SYSTEM, 500, view="user_only")
    other = [m.model_copy(update={"content": "x"}) if m.role == "assistant" else m for m in TALK.messages]
    assert row == read_row(reader.chat, other, SYSTEM, 500, view="user_only")
    assert row.texts == read_row(reader.chat, TALK.messages, SYSTEM, 500).texts


def test_statistics_by_hand(reader: Reader):
    row = read_row(reader.chat, TALK.messages, SYSTEM, 500)
    found = reader.read([row])[0].own
    with torch.no_grad():
        log_probs = reader.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    for token, at in enumerate(row.targets):
        before = log_probs[at - 1]
        own = before[row.ids[at]]
        assert found.log_prob[token] == pytest.approx(float(own), abs=1e-4)
        assert found.entropy[token] == pytest.approx(float(-(before.exp() * before).sum()), abs=1e-4)
        assert found.rank[token] == pytest.approx(float(torch.log1p((before > own).sum().float())), abs=1e-4)


def test_features_are_of_the_messages_so_far(reader: Reader):
    whole = read_row(reader.chat, TALK.messages, SYSTEM, 500)
    part = read_row(reader.chat, TALK.messages[:3], SYSTEM, 500)
    after_two = turn_features(whole, reader.read([whole])[0].own)[1]
    np.testing.assert_allclose(after_two, turn_features(part, reader.read([part])[0].own)[1], rtol=1e-3, atol=1e-4)


def test_log_prob_plus_entropy_is_zero_on_average_for_what_the_model_sampled():
    rng = np.random.default_rng(0)
    shares = np.array([0.7, 0.2, 0.1])
    drawn = rng.choice(3, size=4000, p=shares)
    entropy = np.full(4000, -(shares * np.log(shares)).sum())
    tokens = TokenStatistics(np.log(shares)[drawn], entropy, np.log1p(drawn), np.zeros((4000, 1)))
    assert abs(features(tokens, 1)[5]) < 0.03


def test_alternatives_score_as_they_would_in_place_of_the_message(reader: Reader, model: LikelihoodModel):
    judge = LikelihoodDiscriminator(reader, model, 500)
    branches = (Branch(turn=1, texts=("work is hard", "I feel")), Branch(turn=3, texts=("today", "and is hard")))
    (scores,) = judge.score_trees([judge.tree(TALK, branches, SYSTEM)])
    for branch, found in zip(branches, scores.branches, strict=True):
        for text, log_odds in zip(branch.texts, found, strict=True):
            past = TALK.messages[: 2 * (branch.turn - 1)]
            replaced = TALK.model_copy(update={"messages": (*past, Message(role="user", content=text))})
            (plain,) = judge.score_trees([judge.tree(replaced, (), SYSTEM)])
            assert log_odds == pytest.approx(plain.log_odds[-1], abs=1e-3)
    assert len(scores.log_odds) == 4 and scores.log_odds[0] == 0.0


def test_sessions_read_in_one_batch_have_the_statistics_that_they_have_alone(reader: Reader):
    class Batched(Reader):
        def _batches(self, trees):
            return [slice(0, len(trees))]

    batched = Batched(reader.model, reader.chat)
    rows = [read_row(reader.chat, talk.messages, SYSTEM, 500) for talk in (TALK, session("hi", "hello", "I feel low"))]
    for branches in (None, [((1, ("work is hard", "no")), (3, ("today",))), ()]):
        for row, texts, found in zip(rows, branches or ((), ()), batched.read(rows, branches), strict=True):
            (alone,) = reader.read([row], [texts])
            pairs = [(found.own, alone.own)]
            for one, other in zip(found.branches, alone.branches, strict=True):
                pairs.extend(zip(one, other, strict=True))
            for one, other in pairs:
                for values, expected in zip(vars(one).values(), vars(other).values(), strict=True):
                    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)


def test_batches_hold_at_most_so_many_tokens_with_padding_and_a_cpu_reads_one_by_one(reader: Reader):
    trees = [TokenTree(tuple(range(size)), ()) for size in (4, 3, 6, 2)]
    assert reader._batches(trees) == [slice(i, i + 1) for i in range(4)]
    on_gpu = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda")), batch_tokens=12)
    assert Reader._batches(on_gpu, trees) == [slice(0, 2), slice(2, 4)]
    assert Reader._batches(on_gpu, []) == []


def test_words_that_only_people_use_are_told(reader: Reader, model: LikelihoodModel):
    judge = LikelihoodDiscriminator(reader, model, 500)
    real, simulated = (
        judge.score_trees([judge.tree(session(text, "yes", text, "no", text), (), SYSTEM)])[0].log_odds[-1]
        for text in ("I feel low", "work is hard")
    )
    assert real > 0 > simulated


def test_a_saved_model_gives_the_same_log_odds(model: LikelihoodModel, tmp_path: Path):
    model.save(tmp_path)
    x = np.random.default_rng(0).normal(size=(4, len(model.whole.reading.weights)))
    texts, loaded = ["I feel low", "work is hard", "unknown words", ""], LikelihoodModel.load(tmp_path)
    for of in (None, "3", "of no training session"):
        np.testing.assert_array_equal(loaded.log_odds(x, texts, of), model.log_odds(x, texts, of))
    assert not np.allclose(model.log_odds(x, texts, "3"), model.log_odds(x, texts))
    np.testing.assert_array_equal(model.log_odds(x, texts, "of no training session"), model.log_odds(x, texts))


def test_the_folder_of_an_earlier_version_has_no_folds(model: LikelihoodModel, tmp_path: Path):
    model.save(tmp_path)
    (tmp_path / "folds.json").unlink()
    with np.load(tmp_path / "regressions.npz") as values:
        earlier = {name: value if name == "join" else value[0] for name, value in values.items()}
    np.savez(tmp_path / "regressions.npz", **earlier)
    x = np.random.default_rng(0).normal(size=(2, len(model.whole.reading.weights)))
    loaded, texts = LikelihoodModel.load(tmp_path), ["I feel low", "work"]
    np.testing.assert_array_equal(loaded.log_odds(x, texts, "3"), model.log_odds(x, texts))


def random_labels() -> tuple[list[np.ndarray], list[list[str]], list[bool], list[str]]:
    rng = np.random.default_rng(0)
    n = 120
    x = [rng.normal(size=(2, 60)).astype(np.float32) for _ in range(n)]
    texts = [prefix_texts([f"word{i} a", "b"]) for i in range(n)]
    return x, texts, [bool(b) for b in rng.integers(0, 2, n)], [str(i // 2) for i in range(n)]


def share_right(log_odds: list[np.ndarray], real: list[bool]) -> float:
    return float(np.mean([(each[-1] > 0) == label for each, label in zip(log_odds, real, strict=True)]))


def test_sessions_out_of_fold_are_judged_without_their_context():
    """With labels at random, the model fits its own sessions, and out of fold it is at chance."""
    x, texts, real, contexts = random_labels()
    model, out_of_fold = fit_likelihood(x, texts, real, contexts, contexts)
    assert share_right([model.whole.words(each) for each in texts], real) > 0.85
    assert 0.35 < share_right(out_of_fold, real) < 0.65


def test_training_sessions_are_scored_out_of_fold_whenever_they_are_scored(tmp_path: Path):
    x, texts, real, contexts = random_labels()
    names = [f"s{i}" for i in range(len(x))]
    model, out_of_fold = fit_likelihood(x, texts, real, contexts, names)
    model.save(tmp_path)
    loaded = LikelihoodModel.load(tmp_path)
    for each_x, each_texts, name, expected in zip(x, texts, names, out_of_fold, strict=True):
        for one in (name, f"{name}#1"):  # another simulation of the context, which no regression was fitted on
            np.testing.assert_allclose(loaded.log_odds(each_x, each_texts, one), expected, atol=1e-9)
    whole = loaded.log_odds(x[0], texts[0], "new#0")
    np.testing.assert_allclose(whole, loaded.log_odds(x[0], texts[0]), atol=1e-9)


def test_a_session_that_does_not_fit_is_an_error(reader: Reader, model: LikelihoodModel):
    judge = LikelihoodDiscriminator(reader, model, 20)
    with pytest.raises(OverlongError, match="session s: only 0 of 3 user turns"):
        judge.tree(TALK, (), SYSTEM)


def test_a_branch_at_a_turn_that_is_not_there_is_an_error(reader: Reader, model: LikelihoodModel):
    with pytest.raises(IndexError, match="turn 9"):
        LikelihoodDiscriminator(reader, model, 500).tree(TALK, (Branch(turn=9, texts=("a",)),), SYSTEM)
