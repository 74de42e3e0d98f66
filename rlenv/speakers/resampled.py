"""A user simulator that draws each message from several of its own, in proportion to how real they read.

The discriminator's log-odds estimate log p_real / p_simulated, so a message drawn from n candidates with probability
proportional to exp(log-odds) is drawn by importance resampling from the distribution of people; n = 1 is the simulator
itself. Nothing is trained, at n times the tokens.
"""

from __future__ import annotations

import numpy as np

from rlenv.core.protocols import Discriminator
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Branch, ConversationState, Message, Utterance
from rlenv.env.conversation import to_session
from rlenv.env.provenance import SpeakerCard
from rlenv.speakers.engine import EngineSpeaker


class ResampledSpeaker:
    """A simulator in the user's seat whose messages are resampled.

    Args:
        speaker: the simulator.
        discriminator: a discriminator that was trained against it.
        n: candidates for each message, at least 1.
    """

    def __init__(self, speaker: EngineSpeaker, discriminator: Discriminator, n: int) -> None:
        self.speaker = speaker
        self.discriminator = discriminator
        self.n = n
        self.name = speaker.name

    def describe(self) -> SpeakerCard:
        """Returns the simulator's card, with the number of candidates."""
        return self.speaker.describe().model_copy(update={"resampled_from": self.n})

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the next message. The user leaves without one as often as the simulator would.

        Raises:
            OverlongError: the conversation no longer fits the discriminator.
        """
        candidates = await self.speaker.replies(state, [derive_seed(seed, "candidate", i) for i in range(self.n)])
        rng = np.random.default_rng(derive_seed(seed, "resample"))
        first = candidates[rng.integers(self.n)]
        worded = [each for each in candidates if each.text]
        if not first.text or len(worded) < 2:
            return first
        log_odds = np.array(await self._log_odds(state, tuple(each.text for each in worded)))
        weights = np.exp(log_odds - log_odds.max())
        return worded[int(rng.choice(len(worded), p=weights / weights.sum()))]

    async def _log_odds(self, state: ConversationState, texts: tuple[str, ...]) -> tuple[float, ...]:
        """Returns the log-odds after each text as the next message, [n]."""
        session = to_session(state, session_id=state.context_id, source=self.name, chatbot="", user_id="")
        session = session.model_copy(update={"messages": (*session.messages, Message(role="user", content=texts[0]))})
        scores = await self.discriminator.log_odds(session, [Branch(turn=state.num_user_turns + 1, texts=texts)])
        return scores.branches[0]


def resampled(speaker: EngineSpeaker, discriminator: Discriminator | None, n: int) -> EngineSpeaker | ResampledSpeaker:
    """Returns ``speaker``, resampled from ``n`` candidates if there is a discriminator to draw by and n is above 1."""
    return speaker if discriminator is None or n == 1 else ResampledSpeaker(speaker, discriminator, n)
