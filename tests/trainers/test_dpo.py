"""DPO: Eq. 5 by hand, the right reference, no row without tokens, and TRL's own trainer on the same pairs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer

from rlenv.core.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_at
from rlenv.core.canary import CANARY
from rlenv.core.errors import PhaseError
from rlenv.core.types import PreferencePair
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.backend.worker import Worker
from trainers.dpo.config import DpoConfig
from trainers.dpo.fit import KEYS, check_pairs, dpo_arguments, train_dpo
from trainers.dpo.pairs import PairsTrainer, SessionSampler, collate, sessions_of
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft

FAST = DpoConfig(dtype="float32", learning_rate=1e-2, warmup=0, save_every=0)


@pytest.fixture(scope="module")
def reference(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, make_session) -> Path:
    """An adapter that is not the bare base model."""
    root = tmp_path_factory.mktemp("reference")
    examples = tuple(
        SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(20)
    )
    config = SftConfig(dtype="float32", learning_rate=2e-2, save_every=0)
    train_sft((examples, config, str(tiny_llama), str(root / "base")), Worker(root))
    return root / "base"


@pytest.fixture(scope="module")
def chat(tiny_llama: Path) -> ChatFormat:
    return chat_format(AutoTokenizer.from_pretrained(tiny_llama))


def pair(chat: ChatFormat, number: int, length: int = 0) -> PreferencePair:
    prompt = (*chat.system_ids(f"context {number} " + "and so on " * length), *chat.own.before)
    chosen, rejected = (
        chat.reply_ids("I feel low today"),
        chat.reply_ids(f"as a person I feel {number}", ends_session=True),
    )
    decode = chat.tokenizer.decode
    return PreferencePair(
        prompt=decode(prompt),
        chosen=decode(chosen),
        rejected=decode(rejected),
        prompt_ids=prompt,
        chosen_ids=chosen,
        rejected_ids=rejected,
        reward_chosen=1.0,
        reward_rejected=-1.0,
        session_id=f"s{number}",
        turn=1,
        critical="highest",
        simulator="base",
    )


def later(earlier: PreferencePair) -> PreferencePair:
    """A pair at the next turn of the same session."""
    ids = (*earlier.prompt_ids, *earlier.chosen_ids, *earlier.prompt_ids[-3:])
    return earlier.model_copy(update={"prompt_ids": ids, "chosen_ids": earlier.rejected_ids[1:], "turn": 2})


def rows_of(pairs: list[PreferencePair]) -> dict[str, list[list[int]]]:
    return {key: [list(getattr(p, key)) for p in pairs] for key in KEYS}


class RowsTrainer(DPOTrainer):
    """TRL's own trainer on token ids: a row for each prompt and reply."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


def make_trainer(
    tiny_llama: Path,
    reference: Path,
    scratch: Path,
    pairs: list[PreferencePair],
    config: DpoConfig,
    trainer_class: type[DPOTrainer] = PairsTrainer,
) -> DPOTrainer:
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_llama), str(reference), is_trainable=True
    )
    return trainer_class(
        model=policy,
        args=dpo_arguments(Worker(scratch), config),
        train_dataset=Dataset.from_dict(rows_of(pairs)),
        processing_class=AutoTokenizer.from_pretrained(tiny_llama),
    )


def log_prob(model, prompt, reply) -> torch.Tensor:
    """log pi(reply | prompt): the slow way, one sequence, no mask, no padding."""
    log_probs = model(input_ids=torch.tensor([[*prompt, *reply]])).logits.log_softmax(-1)[0]
    return sum(log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(reply))


def test_loss_is_ln_2_before_the_first_update(tiny_llama, reference, scratch, chat) -> None:
    trainer = make_trainer(tiny_llama, reference, scratch, [pair(chat, i) for i in range(3)], FAST)
    for batch in trainer.get_train_dataloader():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("chosen_nll", [0.0, 0.5])
