"""Builds the user context c of pi(u | h, c): six parts in the order of Appendix A, cut to a budget of tokens.

Tokens are counted by a function that the caller passes; independent of chat templates, models and conversations in
progress. Everything that does not fit is reported, part by part (Section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pydantic import Field

from rlenv.core.settings import Settings, settings
from rlenv.core.types import Record, SessionContext
from rlenv.prompting.context_items import Item, PartName, collect_items, render
from rlenv.prompting.cutting import CountTokens, cut_end, cut_start

SIMULATOR_INSTRUCTION = """\
You are a person who talks with a mental health support chatbot. You write this person's messages, never the chatbot's.
- You came for yourself. You are not a helper: do not counsel, do not interview the chatbot, do not sum up.
- Stay true to the profile, the earlier sessions and what you have said. Never contradict them.
- If there is a summary of this session, let it steer topics and mood. Come to things bit by bit; never recite it.
- Write as people type: often short, plain, sometimes vague, abrupt or off the point. One message at a time.
- React honestly. If the chatbot misreads you, repeats itself or does not help, show it: object, go quiet, change the \
subject or leave. Do not agree out of politeness and do not feel better just because it is kind.
- End the session when this person would. Never say that you play a role or are an AI."""


@settings
class ContextConfig(Settings):
    """Content and size of a user context."""

    budget_tokens: int = Field(default=15_000, ge=1)
    """Maximum number of tokens of the whole text (Appendix A)."""
    instruction: str = SIMULATOR_INSTRUCTION
    """The simulator's system instruction: role, consistency, realistic behaviour. Empty omits it."""
    num_previous_summaries: int = Field(default=5, ge=0)
    """Number of earlier sessions whose summaries are shown, the latest ones (Appendix A: 3 to 5)."""
    profile_fields: tuple[str, ...] = ("problem_type", "emotion_type")
    """Further fields of a session's context that are shown in the profile, if the session has them."""


class Part(Record):
    """One part of a context that is not empty."""

    name: PartName
    text: str
    """With its heading, if it has one."""


class Dropped(Record):
    """A piece of the context that did not fit: its place and size, never its text."""

    part: PartName
    what: str
    """Such as ``summary 1 of 7`` or ``end of current summary``."""
    tokens: int


class Context(Record):
    """What a speaker knows besides the conversation itself, cut to the budget."""

    parts: tuple[Part, ...] = ()
    """In the order of Appendix A."""
    dropped: tuple[Dropped, ...] = ()
    num_tokens: int = 0
    """Number of tokens of ``text()``, as counted by the caller's function."""

    def text(self) -> str:
        """Returns the parts under short headings, separated by empty lines."""
        return "\n\n".join(part.text for part in self.parts)


def build_context(context: SessionContext, config: ContextConfig, count_tokens: CountTokens) -> Context:
    """Returns the simulator's context, at most ``config.budget_tokens`` tokens as counted by ``count_tokens``.

    Order of priority: the instruction, the current summary, the situation and profile, the latest session (its summary,
    then its messages, newest first), the long-term context, older summaries, older messages. So distant history is
    dropped first, oldest first, and no item is kept if one of higher priority is dropped. Two kinds of items are cut:
    one that needs more than half of the budget while others need the room, and the one at which the budget ends. Texts
    are cut at their end, the newest message at its start; other messages are dropped whole.

    Args:
        context: the session's user context; empty parts get no heading.
        config: budget, instruction and fields.
        count_tokens: returns the number of tokens of a text, without special tokens.
    """
    return _fit(collect_items(context, config.instruction, config.profile_fields), config, count_tokens)


def chatbot_context(context: SessionContext, config: ContextConfig, count_tokens: CountTokens) -> Context:
    """Returns the chatbot's context: without the summary of the coming session and the simulator's instruction."""
    visible = context.model_copy(update={"current_summary": None})
    return _fit(collect_items(visible, "", config.profile_fields), config, count_tokens)


def _fit(items: list[Item], config: ContextConfig, count: CountTokens) -> Context:
    old = [i for i in items if i.part == "previous_summaries" and i.age >= config.num_previous_summaries]
    dropped = [(item, count(item.line)) for item in old]
    items = [item for item in items if item not in old]
    kept = items
    if count(_text(items)) > config.budget_tokens:
        kept, cut = _keep_by_rank(items, config.budget_tokens, count)
        dropped += cut
    while kept and count(_text(kept)) > config.budget_tokens:  # the whole has more tokens than the sum of its items
        last = max(kept, key=lambda item: item.rank)
        kept = [item for item in kept if item is not last]
        dropped.append((last, count(last.line)))
    parts = tuple(Part(name=name, text=text) for name, text in render(kept))
    report = _report(dropped, items + old)
    return Context(parts=parts, dropped=report, num_tokens=count(_text(kept)) if kept else 0)


def _keep_by_rank(items: list[Item], budget: int, count: CountTokens) -> tuple[list[Item], list[tuple[Item, int]]]:
    """Fills the budget by rank; returns the kept items in reading order, and the dropped ones with their tokens."""
    costs = {id(item): count(item.line) for item in items}
    total, left, full = max(count(_text(items)), sum(costs.values())), budget, False
    kept: dict[int, Item] = {}
    dropped: list[tuple[Item, int]] = []
    for item in sorted(items, key=lambda item: item.rank):
        cost = costs[id(item)]
        allowed = left if item.part == "instruction" else min(left, max(budget // 2, budget - (total - cost)))
        room = allowed - _heading_cost(item, kept.values(), count)
        fits = not full and cost <= room
        piece = item if fits else None if full else _cut(item, room, cost > budget // 2, count)
        full = full or (not fits and (piece is None or allowed == left))
        spent = count(piece.line) if piece else 0
        if piece:
            kept[id(item)] = piece
            left -= spent + allowed - room
        if not fits:
            dropped.append((item if piece is None else item.cut_off(), cost - spent))
    return [kept[id(item)] for item in items if id(item) in kept], dropped


def _cut(item: Item, room: int, overlong: bool, count: CountTokens) -> Item | None:
    is_message = item.part == "recent_messages"
    if room < 8 or (is_message and item.age > 0 and not overlong):
        return None
    cutter: Callable[[str, int, CountTokens], str] = cut_start if is_message else cut_end
    text = cutter(item.text, room - count(item.label + "\n"), count)
    return item.with_text(text) if text else None


def _heading_cost(item: Item, others: Collection[Item], count: CountTokens) -> int:
    cost = 0 if any(other.part == item.part for other in others) else count(f"\n\n{item.heading}\n")
    if item.group and not any(other.group == item.group for other in others):
        cost += count(f"{item.group}\n")
    return cost


def _text(items: list[Item]) -> str:
    return "\n\n".join(text for _, text in render(items))


def _report(dropped: list[tuple[Item, int]], items: list[Item]) -> tuple[Dropped, ...]:
    """Returns one entry per item; the messages of one session share an entry."""
    entries: dict[tuple[PartName, str], list[int]] = {}
    for item, tokens in sorted(dropped, key=lambda pair: pair[0].position):
        entries.setdefault((item.part, item.what), []).append(tokens)
    sizes = {what: sum(item.what == what for item in items) for _, what in entries}
    return tuple(
        Dropped(
            part=part,
            what=f"{len(tokens)} of {sizes[what]} {what}" if what.startswith("messages") else what,
            tokens=max(sum(tokens), 0),
        )
        for (part, what), tokens in entries.items()
    )
