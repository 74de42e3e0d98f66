"""``PopulationUser``, the simulated user of the reference population: updates its state, stays or leaves, and replies.

It implements ``rlenv.core.protocols.UserSimulator``. Its replies are a function of the conversation's state and a seed;
its hidden state is in ``ConversationState.user_memory``.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from rlenv.core.seeds import derive_seed
from rlenv.core.types import ConversationState, Utterance
from rlenv.env.provenance import SpeakerCard, rlenv_version
from rlenv.population.oracle import Appraisal, Scene, appraise, known_text
from rlenv.population.reading.acts import ActSet, history_of, recognise
from rlenv.population.reading.register import write
from rlenv.population.users.agenda import untold
from rlenv.population.users.mind import Mind, level, mind_of
from rlenv.population.users.replies import REACTION_ACTIONS, Plan, plan_reply
from rlenv.population.users.voice import Voice
from rlenv.population.wording import pool

Exit = Literal["stay", "announce", "insist", "bye_good", "bye", "bye_bad", "silent"]
"""With ``announce`` and ``insist`` the user announces to leave and waits; the last four end the session."""

_GOALS_SERVED = {
    "vent": {"reflection": 0.07, "validation": 0.07, "open_question": 0.03},
    "get advice": {"advice": 0.16, "information": 0.06, "validation": 0.04, "reflection": 0.03},
    "understand myself": {"reflection": 0.08, "open_question": 0.05, "information": 0.08},
    "make a plan": {"advice": 0.16, "open_question": 0.04, "reflection": 0.03},
    "get through tonight": {"validation": 0.09, "advice": 0.1, "reflection": 0.05},
}


class PopulationUser:
    """A user of the population; the context decides which one, or else the seed."""

    name = "population"

    def describe(self) -> SpeakerCard:
        """Returns the user's description for the provenance."""
        return SpeakerCard(name=self.name, kind="population", version=rlenv_version())

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the user's next message, with its true actions and the resulting hidden state."""
        mind = mind_of(state, seed)
        turn = state.num_user_turns + 1
        rng = Random(derive_seed("population-reply", mind.seed, mind.user, seed, len(state.turns)))
        acts, felt = None, None
        if state.turns and state.turns[-1].role == "assistant":
            acts, felt = _hear(state, mind, turn, rng)
            mind = _updated(mind, acts, felt)
        leaves = exit_of(mind, acts, turn, rng)
        voice = Voice(mind.traits, rng, mind.used, mind.named)
        plan = _plan(mind, acts, felt, turn, leaves, voice)
        ends = leaves not in ("stay", "announce", "insist")
        return Utterance(
            text=_written(plan, mind, rng),
            ends_session=ends,
            actions=tuple(dict.fromkeys(plan.actions)),
            memory=_after(mind, plan, voice, leaves).model_dump(mode="json"),
        )


def _hear(state: ConversationState, mind: Mind, turn: int, rng: Random) -> tuple[ActSet, Appraisal]:
    history = history_of(state)
    acts = recognise(history[-1][1], history[:-1], known_text(state))
    scene = Scene(
        wants_on=wants_on(mind, turn),
        vulnerable=mind.vulnerable,
        at_risk="crisis" in mind.last,
    )
    if turn == 1:
        acts = acts.model_copy(update={"acts": acts.acts - {"cold"}})
    return acts, appraise(acts, mind, scene, (rng.random(), rng.random()))


def _updated(mind: Mind, acts: ActSet, felt: Appraisal) -> Mind:
    served = 0.0
    if felt.fault is None:
        served = sum(gain for act, gain in _GOALS_SERVED[mind.traits.goal].items() if act in acts)
    return mind.model_copy(
        update={
            "trust": level(mind.trust + felt.trust),
            "mood": level(mind.mood + felt.mood),
            "patience": level(mind.patience + felt.patience),
            "eased": level(mind.eased + served * (1.1 - 0.6 * mind.traits.resistance)),
            "heard": mind.heard + 1,
            "issues": felt.issues,
        }
    )


def _plan(mind: Mind, acts: ActSet | None, felt: Appraisal | None, turn: int, leaves: Exit, voice: Voice) -> Plan:
    if leaves == "stay":
        return plan_reply(mind, acts, felt, turn, voice)
    plan = Plan()
    if leaves == "silent":
        return plan
    if felt is not None and felt.reaction and felt.reaction != "ignored" and voice.rng.random() < 0.6:
        plan.react(voice, felt.reaction)
    elif leaves == "announce" and voice.rng.random() < 0.4:
        plan.react(voice, "ack" if mind.eased < 0.5 else "agree_reflection")
    plan.react(voice, "ignored" if leaves == "insist" else leaves)
    return plan


def _written(plan: Plan, mind: Mind, rng: Random) -> str:
    traits = mind.traits
    emoji = rng.choice(pool("reactions.yaml", "emoji")) if plan.sentences and rng.random() < traits.emoji else ""
    return write(plan.sentences, traits.style, rng, traits.typos, emoji)


def _after(mind: Mind, plan: Plan, voice: Voice, leaves: Exit) -> Mind:
    assert set(plan.reactions) <= set(REACTION_ACTIONS)
    return mind.model_copy(
        update={
            "told": (*mind.told, *plan.told),
            "used": tuple(voice.used),
            "named": tuple(voice.named),
            "leaving": mind.leaving + (leaves in ("announce", "insist")),
            "risk_told": mind.risk_told or plan.crisis,
            "vulnerable": plan.vulnerable,
            "last": tuple(plan.reactions),
        }
    )


def wants_on(mind: Mind, turn: int) -> bool:
    """Returns whether the user wants to continue before message ``turn``: has more to disclose and time for it."""
    return mind.leaving == 0 and mind.eased < 1.0 and turn < mind.traits.stamina - 1 and len(untold(mind)) > 2


def exit_of(mind: Mind, acts: ActSet | None, turn: int, rng: Random) -> Exit:
    """Returns whether and how the user leaves with message ``turn`` (from 1), after a message with ``acts``."""
    if acts is None or turn == 1:
        return "stay"
    if mind.leaving:
        if "ignores_end" in acts and mind.leaving < 2 and rng.random() < 0.8:
            return "insist"
        if "ignores_end" in acts:
            return "bye_bad" if rng.random() < 0.5 else "silent"
        return "silent" if rng.random() < 0.5 else "bye"
    if (mind.trust < 0.13 or mind.patience < 0.1) and rng.random() < 0.65:
        return "bye_bad" if rng.random() < 0.6 else "silent"
    if "goodbye" in acts and "open_question" not in acts:
        return "bye" if rng.random() < 0.5 else "silent"
    if wants_on(mind, turn):
        return "silent" if turn > 3 and rng.random() < 0.006 else "stay"
    if turn < mind.traits.stamina - 1 and mind.eased < 1.0 and untold(mind) and rng.random() < 0.6:
        return "stay"
    if rng.random() < 0.65 * mind.traits.announces:
        return "announce"
    if rng.random() < 0.15:
        return "silent"
    return "bye_good" if rng.random() < mind.eased + 0.1 else "bye"
