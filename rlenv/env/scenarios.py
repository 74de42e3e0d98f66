"""What conversations start from: contexts of the data, their users and splits, and the draw of one under a seed.

Knows nothing of speakers or rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record, Role, Session, SessionContext


class Scenario(Record):
    """What a conversation starts from: a context of the data, and who speaks first."""

    context_id: str
    user_id: str
    """The persona: whose context it is. In the reference population, which synthetic user sits there."""
    context: SessionContext
    opener: Role = "user"
    split: str = ""
    """Which part of the data it belongs to, as in "train"; empty where the data are not divided."""

    @classmethod
    def of_session(cls, session: Session, opener: Role | None = None, split: str = "") -> Scenario:
        """Returns the scenario of a real session; without ``opener``, whoever opened it opens again."""
        first = session.messages[0].role if session.messages else "user"
        return cls(
            context_id=session.session_id,
            user_id=session.user_id,
            context=session.context,
            opener=opener or first,
            split=split,
        )


class Scenarios:
    """Scenarios by context, persona and split.

    Raises:
        ConfigError: there are none, or two of one ``context_id``.
    """

    def __init__(self, scenarios: Iterable[Scenario]) -> None:
        self.all = tuple(scenarios)
        if not self.all:
            raise ConfigError("a conversation env needs at least one scenario, got none")
        twice = sorted(i for i, n in Counter(s.context_id for s in self.all).items() if n > 1)
        if twice:
            raise ConfigError(
                f"{len(twice)} context ids stand for several scenarios, {twice[0]!r} first; name them apart"
            )
        self._by_id = {s.context_id: s for s in self.all}
        self._by_user: dict[str, list[Scenario]] = {}
        self._by_split: dict[str, list[Scenario]] = {}
        for scenario in self.all:
            self._by_user.setdefault(scenario.user_id, []).append(scenario)
            self._by_split.setdefault(scenario.split, []).append(scenario)

    def user_of(self, context_id: str) -> str:
        """Returns whose context it is; empty for a context that is not here."""
        return self._by_id[context_id].user_id if context_id in self._by_id else ""

    def choose(
        self, seed: int, *, context_id: str | None = None, persona: str | None = None, split: str | None = None
    ) -> Scenario:
        """Returns the one that was asked for, or one drawn under ``seed`` among those of ``persona`` and ``split``.

        Raises:
            ConfigError: there is no such context, persona or split, or no scenario that is all that was asked for.
        """
        for what, name, known in (
            ("context", context_id, self._by_id),
            ("persona", persona, self._by_user),
            ("split", split, self._by_split),
        ):
            if name is not None and name not in known:
                raise ConfigError(f"no {what} {name!r} here; {there_are([k for k in known if k], name)}")
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
                f"no scenario has context {context_id!r}, persona {persona!r} and split {split!r} at once"
            )
        return found[derive_seed(seed, "context") % len(found)]
