"""The discriminator's layout and scores: positions, controls, causality, batching, and the local implementation."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.types import Branch, Message, Session
from rlenv.discriminator.local import LocalDiscriminator
from rlenv.discriminator.model import (
    TOKENS_OF_ONE,
    LoadedDiscriminator,
    TurnScorer,
    length_batches,
    new_classifier,
    save_classifier,
)
from rlenv.discriminator.rows import DiscriminatorLayout, Evidence, discriminator_row, discriminator_rows
from rlenv.prompting.chat_format import ChatFormat

FULL = DiscriminatorLayout()


def session(name: str, *texts: str, opener: str = "user") -> Session:
    roles = ("user", "assistant") if opener == "user" else ("assistant", "user")
    return Session(session_id=name, messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)))


TALK = session("talk", "I feel low", "Since when?", "Since May", "What happened?", "My dog died", "I am sorry")
OTHER = session("other", "Hello.", "hi", "How are you?", "not so good, to be honest with you", opener="assistant")


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedDiscriminator:
    """A whole-model discriminator with a head that is not zero, saved and loaded."""
    return save_and_load(tiny_llama, tmp_path_factory.mktemp("discriminator"), "last")


@pytest.fixture(scope="module", params=["last", "sum"])
def either(request, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedDiscriminator:
    """The same with either kind of evidence."""
    return save_and_load(tiny_llama, tmp_path_factory.mktemp("discriminator"), request.param)


def save_and_load(tiny_llama: Path, folder: Path, evidence: Evidence) -> LoadedDiscriminator:
    from transformers import AutoTokenizer

    torch.manual_seed(1)
    classifier = new_classifier(str(tiny_llama), "float32")
    torch.nn.init.normal_(classifier.score.weight, std=1.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    card = {"layout": FULL, "base_model": str(tiny_llama), "dtype": "float32", "evidence": evidence}
    save_classifier(classifier, folder, tokenizer=tokenizer, **card)
    return LoadedDiscriminator.load(folder, device="cpu")


@pytest.fixture(scope="module")
def chat(loaded: LoadedDiscriminator) -> ChatFormat:
    return loaded.chat


def test_positions_are_the_end_of_turn_tokens_of_the_users_messages(chat: ChatFormat) -> None:
    row = discriminator_row(chat, FULL, TALK.messages, "she is 30")
    text = chat.tokenizer.decode(row.token_ids)
    assert text.startswith("<|im_start|>system\nshe is 30<|im_end|>\n<|im_start|>user\nI feel low<|im_end|>")
    assert text.endswith("<|im_start|>user\nMy dog died<|im_end|>")
    assert [row.token_ids[p] for p in row.positions] == [chat.end_of_turn] * 3
    ends = [chat.tokenizer.decode(row.token_ids[: p + 1]) for p in row.positions]
    assert [end.removesuffix("<|im_end|>").rsplit("\n", 1)[-1] for end in ends] == TALK.user_messages()
    assert row.num_turns == 3


def test_the_end_of_a_session_and_surrounding_white_space_are_not_read(chat: ChatFormat) -> None:
    spaced = session("talk", " I feel low\n", "Since when?", "Since May", "What happened?", "My dog died ")
    assert (
        discriminator_row(chat, FULL, spaced.messages).token_ids
        == discriminator_row(chat, FULL, TALK.messages).token_ids
    )


def test_user_only_leaves_the_chatbot_out_and_blank_user_keeps_the_positions(chat: ChatFormat) -> None:
    row = discriminator_row(chat, DiscriminatorLayout(view="user_only"), TALK.messages)
    text = chat.tokenizer.decode(row.token_ids)
    assert "assistant" not in text and "Since when?" not in text and text.count("<|im_start|>user") == 3
    blank = discriminator_row(chat, DiscriminatorLayout(blank_user=True), TALK.messages)
    assert len(blank.positions) == 3
    assert chat.tokenizer.decode(blank.token_ids).count("<|im_start|>user\n<|im_end|>") == 3
    other_words = session("talk", "x", "Since when?", "y", "What happened?", "z z z")
    assert (
        discriminator_row(chat, DiscriminatorLayout(blank_user=True), other_words.messages).token_ids == blank.token_ids
    )


def test_context_is_read_only_if_the_layout_includes_it(chat: ChatFormat) -> None:
    without = discriminator_row(chat, DiscriminatorLayout(use_context=False), TALK.messages, "she is 30")
    assert without.token_ids == discriminator_row(chat, FULL, TALK.messages, None).token_ids


def test_a_long_session_is_cut_after_a_whole_turn_and_never_served_short(
    chat: ChatFormat, loaded: LoadedDiscriminator
) -> None:
    whole = discriminator_row(chat, FULL, TALK.messages)
    for limit in range(whole.positions[1] + 1, whole.positions[2] + 1):
        row = discriminator_row(chat, DiscriminatorLayout(max_tokens=limit), TALK.messages)
        assert row.positions == whole.positions[:2] and row.num_turns == 3
        assert row.token_ids == whole.token_ids[: whole.positions[1] + 1]
    assert len(loaded.score([row])[0]) == 2
    with pytest.raises(OverlongError, match="2 of 3 user turns"):
        loaded.log_odds([row])
    small = LoadedDiscriminator(loaded.scorer, chat, DiscriminatorLayout(max_tokens=whole.positions[2] + 1))
    small.tree(TALK)
    with pytest.raises(OverlongError, match="talk@3"):
        small.tree(TALK, [Branch(turn=3, texts=("ok", "My dog died and I do not know what to do"))])


def test_later_turns_do_not_change_earlier_log_odds(either: LoadedDiscriminator, chat: ChatFormat) -> None:
    edited = TALK.model_copy(update={"messages": (*TALK.messages[:4], Message(role="user", content="Nothing at all!"))})
    one, other = either.log_odds(discriminator_rows(chat, FULL, [TALK, edited]))
    assert np.abs(one[:3] - other[:3]).max() < 1e-5
    assert abs(one[3] - other[3]) > 1e-3
    assert one[0] == 0.0 and one.shape == (4,)


def test_batch_composition_and_padding_change_nothing(either: LoadedDiscriminator, chat: ChatFormat) -> None:
    sessions = [TALK, OTHER, session("s", "a"), session("l", *["many words of one long message"] * 21)]
    rows = discriminator_rows(chat, FULL, sessions, ["c", None, None, "her context"])
    alone = [either.score([row])[0] for row in rows]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        together = either.score([rows[i] for i in order])
        for i, scores in zip(order, together, strict=True):
            assert scores.shape == alone[i].shape
            assert np.abs(scores - alone[i]).max() < 1e-4


def test_log_odds_are_the_head_on_the_last_hidden_state(loaded: LoadedDiscriminator, chat: ChatFormat) -> None:
    row = discriminator_row(chat, FULL, OTHER.messages)
    with torch.no_grad():
        logits = loaded.scorer.classifier(torch.tensor([row.token_ids])).logits[0, :, 0]
    assert np.allclose(loaded.score([row])[0], logits[list(row.positions)].numpy(), atol=1e-5)


def test_summed_evidence_is_the_head_on_every_token(tiny_llama: Path, tmp_path: Path, chat: ChatFormat) -> None:
    summing = save_and_load(tiny_llama, tmp_path, "sum")
    row = discriminator_row(chat, FULL, OTHER.messages)
    with torch.no_grad():
        logits = summing.scorer.classifier(torch.tensor([row.token_ids])).logits[0, :, 0].numpy()
    by_hand = [logits[: position + 1].sum() / TOKENS_OF_ONE for position in row.positions]
    assert np.allclose(summing.score([row])[0], by_hand, atol=1e-5)


def test_an_untrained_discriminator_predicts_the_prior(tiny_llama: Path, loaded: LoadedDiscriminator) -> None:
    fresh = LoadedDiscriminator(TurnScorer(new_classifier(str(tiny_llama), "float32")), loaded.chat, FULL)
    assert fresh.score(discriminator_rows(loaded.chat, FULL, [TALK]))[0].tolist() == [0.0] * 3


def test_the_head_and_the_logits_are_float32_under_a_bfloat16_backbone(tiny_llama: Path, chat: ChatFormat) -> None:
    classifier = new_classifier(str(tiny_llama), "bfloat16")
    torch.nn.init.normal_(classifier.score.weight)
    scores = LoadedDiscriminator(TurnScorer(classifier, torch.bfloat16), chat, FULL).score(
        discriminator_rows(chat, FULL, [TALK, OTHER])
    )
    assert classifier.score.weight.dtype == torch.float32 and scores[0].dtype == np.float32
    flat = torch.tensor(np.concatenate(scores))
    assert not torch.equal(flat, flat.bfloat16().float())


def test_branches_are_scored_like_whole_sessions(either: LoadedDiscriminator, chat: ChatFormat) -> None:
    branches = [Branch(turn=2, texts=("Since June", "I do not know")), Branch(turn=3, texts=("My cat died",))]
    tree = either.tree(TALK, branches, "c")
    scores, plain = either.score_trees([tree, either.tree(OTHER)])
    assert plain.log_odds == pytest.approx(
        tuple(either.log_odds([discriminator_row(chat, FULL, OTHER.messages)])[0]), abs=1e-4
    )
    for branch, values in zip(branches, scores.branches, strict=True):
        for text, value in zip(branch.texts, values, strict=True):
            messages = (*TALK.messages[: 2 * branch.turn - 2], Message(role="user", content=text))
            alone = either.score([discriminator_row(chat, FULL, messages, "c")])[0]
            assert value == pytest.approx(alone[branch.turn - 1], abs=1e-4)
    for rows, shared in zip(tree.branches, tree.num_shared, strict=True):
        for row in rows:
            assert row.token_ids[:shared] == tree.trunk.token_ids[:shared] and shared > 10


def test_concurrent_calls_are_batched_and_one_overlong_session_stops_no_other(loaded: LoadedDiscriminator) -> None:
    sizes = []

    class Counting:
        tree = staticmethod(LoadedDiscriminator(loaded.scorer, loaded.chat, DiscriminatorLayout(max_tokens=200)).tree)

        def score_trees(self, trees):
            sizes.append(len(trees))
            return loaded.score_trees(trees)

    local = LocalDiscriminator(Counting(), lambda s: f"of {s.session_id}", max_sessions=4)
    long = session("long", *["word " * 80] * 9)

    async def run():
        calls = [local.log_odds(s, [Branch(turn=1, texts=("hm",))]) for s in (TALK, OTHER, long, TALK, OTHER, TALK)]
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(run())
    assert isinstance(results[2], OverlongError)
    assert sizes == [4, 1]
    alone = loaded.score_trees([loaded.tree(TALK, [Branch(turn=1, texts=("hm",))], "of talk")])[0]
    assert results[0].log_odds == pytest.approx(alone.log_odds, abs=1e-4)
    assert results[0].branches[0] == pytest.approx(alone.branches[0], abs=1e-4)
    assert len(results[5].log_odds) == 4


def test_a_failure_of_the_model_reaches_every_caller(loaded: LoadedDiscriminator) -> None:
    class Broken:
        tree = staticmethod(loaded.tree)

        def score_trees(self, trees):
            raise RuntimeError("out of memory")

    async def run():
        local = LocalDiscriminator(Broken())
        return await asyncio.gather(local.log_odds(TALK), local.log_odds(OTHER), return_exceptions=True)

    assert [str(e) for e in asyncio.run(run())] == ["out of memory"] * 2


def test_batches_keep_to_their_budget() -> None:
    lengths = [5, 90, 30, 31, 200, 2]
    batches = length_batches(lengths, 100)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100 for batch in batches)


def test_a_folder_that_is_no_discriminator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="discriminator"):
        LoadedDiscriminator.load(tmp_path)