def test_the_loss_is_equation_5_with_the_previous_simulator_as_reference(
    tiny_llama, reference, scratch, chat, chosen_nll
) -> None:
    pairs = [first := pair(chat, 0), later(first), later(later(first)), pair(chat, 3)]
    config = replace(FAST, beta=0.3, batch_size=4, chosen_nll=chosen_nll)
    trainer = make_trainer(tiny_llama, reference, scratch, pairs, config)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B.default" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()

    before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(reference)).eval()
    terms = []
    with torch.no_grad():
        for p in pairs:
            chosen = log_prob(trainer.model, p.prompt_ids, p.chosen_ids) - log_prob(before, p.prompt_ids, p.chosen_ids)
            rejected = log_prob(trainer.model, p.prompt_ids, p.rejected_ids) - log_prob(
                before, p.prompt_ids, p.rejected_ids
            )
            terms.append(-torch.log(torch.sigmoid(0.3 * (chosen - rejected))))
        likely = sum(log_prob(trainer.model, p.prompt_ids, p.chosen_ids) for p in pairs)
    nll = -likely / sum(len(p.chosen_ids) for p in pairs)
    assert loss == pytest.approx(float(sum(terms) / 4 + chosen_nll * nll), abs=1e-4)
    assert abs(loss - math.log(2)) > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_gradients_and_metrics_are_those_of_trls_own_trainer(
    tiny_llama, reference, scratch, chat, checkpointing
) -> None:
    pairs = [first := pair(chat, 0, length=5), later(first), pair(chat, 2)]
    config = replace(FAST, batch_size=3, gradient_checkpointing=checkpointing)
    found = []
    for trainer_class in (RowsTrainer, PairsTrainer):
        trainer = make_trainer(tiny_llama, reference, scratch, pairs, config, trainer_class)
        torch.manual_seed(5)
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B.default" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
        loss.backward()
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        metrics = {k: v[0] for k, v in trainer._metrics["train"].items() if k != "num_tokens"}
        found.append((float(loss.detach()), gradients, metrics))
    (loss, gradients, metrics), (our_loss, ours, our_metrics) = found
    assert our_loss == pytest.approx(loss, abs=1e-5) and our_metrics == pytest.approx(metrics, abs=1e-4)
    assert gradients.keys() == ours.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-3)


def test_a_batch_reads_what_the_pairs_of_a_session_share_once(chat) -> None:
    pairs = [first := pair(chat, 0, length=50), later(first), pair(chat, 2)]
    batch = collate([{key: list(getattr(p, key)) for key in KEYS} for p in pairs])
    read = batch["tree"]["input_ids"]
    replies = sum(len(ids) - 1 for p in pairs[:2] for ids in (p.chosen_ids, p.rejected_ids))
    assert read.shape == (2, len(pairs[1].prompt_ids) + replies)
    assert batch["input_ids"].shape == (6, 1 + max(len(ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)))


def test_sessions_are_shuffled_and_their_pairs_stay_together(chat) -> None:
    pairs = [turn for first in (pair(chat, i) for i in range(6)) for turn in (first, later(first))]
    sessions = sessions_of([list(p.prompt_ids) for p in pairs])
    assert sessions == [[2 * i, 2 * i + 1] for i in range(6)]
    sampler, again = SessionSampler(sessions, 3), SessionSampler(sessions, 3)
    order = list(sampler)
    assert order == list(again) and sorted(order) == list(range(12)) and order != sorted(order)
    assert [i % 2 for i in order] == [0, 1] * 6
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_a_step_moves_the_policy_and_leaves_the_reference(tiny_llama, reference, scratch, chat) -> None:
    trainer = make_trainer(tiny_llama, reference, scratch, [pair(chat, i) for i in range(4)], FAST)
    assert trainer.ref_model is None and set(trainer.model.peft_config) == {"default", "ref"}
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(before[n], p)}
    assert moved and all(".default." in n for n in moved)
    assert sum(".ref." in n for n in before) == sum(".default." in n for n in before)


