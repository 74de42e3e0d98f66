"""The reference population's oracle as a ``Judge`` of chatbot messages in any session, from the texts alone."""

from __future__ import annotations

from rlenv.core.types import Annotation, Session
from rlenv.env.conversation import from_session
from rlenv.env.provenance import rlenv_version
from rlenv.population.oracle import issues_of


class OracleJudge:
    """A ``Judge`` that applies the population's own rules to chatbot messages; user messages get no labels.

    A session does not contain the users' hidden states, so its labels are inferred; the labels that the population's
    own sessions already have are the true ones. It knows the faults of the population's chatbots and was not made for
    other conversations.
    """

    kinds = ("issues",)

    def __init__(self) -> None:
        self.name = f"population oracle {rlenv_version()}"

    async def annotate(self, session: Session) -> Annotation:
        """Returns the issues of every chatbot message; see ``rlenv.core.protocols.Judge``."""
        issues = iter(issues_of(from_session(session)))
        return Annotation(labels=tuple(next(issues) if m.role == "assistant" else () for m in session.messages))
