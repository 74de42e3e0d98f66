"""Exports the conversations of a chatbot's training as preference pairs for DPO (``rlenv chatbot-pairs``).

Nothing is sampled. A pair is the best and the worst conversation of a group, from the first message in which they
differ (``rlenv.learning.chatbot_preferences``). Rounds are kept apart because each was sampled by its own adapter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from launch.chatbot.config import CHATBOT, ChatbotRunConfig
from launch.chatbot.phases import prepare_chatbot_model
from launch.chatbot.records import RoundRecords
from launch.chatbot.run import ChatbotRun
from launch.run.directory import RunDirectory
from launch.run.roster import system_text
from launch.run.settings import read_settings, typed
from rlenv.core.errors import ConfigError
from rlenv.core.files import to_line, write_atomic
from rlenv.core.types import PreferencePair
from rlenv.learning.chatbot_preferences import ChatbotPairsConfig, group_preferences
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.system_texts import token_counter
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import ScriptedEngine


def export_pairs(root: Path, out: Path, min_margin: float = 0.0) -> dict[str, int]:
    """Writes the pairs of all rounds of a run, one per line in the form of TRL's DPOTrainer; returns the counts.

    Args:
        root: the directory of a run that trained a chatbot.
        out: the file to write.
        min_margin: keep only pairs whose returns differ by more.

    Raises:
        ConfigError: there is no such run, or it has no finished round.
    """
    folders = RoundRecords(root / "rounds").folders()
    if not folders:
        raise ConfigError(f"{root}: this run has no finished round yet; rlenv train-chatbot makes them")
    config = typed(ChatbotRunConfig, [read_settings(root / "config.yaml")], root)
    run = prepare_chatbot_model(replace(ChatbotRun.of(config), directory=RunDirectory(root)))
    chat, chatbot = chat_format(AutoTokenizer.from_pretrained(run.chatbot_model)), config.chatbot
    text = system_text("chatbot", chatbot, config.settings.context, token_counter(chat))
    unused_engine = ScriptedEngine(chat.stop_token_ids)  # the speaker only formats prompts here
    speaker = EngineSpeaker(CHATBOT, unused_engine, chat, "chatbot", text, chatbot.sampling)
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter(rounds=len(folders))
    for folder in folders:
        result = group_preferences(RoundRecords.read_folder(folder), speaker, ChatbotPairsConfig(min_margin=min_margin))
        pairs += result.pairs
        counts.update(result.counts)
    write_atomic(out, (to_line(pair.model_dump(mode="json")) for pair in pairs))
    return dict(counts)
