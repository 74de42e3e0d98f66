"""Computes the figures of a curve point from finished conversations: reward, length, diversity, issues, endings.

Means are over conversations or messages; their standard errors are those of a ratio of two sums over contexts,
because a round holds several conversations of one context. Words are those of ``rlenv.data.linguistics``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rlenv.core.types import ConversationState, Message
from rlenv.data.linguistics import ngrams, words
from rlenv.env.collect import Collected
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, Measured, UserFigures
from rlenv.evaluation.statistics.intervals import ratio_standard_error

FIRST_WORDS = 100
"""Number of the chatbot's first words per conversation on which diversity is measured, as it falls with length."""


def evaluation_episode(result: Collected, issues: Sequence[Sequence[str]] = ()) -> EvaluationEpisode:
    """Returns a collected episode as a record for evaluation.

    Args:
        result: an episode from ``rlenv.env.collect`` with the chatbot as the agent.
        issues: the issues of each message of the chatbot, in order, from a ``LabelSource``; empty if the episode
            failed.

    Raises:
        ValueError: the number of labels differs from the number of messages.
    """
    episode, state = result.episode, result.state
    record = EvaluationEpisode(
        context_id=episode.context_id,
        counterpart=episode.counterpart,
        seed=episode.seed,
        provenance=result.provenance,
        user_id=result.provenance.user_id if result.provenance else "",
        failure=result.failure,
    )
    if state is None:
        return record
    own = [turn.utterance for turn in state.turns if turn.role == "assistant"]
    if len(own) != len(issues):
        raise ValueError(
            f"conversation {state.context_id}: {len(issues)} labels for {len(own)} messages of the chatbot"
        )
    return record.model_copy(
        update={
            "messages": _labelled(state, issues),
            "rewards": result.rewards,
            "reply_tokens": tuple(len(u.token_ids) for u in own) if any(u.token_ids for u in own) else (),
            "num_cut": sum(u.truncated for u in own),
            "ended_by": state.end.by if state.end else None,
            "end_reason": state.end.reason if state.end else None,
        }
    )


def replies(episode: EvaluationEpisode) -> list[Message]:
    """Returns the chatbot's messages."""
    return [m for m in episode.messages if m.role == "assistant"]


Terms = dict[str, tuple[float, float]]
"""A conversation's part in each figure: what is summed above the line and below it, (0, 0) where it has no part."""


def terms_of(conversations: Sequence[EvaluationEpisode]) -> list[tuple[EvaluationEpisode, Terms]]:
    """Returns every conversation that did not fail, with its part in each figure of ``UserFigures``.

    Categories are ``issues/NAME`` and endings ``endings/WHO: WHY``; those that no conversation has are left out.
    """
    there = [episode for episode in conversations if episode.failure is None]
    own = [replies(episode) for episode in there]
    pairs = [_pairs(episode) for episode in there]
    partner = _partners(there)
    categories = sorted({issue for said in own for m in said for issue in m.issues or ()})
    endings = sorted({ending_of(episode) for episode in there})
    found = []
    for i, (episode, said) in enumerate(zip(there, own, strict=True)):
        num = float(len(said))
        other = pairs[partner[i]] if i in partner else None
        terms: Terms = {
            "reward": (sum(episode.rewards), 1.0),
            "turns": (float(sum(m.role == "user" for m in episode.messages)), 1.0),
            "reply_words": (float(sum(len(words(m.content)) for m in said)), num),
            "reply_tokens": (float(sum(episode.reply_tokens)), float(len(episode.reply_tokens))),
            "cut_rate": (float(episode.num_cut), num),
            "distinct_2": (len(set(pairs[i])) / len(pairs[i]), 1.0) if pairs[i] else (0.0, 0.0),
            "sameness": (_shared(pairs[i], other), 1.0) if pairs[i] and other is not None else (0.0, 0.0),
            "issue_rate": (float(sum(bool(m.issues) for m in said)), num),
        }
        terms |= {f"issues/{c}": (float(sum(c in (m.issues or ()) for m in said)), num) for c in categories}
        terms |= {f"endings/{e}": (float(ending_of(episode) == e), 1.0) for e in endings}
        found.append((episode, terms))
    return found


