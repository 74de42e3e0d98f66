"""The whole evaluation: takes simulators and real sessions, returns every table of the paper as one record.

    evaluate([Simulator(name="it3", sessions=...)], real) -> Evaluation

Each table has its own module in this folder. Independent of files, plots, reports and models: Figure 3's embeddings are
passed in (``embeddings.embedding_table``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydantic import Field, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.core.taxonomy import Taxonomy, load_taxonomy
from rlenv.core.types import Record, Session
from rlenv.data.labels import foreign_label_notes, foreign_labels, with_known_actions
from rlenv.data.linguistics import unspaced_share
from rlenv.discriminator.classification import TABLE_2_TURNS
from rlenv.evaluation.ab_tests import AbTable, AbTest, ab_table
from rlenv.evaluation.actions import ActionTable, action_table
from rlenv.evaluation.chatbots import ValidityTable, validity_table
from rlenv.evaluation.discriminators import DiscriminatorRow, discriminator_row
from rlenv.evaluation.embeddings.sessions import EmbeddingTable
from rlenv.evaluation.issues import IssueTable, issue_table
from rlenv.evaluation.linguistic import LinguisticTable, closest, linguistic_row
from rlenv.evaluation.sensitivity import SensitivityTable, sensitivity_table
from rlenv.evaluation.subjects import (
    REAL,
    Simulator,
    SubjectCard,
    card,
    check_subjects,
    halves,
    left_out_empty,
    same_sessions,
)

MIN_UNSPACED = 0.05
"""Share of words in scripts without blanks from which on a note tells of them."""


@settings
class EvaluationConfig(Settings):
    """The settings of the tables; the defaults are the paper's where it gives them."""

    seed: int = 0
    """Of intervals, draws and splits."""
    max_turns: PositiveInt | None = None
    """Cut sessions after this user message before diversity is measured."""
    turns: tuple[int, ...] = TABLE_2_TURNS
    """Columns of Table 2."""
    self_bleu_references: PositiveInt = 10
    """Other sessions each is compared with."""
    self_bleu_sessions: PositiveInt = 100
    """Sessions that self-BLEU scores, at most."""
    effect: float = 0.01
    """Rise of an issue rate that A/B tests should find."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Two-sided level of A/B tests."""
    allow_mixed: bool = False
    """Allow sessions of different simulator versions under one name."""


class Evaluation(Record):
    """Every table, as data."""

    real: SubjectCard
    simulators: tuple[SubjectCard, ...]
    linguistic: LinguisticTable
    embeddings: EmbeddingTable | None
    """None if the sessions were not embedded."""
    actions: ActionTable
    issues: IssueTable
    sensitivity: SensitivityTable
    discriminators: tuple[DiscriminatorRow, ...]
    """Scores of the discriminators of those simulators that have one."""
    validity: ValidityTable
    ab: AbTable | None
    """None if no A/B test was named."""
    seed: int
    warnings: tuple[str, ...] = ()
    """Figures that are no evidence, because sessions are compared with themselves."""
    notes: tuple[str, ...]
    """What is missing and why; the tables' own notes among them."""


def evaluate(
    simulators: Sequence[Simulator],
    real: Sequence[Session],
    config: EvaluationConfig = EvaluationConfig(),
    *,
    embeddings: EmbeddingTable | str = "nothing embedded the sessions",
    ab_tests: Sequence[AbTest] = (),
    taxonomy: Taxonomy | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Returns all tables of simulators against real sessions. Labels outside the taxonomy are counted in the notes.

    Args:
        simulators: each with its sessions; aggregates are listed in addition to their members (``subjects.aggregate``).
        real: sessions of real users.
        config: the settings.
        embeddings: the table of Figure 3, or the reason why there is none.
        ab_tests: chatbots to compare (Table 5).
        taxonomy: the taxonomy of actions and issues; None is the package's.
        notes: notes on sessions that the caller left out, added to the evaluation's notes.

    Raises:
        ConfigError: a side is empty, a name is used twice, versions are mixed under one name, a chatbot is unknown.
    """
    simulators, real, empty = left_out_empty(simulators, real)
    check_subjects(simulators, real, config.allow_mixed)
    taxonomy = taxonomy or load_taxonomy()
    sides = (real, *(s.sessions for s in simulators if not s.members))
    foreign = foreign_label_notes(foreign_labels(itertools.chain(*sides), taxonomy), taxonomy)
    real = with_known_actions(real, taxonomy)
    known = [tuple(with_known_actions(s.sessions, taxonomy)) for s in simulators]
    simulators = [s.model_copy(update={"sessions": own}) for s, own in zip(simulators, known, strict=True)]
    real_halves = halves(real, config.seed)
    actions = action_table(simulators, real, real_halves, taxonomy)
    issues = issue_table(simulators, real, real_halves, taxonomy, config.seed)
    validity = validity_table(simulators, real, config.seed)
    ab = None
    if ab_tests:
        ab = ab_table(ab_tests, simulators, real, effect=config.effect, alpha=config.alpha)
    notes = [*notes, *empty, *foreign]
    notes += [
        f"{name}: {share:.0%} of the words are single letters of a script without blanks; figures of words count "
        "letters there, and are comparable only within one language"
        for name, sessions in [(REAL, real), *((s.name, s.sessions) for s in simulators)]
        if (share := unspaced_share(sessions)) >= MIN_UNSPACED
    ]
    notes += [f"{s.name}: no discriminator was trained against it" for s in simulators if not s.discriminator]
    notes += [f"no Figure 3: {embeddings}"] if isinstance(embeddings, str) else embeddings.notes
    if real_halves is None:
        notes.append(f"{REAL}: one user alone, so there is no half to compare with the other")
    return Evaluation(
        real=card(REAL, real),
        simulators=tuple(card(s.name, s.sessions, s.members) for s in simulators),
        linguistic=_linguistic(simulators, real, config),
        embeddings=None if isinstance(embeddings, str) else embeddings,
        actions=actions,
        issues=issues,
        sensitivity=sensitivity_table(simulators, real, taxonomy, config.seed),
        discriminators=tuple(
            discriminator_row(s.name, s.discriminator, config.turns, config.seed) for s in simulators if s.discriminator
        ),
        validity=validity,
        ab=ab,
        seed=config.seed,
        warnings=(*same_sessions(simulators, real), *(ab.warnings if ab else ())),
        notes=tuple([*notes, *actions.notes, *issues.notes, *validity.notes, *(ab.notes if ab else ())]),
    )


def _linguistic(simulators: Sequence[Simulator], real: Sequence[Session], config: EvaluationConfig) -> LinguisticTable:
    real_row, *rows = (
        linguistic_row(
            name,
            sessions,
            max_turns=config.max_turns,
            num_references=config.self_bleu_references,
            num_scored=config.self_bleu_sessions,
            seed=config.seed,
        )
        for name, sessions in [(REAL, tuple(real)), *((s.name, s.sessions) for s in simulators)]
    )
    return LinguisticTable(real=real_row, rows=tuple(rows), max_turns=config.max_turns, closest=closest(real_row, rows))