def test_long_prompts_keep_their_completion_tokens(tiny_llama, reference, scratch, chat) -> None:
    pairs = [pair(chat, 1), pair(chat, 2, length=120)]
    assert len(pairs[1].prompt_ids) > 600
    trainer = make_trainer(
        tiny_llama, reference, scratch, pairs, DpoConfig(batch_size=2, dtype="float32", save_every=0)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    lengths = sorted(len(ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids))
    assert sorted(batch["completion_mask"].sum(1).tolist()) == lengths
    assert trainer.args.max_length is None


def test_a_pair_without_tokens_is_refused_by_its_id(chat) -> None:
    empty = pair(chat, 7).model_copy(update={"rejected_ids": ()})
    with pytest.raises(PhaseError, match=r"session s7, turn 1\): rejected_ids is empty"):
        check_pairs([pair(chat, 1), empty])
    with pytest.raises(PhaseError, match="no preference pairs"):
        check_pairs([])


def test_the_new_adapter_alone_is_saved_and_prefers_what_was_chosen(tiny_llama, reference, scratch, chat) -> None:
    pairs = [pair(chat, i) for i in range(20)]
    digests = []
    for run in range(2):
        out = scratch / f"it1-{run}"
        summary = train_dpo((rows_of(pairs), FAST, str(tiny_llama), str(reference), str(out)), Worker(scratch))
        digests.append(adapter_at(out, "it1").digest)
    assert digests[0] == digests[1] != adapter_at(reference, "base").digest
    assert summary["loss_step0"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["loss_last"] < 0.3 and summary["accuracy"] == 1.0 and summary["margin"] > 1
    assert summary["num_pairs"] == 20
    assert {p.name for p in out.iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, CANARY}
    new = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(out)).eval()
    old = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(reference)).eval()
    with torch.no_grad():
        gains = [
            float(log_prob(new, p.prompt_ids, ids) - log_prob(old, p.prompt_ids, ids))
            for p in pairs[:1]
            for ids in (p.chosen_ids, p.rejected_ids)
        ]
    assert gains[0] - gains[1] > 1


def test_a_warm_up_over_all_steps_shows_in_the_summary(tiny_llama, reference, scratch, chat) -> None:
    config = DpoConfig(dtype="float32", batch_size=2, warmup=0.1, save_every=0)
    rates = []
    for num_pairs in (2, 4):
        payload = (rows_of([pair(chat, i) for i in range(num_pairs)]), config, str(tiny_llama), str(reference))
        rates.append(train_dpo((*payload, str(scratch / f"out{num_pairs}")), Worker(scratch))["rate_max"])
    assert rates == [0, config.learning_rate]


def test_trls_own_trainer_learns_from_pairs_jsonl_too(tiny_llama, reference, scratch, chat) -> None:
    pairs = [pair(chat, i) for i in range(6)]
    file = scratch / "pairs.jsonl"
    file.write_text("".join(p.model_dump_json() + "\n" for p in pairs))
    assert set(json.loads(file.read_text().splitlines()[0])) >= {"prompt", "chosen", "rejected"}
    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(scratch / "cache"))
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_llama), str(reference), is_trainable=True
    )
    trainer = DPOTrainer(
        model=policy,
        args=dpo_arguments(Worker(scratch), FAST),
        train_dataset=data.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(tiny_llama),
    )
    rows = trainer.train_dataset
    assert [tuple(row) for row in rows["prompt_ids"]] == [p.prompt_ids for p in pairs]
    assert [tuple(row)[: len(p.chosen_ids)] for row, p in zip(rows["chosen_ids"], pairs, strict=True)] == [
        p.chosen_ids for p in pairs
    ]
    trainer.train()
    history = [h for h in trainer.state.log_history if "rewards/margins" in h]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[-1]["rewards/margins"] > 0


def test_defaults_are_table_6s_and_the_warmup_is_applied(scratch) -> None:
    config = DpoConfig(dtype="float32")
    assert (config.beta, config.epochs, config.batch_size, config.learning_rate) == (1, 1, 1, 1e-5)
    arguments = dpo_arguments(Worker(scratch), config)
    assert arguments.get_warmup_steps(100) == 10
    assert arguments.lr_scheduler_type == "constant_with_warmup"