def by_context(terms: Sequence[tuple[EvaluationEpisode, Terms]], figure: str) -> dict[str, tuple[float, float]]:
    """Returns each context's part in a figure, summed over its conversations; (0, 0) if the figure is unknown."""
    sums: dict[str, tuple[float, float]] = {}
    for episode, of in terms:
        over, under = sums.get(episode.context_id, (0.0, 0.0))
        value, weight = of.get(figure, (0.0, 0.0))
        sums[episode.context_id] = over + value, under + weight
    return sums


def figures_of(conversations: Sequence[EvaluationEpisode]) -> UserFigures:
    """Returns the figures of one group of users."""
    terms = terms_of(conversations)
    names = list(terms[0][1]) if terms else []

    def figure(name: str) -> Measured:
        return measured(by_context(terms, name).values())

    return UserFigures(
        num_conversations=len(terms),
        num_failed=len(conversations) - len(terms),
        num_messages=sum(len(replies(episode)) for episode, _ in terms),
        reward=figure("reward"),
        turns=figure("turns"),
        reply_words=figure("reply_words"),
        reply_tokens=figure("reply_tokens"),
        cut_rate=figure("cut_rate"),
        distinct_2=figure("distinct_2"),
        sameness=figure("sameness"),
        issue_rate=figure("issue_rate"),
        issues={name.removeprefix("issues/"): figure(name) for name in names if name.startswith("issues/")},
        endings=dict(sorted(Counter(ending_of(episode) for episode, _ in terms).items())),
    )


def measured(contexts: Iterable[tuple[float, float]]) -> Measured:
    """Returns the ratio of two sums with its standard error over the contexts that contribute to it.

    Args:
        contexts: (numerator, denominator) of each context.

    >>> measured([(2.0, 2.0), (8.0, 2.0)])  # means 1 and 4: their sd / sqrt(2)
    Measured(value=2.5, standard_error=1.5, num=4)
    """
    over, under = ([*column] for column in zip(*contexts, strict=True)) if (contexts := [*contexts]) else ([], [])
    total = sum(under)
    if not total:
        return Measured(value=None)
    return Measured(value=sum(over) / total, standard_error=ratio_standard_error(over, under), num=int(total))


def ending_of(episode: EvaluationEpisode) -> str:
    """Returns who ended a conversation and why, as in "user: end_of_session"."""
    return f"{episode.ended_by}: {episode.end_reason}"


def _labelled(state: ConversationState, issues: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    left = iter(issues)
    return tuple(
        Message(role=t.role, content=t.utterance.text, issues=tuple(next(left)))
        if t.role == "assistant"
        else Message(role=t.role, content=t.utterance.text, actions=t.utterance.actions)
        for t in state.turns
    )


def _pairs(episode: EvaluationEpisode) -> list[tuple[str, ...]]:
    left, kept = FIRST_WORDS, []
    for message in replies(episode):
        said = words(message.content)[:left]
        left -= len(said)
        kept.append(said)
    return ngrams(kept, 2)


def _partners(conversations: Sequence[EvaluationEpisode]) -> dict[int, int]:
    """Returns the index of each conversation's partner: the next conversation of another context."""
    order = sorted(range(len(conversations)), key=lambda i: conversations[i].key)
    contexts = [conversations[i].context_id for i in order]
    partners = {}
    for place, i in enumerate(order):
        later = (k % len(order) for k in range(place + 1, place + len(order)))
        other = next((k for k in later if contexts[k] != contexts[place]), None)
        if other is not None:
            partners[i] = order[other]
    return partners


def _shared(pairs: Sequence[tuple[str, ...]], others: Sequence[tuple[str, ...]]) -> float:
    said = set(others)
    return sum(pair in said for pair in pairs) / len(pairs)
