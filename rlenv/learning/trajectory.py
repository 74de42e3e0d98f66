"""One finished episode as the trained seat's model saw it: token ids, log-probs, mask, rewards. For trainers.

The sampled tokens are kept as they were sampled; nothing here is tokenised anew but the other seat's words, exactly as
they were when the seat was prompted. So the prompt and the completion, up to and with own message k, are the prompt
that the engine read at k followed by what it sampled there. Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlenv.core.errors import ConfigError
from rlenv.core.types import ROLE_OF_SEAT, Adapter, ConversationState, Record, Seat, Utterance
from rlenv.env.provenance import Provenance, check_poolable
from rlenv.prompting.chat_format import ChatFormat
from rlenv.speakers.engine import EngineSpeaker

if TYPE_CHECKING:
    from rlenv.env.collect import Collected


class Trajectory(Record):
    """What the trained seat read and said in one episode of T own messages.

    ``action_mask`` (1 at own tokens), ``logprobs`` and ``turn_of_token`` are as long as ``completion_ids``.
    A user's leaving without a word is an own message too: it was sampled.
    """

    episode_id: str
    seat: Seat
    prompt_ids: tuple[int, ...]
    """All that stood before the first own message."""
    completion_ids: tuple[int, ...]
    """From the first own token to the last one, with the environment's tokens between."""
    action_mask: tuple[int, ...]
    """1 on tokens that were sampled here, 0 on the environment's."""
    logprobs: tuple[float, ...]
    """Under the sampler, at its temperature; 0.0 on the environment's tokens."""
    turn_of_token: tuple[int, ...]
    """The own message, from 1, that a token belongs to; 0 on the environment's tokens."""
    rewards: tuple[float, ...]
    """[T], of the step that each own message was."""
    reward_parts: tuple[dict[str, float], ...] = ()
    """[T], the weighted parts that sum to ``rewards``; empty where they were not kept."""
    adapter: Adapter | None = None
    """The version that sampled it; None is the bare model."""
    provenance: Provenance | None = None
    terminated: bool
    """A speaker ended it."""
    truncated: bool
    """A cap ended it: what would have come next is unknown, not worthless."""


def trajectory_of(
    state: ConversationState,
    rewards: Sequence[float],
    *,
    seat: Seat,
    chat: ChatFormat,
    system: str,
    episode_id: str = "",
    reward_parts: Sequence[Mapping[str, float]] = (),
    provenance: Provenance | None = None,
) -> Trajectory:
    """Returns the trajectory of ``seat`` in a finished conversation.

    An end-of-session token that a seat sampled and that did not end the session is no part of any later prompt, so
    it is left out, unless nothing follows it; a message that was nothing else keeps its reward and has no tokens.

    Args:
        state: the conversation, ended.
        rewards: one for each own message.
        seat: the trained one.
        chat: the chat format that it was prompted in.
        system: the system text that it was prompted with.
        episode_id: the record's.
        reward_parts: one for each own message, or none.
        provenance: the record's.

    Raises:
        ConfigError: the conversation goes on, an own message was not sampled here, several adapters spoke, or the
            numbers of own messages and rewards differ.
    """
    said = [t.utterance for t in state.turns if t.role == ROLE_OF_SEAT[seat]]
    if state.end is not None and state.end.by == seat and state.end.said is not None:
        said.append(state.end.said)
    _check(state, seat, said, rewards, reward_parts)
    ids = list(chat.system_ids(system))
    spoken: list[tuple[int, Utterance]] = []  # where each own message's first token stands
    for turn in state.turns:
        if turn.role == ROLE_OF_SEAT[seat]:
            spoken.append((len(ids) + len(chat.own.before), turn.utterance))
        ids += chat.message_ids(turn.role, seat, turn.utterance)
    if len(spoken) < len(said) or not said:
        ids += chat.own.before
        spoken += [(len(ids), utterance) for utterance in said[len(spoken) :]]
    if spoken:  # what the template writes after the last own token was read by nobody
        ids = [*ids[: spoken[-1][0]], *spoken[-1][1].token_ids]
    first = spoken[0][0] if spoken else len(ids)
    turn_of_token, logprobs = _owners(ids, spoken)
    return Trajectory(
        episode_id=episode_id,
        seat=seat,
        prompt_ids=tuple(ids[:first]),
        completion_ids=tuple(ids[first:]),
        action_mask=tuple(int(number > 0) for number in turn_of_token[first:]),
        logprobs=tuple(logprobs[first:]),
        turn_of_token=tuple(turn_of_token[first:]),
        rewards=tuple(rewards),
        reward_parts=tuple(dict(parts) for parts in reward_parts),
        adapter=said[0].adapter if said else None,
        provenance=provenance,
        terminated=state.end is not None and not state.end.truncated,
        truncated=state.end is not None and state.end.truncated,
    )


