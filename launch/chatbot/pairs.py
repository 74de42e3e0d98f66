"""The conversations that a chatbot learned from, offline: preference pairs for DPO on it (``rlenv chatbot-pairs``).

Nothing is sampled: the best and the worst of each group, by the first message in which they differ
(``rlenv.learning.chatbot_preferences``). Rounds are kept apart, for each was held by an adapter of its own.
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
    """Writes the pairs of all rounds of a run, one a line as TRL's DPOTrainer takes them; returns what was counted.

    Args:
        root: the directory of a run that trained a chatbot.
        out: a file.
        min_margin: pairs are kept whose sums of rewards differ by more.

    Raises:
        ConfigError: no run, or one without a round.
    """
    folders = RoundRecords(root / "rounds").folders()
    if not folders:
        raise ConfigError(f"{root}: no round was finished here yet; rlenv train-chatbot makes them")
    config = typed(ChatbotRunConfig, [read_settings(root / "config.yaml")], root)
    run = prepare_chatbot_model(replace(ChatbotRun.of(config), directory=RunDirectory(root)))
    chat, seat = chat_format(AutoTokenizer.from_pretrained(run.chatbot_model)), config.chatbot
    text = system_text("chatbot", seat, config.settings.context, token_counter(chat))
    never_asked = ScriptedEngine(chat.stop_token_ids)
    speaker = EngineSpeaker(CHATBOT, never_asked, chat, "chatbot", text, seat.sampling)
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter(rounds=len(folders))
    for folder in folders:
        found = group_preferences(RoundRecords.read_folder(folder), speaker, ChatbotPairsConfig(min_margin=min_margin))
        pairs += found.pairs
        counts.update(found.counts)
    write_atomic(out, (to_line(pair.model_dump(mode="json")) for pair in pairs))
    return dict(counts)
