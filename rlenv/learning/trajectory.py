"""Turns a finished episode into what the trained seat's model saw: token ids, log-probs, mask and rewards.

The sampled tokens are kept as they were sampled. Only the other seat's messages are tokenised, exactly as they were
when the model was prompted. So prompt and completion up to own message k are the prompt that the engine read at k,
followed by what it sampled there. *Own* means of the trained seat. Independent of losses.
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
    """One episode with T own messages as the trained seat's model read and sampled it.

    ``action_mask``, ``logprobs`` and ``turn_of_token`` are as long as ``completion_ids``. Ending the session without a
    message counts as an own message too, because it was sampled.
    """

    episode_id: str
    seat: Seat
    prompt_ids: tuple[int, ...]
    """Everything before the first own message."""
    completion_ids: tuple[int, ...]
    """From the first own token to the last one, including the environment's tokens between them."""
    action_mask: tuple[int, ...]
    """1 on tokens sampled by the model, 0 on the environment's tokens."""
    logprobs: tuple[float, ...]
    """Log-probs under the sampler, at its temperature; 0.0 on the environment's tokens."""
    turn_of_token: tuple[int, ...]
    """The number of the own message that a token belongs to, from 1; 0 on the environment's tokens."""
    rewards: tuple[float, ...]
    """[T], the reward of each own message's step."""
    reward_parts: tuple[dict[str, float], ...] = ()
    """[T], the weighted parts that sum to ``rewards``; empty if they were not kept."""
    adapter: Adapter | None = None
    """The adapter that sampled the messages; None is the bare model."""
    provenance: Provenance | None = None
    terminated: bool
    """A speaker ended the conversation."""
    truncated: bool
    """A cap ended the conversation; how it would have continued is unknown."""


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

    If the seat sampled an end-of-session token that did not end the session, the token is in no later prompt. It is
    left out here, unless nothing follows it. A message with no other token keeps its reward but has no tokens.

    Args:
        state: the finished conversation.
        rewards: one for each own message.
        seat: the trained seat.
        chat: the chat format of its prompts.
        system: the system text of its prompts.
        episode_id: copied to the record.
        reward_parts: one for each own message, or none.
        provenance: copied to the record.

    Raises:
        ConfigError: the conversation has not ended, an own message has no sampled tokens, the messages come from
            several adapters, or the numbers of own messages and rewards differ.
    """
    own = [t.utterance for t in state.turns if t.role == ROLE_OF_SEAT[seat]]
    if state.end is not None and state.end.by == seat and state.end.said is not None:
        own.append(state.end.said)
    _check(state, seat, own, rewards, reward_parts)
    ids = list(chat.system_ids(system))
    starts: list[tuple[int, Utterance]] = []  # the position of each own message's first token
    for turn in state.turns:
        if turn.role == ROLE_OF_SEAT[seat]:
            starts.append((len(ids) + len(chat.own.before), turn.utterance))
        ids += chat.message_ids(turn.role, seat, turn.utterance)
    if len(starts) < len(own) or not own:
        ids += chat.own.before
        starts += [(len(ids), utterance) for utterance in own[len(starts) :]]
    if starts:  # drops what the template writes after the last own token, which no model read
        ids = [*ids[: starts[-1][0]], *starts[-1][1].token_ids]
    first = starts[0][0] if starts else len(ids)
    turn_of_token, logprobs = _owners(ids, starts)
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
        adapter=own[0].adapter if own else None,
        provenance=provenance,
        terminated=state.end is not None and not state.end.truncated,
        truncated=state.end is not None and state.end.truncated,
    )


def trajectories_of(
    results: Iterable[Collected], speaker: EngineSpeaker, *, allow_mixed: bool = False
) -> list[Trajectory]:
    """Returns the trajectories of collected episodes in which ``speaker`` was the agent.

    Failed episodes, and those that ended before the agent's first message, are left out.

    Args:
        results: from ``rlenv.env.collect.collect``.
        speaker: the speaker in the trained seat.
        allow_mixed: allow episodes with different simulators; see ``rlenv.env.provenance.check_poolable``.

    Raises:
        ConfigError: the episodes have different simulators, or as in ``trajectory_of``.
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
    own: Sequence[Utterance],
    rewards: Sequence[float],
    reward_parts: Sequence[Mapping[str, float]],
) -> None:
    problems = [] if state.end is not None else ["the conversation has not ended"]
    for number, utterance in enumerate(own, 1):
        if not utterance.token_ids:
            problems.append(f"the {seat}'s message {number} has no sampled tokens; use a model that runs on an engine")
        elif len(utterance.logprobs) != len(utterance.token_ids):
            counts = f"{len(utterance.logprobs)} log-probs for {len(utterance.token_ids)} tokens"
            problems.append(f"the {seat}'s message {number} has {counts}")
    digests = {u.adapter.digest if u.adapter else None for u in own}
    if len(digests) > 1:
        problems.append(f"the {seat}'s messages come from {len(digests)} adapter versions; a trajectory has one")
    if len(rewards) != len(own):
        problems.append(f"{len(own)} messages of the {seat} and {len(rewards)} rewards; expected one for each message")
    if reward_parts and len(reward_parts) != len(rewards):
        problems.append(f"{len(rewards)} rewards, but {len(reward_parts)} records of reward parts")
    if problems:
        raise ConfigError("\n".join(f"conversation {state.context_id}: {problem}" for problem in problems))


def _owners(ids: Sequence[int], starts: Sequence[tuple[int, Utterance]]) -> tuple[list[int], list[float]]:
    """Returns for each token the own message it belongs to (0: none) and its log-prob under the sampler, both [n]."""
    turn_of_token, logprobs = [0] * len(ids), [0.0] * len(ids)
    for number, (start, utterance) in enumerate(starts, 1):
        sampled = zip(utterance.token_ids, utterance.logprobs, strict=True)
        for position, (token, logprob) in enumerate(sampled, start):
            if ids[position] == token:  # false only for an end-of-session token that did not end the session
                turn_of_token[position], logprobs[position] = number, logprob
    return turn_of_token, logprobs
