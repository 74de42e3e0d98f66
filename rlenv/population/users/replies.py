"""Plans a user's next message: a reaction to the chatbot's last message, then facts of the agenda, perhaps a question.

A plan is a list of sentences and their actions (Appendix D). The wording is in ``rlenv.population.users.voice``, the
decision to leave in ``rlenv.population.users.user``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlenv.population.oracle import Appraisal
from rlenv.population.reading.acts import ActSet
from rlenv.population.users.agenda import ACTIONS, fact_by_id, next_fact
from rlenv.population.users.mind import Mind
from rlenv.population.users.voice import Voice

REACTION_ACTIONS = {
    "greet": ("greets",), "greet_again": ("greets",), "hesitate": ("hesitates",), "mood_answer": (), "ack": (),
    "agree_reflection": ("agrees_with_chatbot",), "thanks_validation": ("expresses_gratitude",),
    "unsure": ("chatbot_loses_user",), "say_yes": ("answers_question",), "say_no": ("answers_question",),
    "agree_advice": ("agrees_with_chatbot",), "change_talk": ("change_talk",),
    "doubt_advice": ("disagrees_with_chatbot",), "vent_first": ("disagrees_with_chatbot",),
    "disagree_reflection": ("disagrees_with_chatbot",), "clarity": ("asks_for_clarity",),
    "correct_fact": ("corrects_chatbot", "disagrees_with_chatbot"), "off_topic": ("frustrated_with_chatbot",),
    "repeat_annoyed": ("frustrated_with_chatbot",), "told_again": (), "angry": ("aggressive_to_chatbot",),
    "hurt": ("chatbot_loses_user",), "cold": ("frustrated_with_chatbot",), "contradiction": ("asks_for_clarity",),
    "too_much_praise": ("disagrees_with_chatbot",), "not_human": ("questions_chatbot",),
    "diagnosed": ("questions_chatbot", "disagrees_with_chatbot"), "not_done": ("wants_to_continue",),
    "cut_off": ("reports_technical_problem",), "hello_there": ("reports_technical_problem",),
    "twice": ("reports_technical_problem", "frustrated_with_chatbot"), "insight": ("gained_an_insight",),
    "lighter": ("chatbot_created_change",), "ask_advice": ("asks_for_advice",),
    "ask_understand": ("asks_for_explanation",), "ask_plan": ("asks_for_advice",), "ask_tonight": ("asks_for_advice",),
    "ask_bot": ("questions_chatbot",), "announce": ("announces_leaving",),
    "ignored": ("announces_leaving", "frustrated_with_chatbot"),
    "bye_good": ("says_goodbye", "expresses_gratitude"), "bye": ("says_goodbye",),
    "bye_bad": ("says_goodbye", "frustrated_with_chatbot"), "crisis": ("suicidal_ideation",),
    "crisis_calm": ("agrees_with_chatbot",), "no_resources": ("frustrated_with_chatbot",),
}  # fmt: skip
_ASKS = {
    "get advice": "ask_advice",
    "understand myself": "ask_understand",
    "make a plan": "ask_plan",
    "get through tonight": "ask_tonight",
}
_PLAIN_STARTS = (
    "I ",
    "I'm ",
    "I've ",
    "my ",
    "it ",
    "it's ",
    "there ",
    "nobody ",
    "he ",
    "she ",
    "we ",
    "they ",
    "people ",
)
_DISTRESS = (
    "can't do",
    "tired",
    "stop",
    "want to feel",
    "so bad",
    "alone",
    "stuck",
    "never end",
    "wrong with",
    "so hard",
    "fault",
)
_SHORT_AFTER = {"angry": 0.35, "hurt": 0.15, "cold": 0.3, "clarity": 0.2, "unsure": 0.2, "cut_off": 0.1,
                "hello_there": 0.1, "twice": 0.2, "no_resources": 0.2, "not_done": 0.8}  # fmt: skip


@dataclass
class Plan:
    """The plan of a message."""

    sentences: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    reactions: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """Ids of the facts that it discloses."""
    lead: str = ""
    """Words that introduce the next fact."""
    vulnerable: bool = False
    crisis: bool = False

    def words(self) -> int:
        """Returns the present length in words."""
        return sum(len(s.split()) for s in self.sentences)

    def react(self, voice: Voice, name: str) -> None:
        """Adds a line of a reaction pool."""
        self.sentences.append(voice.say(name))
        self.actions += REACTION_ACTIONS[name]
        self.reactions.append(name)


def plan_reply(mind: Mind, acts: ActSet | None, felt: Appraisal | None, turn: int, voice: Voice) -> Plan:
    """Returns the plan of a message that does not end the session.

    Args:
        mind: the user's state after the chatbot's message.
        acts: the acts of the chatbot's last message; None if the user opens.
        felt: the effect of that message on the user.
        turn: number of this user message, from 1.
        voice: the user's voice; its generator makes the random choices.
    """
    plan = Plan()
    target = voice.rng.lognormvariate(0, 0.5) * mind.traits.words * (0.55 + 0.75 * mind.trust)
    if turn == 1:
        _begin(plan, mind, acts, voice)
    if felt is not None and felt.reaction:
        plan.react(voice, felt.reaction)
        target *= _SHORT_AFTER.get(felt.reaction, 0.6)
        if acts is not None and "repetition" in acts and mind.told and voice.rng.random() < 0.5:
            _tell_again(plan, mind, acts, voice)
    elif acts is not None and turn > 1:
        target *= _answer(plan, mind, acts, voice, turn)
    _maybe_crisis(plan, mind, turn, voice)
    _disclose(plan, mind, acts, target, voice)
    _maybe_ask(plan, mind, acts, felt, turn, voice)
    if not plan.sentences:
        plan.react(voice, "ack")
    return plan


def _begin(plan: Plan, mind: Mind, acts: ActSet | None, voice: Voice) -> None:
    dice = voice.rng.random
    if acts is None or "greeting" in acts or dice() < 0.3:
        if dice() < 0.65:
            plan.react(voice, "greet_again" if mind.session else "greet")
        elif acts is not None and dice() < 0.6:
            plan.react(voice, "mood_answer")
    if mind.session == 0 and dice() < 0.15 + 0.3 * mind.traits.hedging:
        plan.react(voice, "hesitate")


def _answer(plan: Plan, mind: Mind, acts: ActSet, voice: Voice, turn: int) -> float:
    """Adds the reply to a message without faults; returns the share of the planned length left for the agenda."""
    traits, dice = mind.traits, voice.rng.random
    if "crisis_resources" in acts and "crisis" in mind.last:
        plan.react(voice, "crisis_calm")
        return 0.6
    if "advice" in acts and dice() < 0.75:
        doubt = traits.resistance * (1.2 if traits.goal == "vent" else 0.8)
        if dice() < doubt:
            plan.react(voice, "doubt_advice")
        else:
            plan.react(voice, "agree_advice")
            if dice() < 0.35 + 0.5 * mind.eased:
                plan.react(voice, "change_talk")
        return 0.7
    if "reflection" in acts and dice() < 0.55:
        if dice() < 0.08 + 0.22 * traits.resistance:
            plan.react(voice, "disagree_reflection")
        elif turn >= 4 and mind.trust > 0.5 and dice() < 0.2:
            plan.react(voice, "insight")
        else:
            plan.react(voice, "agree_reflection")
    elif "validation" in acts and dice() < 0.3:
        plan.react(voice, "thanks_validation")
    elif "closed_question" in acts and dice() < 0.7:
        plan.react(voice, "say_yes" if dice() < 0.5 + 0.2 * (1 - traits.resistance) else "say_no")
    elif "open_question" in acts:
        if dice() < 0.03 + 0.12 * (1 - traits.openness):
            plan.react(voice, "unsure")
            return 0.3
        if dice() < 0.2:
            plan.lead = voice.say("answer_lead")
    elif dice() < 0.4:
        plan.react(voice, "ack")
    if mind.eased > 0.55 and dice() < 0.12:
        plan.react(voice, "lighter")
    elif mind.eased > 0.4 and traits.goal != "vent" and dice() < 0.14:
        plan.react(voice, "change_talk")
    return 1.0


def _maybe_crisis(plan: Plan, mind: Mind, turn: int, voice: Voice) -> None:
    if mind.traits.at_risk and not mind.risk_told and turn >= 3 and mind.trust > 0.35 and voice.rng.random() < 0.35:
        plan.react(voice, "crisis")
        plan.crisis = plan.vulnerable = True


def _tell_again(plan: Plan, mind: Mind, acts: ActSet, voice: Voice) -> None:
    facts = [fact_by_id(mind, fact_id) for fact_id in mind.told]
    fact = next((f for f in reversed(facts) if f.kind == acts.asked), facts[-1])
    lead = voice.say("told_again")
    plan.sentences.append(f"{lead}, {voice.tell(fact)}")
    plan.actions.append(ACTIONS[fact.kind])


def _disclose(plan: Plan, mind: Mind, acts: ActSet | None, target: float, voice: Voice) -> None:
    asked = acts.asked if acts is not None else None
    only_reacts = plan.reactions and (target < 7 or voice.rng.random() < 0.06)
    while not (only_reacts and plan.words() > 0) and len(plan.told) < 7:
        if plan.told and plan.words() >= 0.85 * target:
            return
        if plan.reactions and plan.words() >= 1.3 * target:
            return
        fact = next_fact(mind, asked, plan.told, voice.rng)
        if fact is None:
            return
        asked = None
        text = _with_fillers(voice.tell(fact), mind, voice, fact.kind, first=not plan.told)
        plan.sentences.append(f"{plan.lead} {text}".strip())
        plan.lead = ""
        plan.actions.append(ACTIONS[fact.kind])
        plan.told.append(fact.fact_id)
        filler = voice.habit("fillers") if voice.rng.random() < 0.9 * mind.traits.filling else ""
        if filler and filler[:14] not in " ".join(plan.sentences) and plan.words() < 1.2 * target:
            plan.sentences.append(filler)
            plan.actions += ["general_distress"] if any(word in filler for word in _DISTRESS) else []
        plan.vulnerable |= fact.kind in ("feel", "thought", "vague", "worry")


def _with_fillers(text: str, mind: Mind, voice: Voice, kind: str, first: bool) -> str:
    """Returns the sentence with the user's filler words around it."""
    dice, traits = voice.rng.random, mind.traits
    chatty = {"formal": 0.4, "plain": 0.7, "casual": 1.2, "texting": 1.0, "rambling": 1.6}[traits.style]
    plain = text.startswith(_PLAIN_STARTS)
    if plain and dice() < 0.5 * traits.hedging:
        text = f"{voice.say('hedges')} {text}"
    elif plain and dice() < 1.0 * traits.filling * min(1.2, chatty):
        link = voice.habit("links" if first or dice() < 0.5 else "inner_links")
        fits = "feel like" not in link or kind in ("thought", "vague", "worry")
        text = f"{link if fits else 'I mean'} {text}"
    elif dice() < (0.1 if first else 0.16) * chatty:
        text = f"{voice.say('heads')} {text}"
    if dice() < 0.07 * chatty and not text.endswith("?"):
        text = f"{text}, {voice.say('tails')}"
    return text


def _maybe_ask(plan: Plan, mind: Mind, acts: ActSet | None, felt: Appraisal | None, turn: int, voice: Voice) -> None:
    pool, dice = _ASKS.get(mind.traits.goal), voice.rng.random
    if felt is not None and felt.reaction:
        return
    if pool and turn >= 2 and dice() < 0.13 + (0.1 if not acts or "advice" not in acts else -0.1):
        plan.react(voice, pool)
    elif dice() < 0.015:
        plan.react(voice, "ask_bot")