def trajectories_of(
    results: Iterable[Collected], speaker: EngineSpeaker, *, allow_mixed: bool = False
) -> list[Trajectory]:
    """Returns the trajectories of collected episodes in which ``speaker`` was the agent.

    Failed episodes, and those that ended before the agent's first message, have nothing to learn from and are left out.

    Args:
        results: of ``rlenv.env.collect.collect``.
        speaker: who sat in the trained seat.
        allow_mixed: take episodes of different simulators together; see ``rlenv.env.provenance.check_poolable``.

    Raises:
        ConfigError: episodes of different simulators, or as ``trajectory_of``.
    """
    finished = [(r, r.state) for r in results if r.state is not None and r.rewards]
    check_poolable((r.provenance for r, _ in finished), allow_mixed)
    return [
        trajectory_of(
            state,
            result.rewards,
            seat=speaker.seat,
            chat=speaker.format,
            system=speaker.system(state),
            episode_id=result.episode.episode_id,
            reward_parts=result.reward_parts,
            provenance=result.provenance,
        )
        for result, state in finished
    ]


def _check(
    state: ConversationState,
    seat: Seat,
    said: Sequence[Utterance],
    rewards: Sequence[float],
    reward_parts: Sequence[Mapping[str, float]],
) -> None:
    problems = [] if state.end is not None else ["the conversation has not ended"]
    for number, utterance in enumerate(said, 1):
        if not utterance.token_ids:
            problems.append(f"the {seat}'s message {number} has no sampled tokens; only a model on an engine has them")
        elif len(utterance.logprobs) != len(utterance.token_ids):
            counts = f"{len(utterance.logprobs)} log-probs for {len(utterance.token_ids)} tokens"
            problems.append(f"the {seat}'s message {number} has {counts}")
    digests = {u.adapter.digest if u.adapter else None for u in said}
    if len(digests) > 1:
        problems.append(f"the {seat}'s messages come from {len(digests)} adapter versions; a trajectory has one")
    if len(rewards) != len(said):
        problems.append(f"{len(said)} messages of the {seat} and {len(rewards)} rewards; a step is one message")
    if reward_parts and len(reward_parts) != len(rewards):
        problems.append(f"{len(rewards)} rewards and parts of {len(reward_parts)}")
    if problems:
        raise ConfigError("\n".join(f"conversation {state.context_id}: {problem}" for problem in problems))


def _owners(ids: Sequence[int], spoken: Sequence[tuple[int, Utterance]]) -> tuple[list[int], list[float]]:
    """Returns each token's own message, 0 for none, and its log-prob under the sampler, both [n]."""
    turn_of_token, logprobs = [0] * len(ids), [0.0] * len(ids)
    for number, (start, utterance) in enumerate(spoken, 1):
        sampled = zip(utterance.token_ids, utterance.logprobs, strict=True)
        for place, (token, logprob) in enumerate(sampled, start):
            if ids[place] == token:  # all of them but an end of session that ended nothing
                turn_of_token[place], logprobs[place] = number, logprob
    return turn_of_token, logprobs
