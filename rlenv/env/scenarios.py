"""Starting points of conversations: contexts with their users and splits, and the seeded draw of one.

Independent of speakers and rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record, Role, Session, SessionContext


class Scenario(Record):
    """The starting point of a conversation: a user context, and who speaks first."""

    context_id: str
    user_id: str
    """The user (persona) whose context it is; in the reference population, the id of the synthetic user."""
    context: SessionContext
    opener: Role = "user"
    split: str = ""
    """The split of the data that it belongs to, such as "train"; empty if the data have no splits."""

    @classmethod
    def of_session(cls, session: Session, opener: Role | None = None, split: str = "") -> Scenario:
        """Returns the scenario of a real session; ``opener`` defaults to the role that opened the session."""
        first = session.messages[0].role if session.messages else "user"
        return cls(
            context_id=session.session_id,
            user_id=session.user_id,
            context=session.context,
            opener=opener or first,
            split=split,
        )


class Scenarios:
    """Scenarios, indexed by context, user and split.

    Raises:
        ConfigError: there are none, or two have the same ``context_id``.
    """

    def __init__(self, scenarios: Iterable[Scenario]) -> None:
        self.all = tuple(scenarios)
        if not self.all:
            raise ConfigError("scenarios: expected at least one, got none")
        twice = sorted(i for i, n in Counter(s.context_id for s in self.all).items() if n > 1)
        if twice:
            raise ConfigError(
                f"scenarios: {len(twice)} context ids are used more than once, the first is {twice[0]!r}; "
                "give every scenario its own"
            )
        self._by_id = {s.context_id: s for s in self.all}
        self._by_user: dict[str, list[Scenario]] = {}
        self._by_split: dict[str, list[Scenario]] = {}
        for scenario in self.all:
            self._by_user.setdefault(scenario.user_id, []).append(scenario)
            self._by_split.setdefault(scenario.split, []).append(scenario)

    def user_of(self, context_id: str) -> str:
        """Returns the user of a context; empty if the context is unknown."""
        return self._by_id[context_id].user_id if context_id in self._by_id else ""

    def choose(
        self, seed: int, *, context_id: str | None = None, persona: str | None = None, split: str | None = None
    ) -> Scenario:
        """Returns the scenario of ``context_id``, or one drawn by ``seed`` among those of ``persona`` and ``split``.

        Raises:
            ConfigError: the context, persona or split does not exist, or no scenario matches all of them.
        """
        for what, name, known in (
            ("context", context_id, self._by_id),
            ("persona", persona, self._by_user),
            ("split", split, self._by_split),
        ):
            if name is not None and name not in known:
                raise ConfigError(f"no {what} {name!r}; {there_are([k for k in known if k], name)}")
        found: Sequence[Scenario] = self.all
        if context_id is not None:
            found = [self._by_id[context_id]]
        elif persona is not None:
            found = self._by_user[persona]
        elif split is not None:
            found = self._by_split[split]
        if persona is not None or split is not None:
            found = [s for s in found if persona in (None, s.user_id) and split in (None, s.split)]
        if not found:
            raise ConfigError(
                f"no scenario has context {context_id!r}, persona {persona!r} and split {split!r} together"
            )
        return found[derive_seed(seed, "context") % len(found)]
