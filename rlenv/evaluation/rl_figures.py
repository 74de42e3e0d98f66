"""From finished conversations to the figures of a curve point: reward, length, diversity, issues, endings.

Means are over conversations or messages; their standard errors are those of a ratio of two sums over contexts,
because a round holds several conversations of one context. Words are those of ``rlenv.linguistics``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from rlenv.collect import Collected
from rlenv.evaluation.intervals import ratio_standard_error
from rlenv.evaluation.rl_records import Held, Measured, UserFigures
from rlenv.linguistics import ngrams, words
from rlenv.types import ConversationState, Message

FIRST_WORDS = 100
"""Words of the chatbot's, in a conversation, that diversity is measured on: it falls with length, whoever speaks."""


def held_of(result: Collected, issues: Sequence[Sequence[str]] = ()) -> Held:
    """Returns a collected episode as a record to be measured.

    Args:
        result: of ``rlenv.collect``, with the chatbot as the agent.
        issues: of each message of the chatbot, in order, as a ``LabelSource`` gives them; nothing for a failed episode.

    Raises:
        ValueError: another number of labels than of messages.
    """
    episode, state = result.episode, result.state
    held = Held(
        context_id=episode.context_id,
        world=episode.world,
        seed=episode.seed,
        provenance=result.provenance,
        user_id=result.provenance.user_id if result.provenance else "",
        failure=result.failure,
    )
    if state is None:
        return held
    own = [turn.utterance for turn in state.turns if turn.role == "assistant"]
    if len(own) != len(issues):
        raise ValueError(
            f"conversation {state.context_id}: {len(issues)} labels for {len(own)} messages of the chatbot"
        )
    return held.model_copy(
        update={
            "messages": _labelled(state, issues),
            "rewards": result.rewards,
            "reply_tokens": tuple(len(u.token_ids) for u in own) if any(u.token_ids for u in own) else (),
            "num_cut": sum(u.truncated for u in own),
            "ended_by": state.end.by if state.end else None,
            "end_reason": state.end.reason if state.end else None,
        }
    )


def replies(held: Held) -> list[Message]:
    """Returns the chatbot's messages."""
    return [m for m in held.messages if m.role == "assistant"]


def figures_of(conversations: Sequence[Held]) -> UserFigures:
    """Returns the figures of one group of users."""
    there = [held for held in conversations if held.failure is None]
    own = {id(held): replies(held) for held in there}
    categories = sorted({issue for said in own.values() for m in said for issue in m.issues or ()})

    def has(issue: str) -> Callable[[Message], bool]:
        return lambda message: issue in (message.issues or ())

    def by_message(count: Callable[[Message], float]) -> Measured:
        return measured(there, lambda h: sum(count(m) for m in own[id(h)]), lambda h: len(own[id(h)]))

    pairs = {id(held): _pairs(held) for held in there}
    others = _partners(there)
    return UserFigures(
        num_conversations=len(there),
        num_failed=len(conversations) - len(there),
        num_messages=sum(len(said) for said in own.values()),
        reward=measured(there, lambda h: sum(h.rewards)),
        turns=measured(there, lambda h: sum(m.role == "user" for m in h.messages)),
        reply_words=by_message(lambda m: len(words(m.content))),
        reply_tokens=measured(there, lambda h: sum(h.reply_tokens), lambda h: len(h.reply_tokens)),
        cut_rate=measured(there, lambda h: h.num_cut, lambda h: len(own[id(h)])),
        distinct_2=measured([h for h in there if pairs[id(h)]], lambda h: len(set(pairs[id(h)])) / len(pairs[id(h)])),
        sameness=measured(
            [h for h in there if pairs[id(h)] and id(h) in others],
            lambda h: _shared(pairs[id(h)], pairs[id(others[id(h)])]),
        ),
        issue_rate=by_message(lambda m: bool(m.issues)),
        issues={issue: by_message(has(issue)) for issue in categories},
        endings=dict(sorted(Counter(f"{h.ended_by}: {h.end_reason}" for h in there).items())),
    )


def measured(
    conversations: Sequence[Held],
    value: Callable[[Held], float],
    weight: Callable[[Held], float] = lambda held: 1,
) -> Measured:
    """Returns sum(value) / sum(weight) over conversations, with its standard error over contexts.

    >>> earned = (("a", 1, 0), ("a", 2, 2), ("b", 1, 3), ("b", 2, 5))
    >>> held = [Held(context_id=c, world="w", seed=s, rewards=(r,)) for c, s, r in earned]
    >>> found = measured(held, lambda h: sum(h.rewards))
    >>> found.value, found.standard_error  # contexts' means 1 and 4: their sd / sqrt(2)
    (2.5, 1.5)
    """
    over: dict[str, float] = defaultdict(float)
    under: dict[str, float] = defaultdict(float)
    for held in conversations:
        over[held.context_id] += value(held)
        under[held.context_id] += weight(held)
    total = sum(under.values())
    if not total:
        return Measured(value=None)
    error = ratio_standard_error(list(over.values()), list(under.values()))
    return Measured(value=sum(over.values()) / total, standard_error=error, num=int(total))


def _labelled(state: ConversationState, issues: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    left = iter(issues)
    return tuple(
        Message(role=t.role, content=t.utterance.text, issues=tuple(next(left)))
        if t.role == "assistant"
        else Message(role=t.role, content=t.utterance.text, actions=t.utterance.actions)
        for t in state.turns
    )


def _pairs(held: Held) -> list[tuple[str, ...]]:
    left, kept = FIRST_WORDS, []
    for message in replies(held):
        said = words(message.content)[:left]
        left -= len(said)
        kept.append(said)
    return ngrams(kept, 2)


def _partners(conversations: Sequence[Held]) -> dict[int, Held]:
    """Returns for each conversation one of another context: the next in the order of contexts, whatever was said."""
    order = sorted(conversations, key=lambda h: h.key)
    partners = {}
    for place, held in enumerate(order):
        later = order[place + 1 :] + order[:place]
        other = next((h for h in later if h.context_id != held.context_id), None)
        if other is not None:
            partners[id(held)] = other
    return partners


def _shared(pairs: Sequence[tuple[str, ...]], others: Sequence[tuple[str, ...]]) -> float:
    said = set(others)
    return sum(pair in said for pair in pairs) / len(pairs)
