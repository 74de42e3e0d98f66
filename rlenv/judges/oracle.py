"""The reference population's oracle as a ``Judge`` of chatbot messages in any session, read from the texts alone."""

from __future__ import annotations

from rlenv.core.types import Annotation, Session, Turn, Utterance
from rlenv.env.conversation import begin
from rlenv.env.provenance import rlenv_version
from rlenv.population.oracle import issues_of


class OracleJudge:
    """A ``Judge`` by the rules that the population lives by; it says nothing of the user's messages.

    A session holds no hidden states, so what it finds is inferred; in the population's own sessions the labels already
    there are the truth. It knows the population's faults and was not made for other people's conversations.
    """

    kinds = ("issues",)

    def __init__(self) -> None:
        self.name = f"population oracle {rlenv_version()}"

    async def annotate(self, session: Session) -> Annotation:
        """Returns the issues of every chatbot message; see ``rlenv.core.protocols.Judge``."""
        turns = tuple(Turn(role=m.role, utterance=Utterance(text=m.content)) for m in session.messages)
        state = begin(session.session_id, session.context).model_copy(update={"turns": turns})
        issues = iter(issues_of(state))
        return Annotation(labels=tuple(next(issues) if m.role == "assistant" else () for m in session.messages))
