"""Runs one GRPO step of TRL's own trainer on whole conversations of the env, with gradients only on sampled tokens.

    python examples/trl_grpo.py [FOLDER OF A CHAT MODEL]

Without a folder, the model is a small random Llama, which shows how it works and learns nothing:

    reward -0.50 +- 1.00, loss 0.0000, 280 tokens
"""

import sys
import tempfile

import rlenv
from launch.serving.trl import TrlRollouts, env_prompts, env_reward, in_process


def random_llama():
    """Returns (model, tokenizer); the model has two layers of width 32."""
    from rlenv.prompting.chat_format import chat_format
    from trainers.pretrain.config import PretrainConfig
    from trainers.pretrain.loop import new_llama, train_tokenizer

    tokenizer = train_tokenizer(["user assistant system a few plain words to learn merges from"], 320, 2048)
    config = PretrainConfig(
        vocab_size=320, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=2048,
        dtype="float32",
    )  # fmt: skip
    return new_llama(config, chat_format(tokenizer)), tokenizer


def main(model_folder: str | None = None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = random_llama()
    if model_folder:
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
    reward = rlenv.make_reward({"issue_free": 1.0, "user_actions": 1.0})
    users = rlenv.population_counterparts("chatbot")
    core = rlenv.ConversationCore(rlenv.population_scenarios(), users, "chatbot", rlenv.Limits(max_turns=3), reward)
    rollouts = TrlRollouts(core, in_process(lambda _: "You are a support chatbot.", max_tokens=12))
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=4, num_generations=4, max_steps=1, learning_rate=1e-5,
            use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, env_reward, args=config, train_dataset=env_prompts(core), processing_class=tokenizer,
            rollout_func=rollouts,
        )  # fmt: skip
        trainer.train()
    row = trainer.state.log_history[0]
    metrics = f"reward {row['reward']:.2f} +- {row['reward_std']:.2f}, loss {row['loss']:.4f}"
    print(f"{metrics}, {row['num_tokens']:.0f} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
