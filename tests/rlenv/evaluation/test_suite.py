"""The evaluation as data: every table from sessions, gaps marked, versions never pooled unasked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session
from rlenv.discriminator.controls import shuffle_words_within_user
from rlenv.discriminator.labelled import ScoredSession
from rlenv.env.provenance import Provenance, SpeakerCard
from rlenv.evaluation.ab_tests import AbTest, ab_table
from rlenv.evaluation.discriminators import Judgement, discriminator_row
from rlenv.evaluation.subjects import Simulator, aggregate, check_subjects, halves
from rlenv.evaluation.suite import EvaluationConfig, evaluate
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.population.corpus import generate_sessions

CHATBOTS = chatbot_names()[:5]
QUICK = EvaluationConfig(self_bleu_references=2, self_bleu_sessions=10)


@pytest.fixture(scope="module")
def real():
    return generate_sessions(40, 1, 1, chatbots=CHATBOTS)


@pytest.fixture(scope="module")
def good():
    return Simulator(name="good", sessions=tuple(generate_sessions(40, 1, 2, chatbots=CHATBOTS)))


@pytest.fixture(scope="module")
def bad(good):
    """Word salad that thanks for everything and meets a chatbot that never fails."""
    salad = shuffle_words_within_user(good.sessions)
    meek = [
        s.model_copy(
            update={
                "messages": tuple(
                    m.model_copy(update={"actions": ("expresses_gratitude",)} if m.role == "user" else {"issues": ()})
                    for m in s.messages
                )
            }
        )
        for s in salad
    ]
    return Simulator(name="bad", sessions=tuple(meek))


@pytest.fixture(scope="module")
def result(real, good, bad):
    everyone = {"good": good, "bad": bad}
    return evaluate([good, bad, aggregate("both", everyone, everyone)], real, QUICK)


def by_name(rows):
    return {row.name: row for row in rows}


def labelled(name: str, chatbot: str, issues, actions=None) -> Session:
    messages = []
    for found in issues:
        messages.append(Message(role="user", content="a b", actions=actions))
        messages.append(Message(role="assistant", content="c", issues=found))
    return Session(session_id=name, chatbot=chatbot, messages=tuple(messages))


def test_a_simulator_like_real_users_is_nearer_to_them_in_every_table(result):
    actions, issues = by_name(result.actions.rows), by_name(result.issues.rows)
    assert actions["good"].distances["total"].excess < actions["bad"].distances["total"].excess / 5
    assert abs(issues["good"].rate.estimate.value - result.issues.real.rate.estimate.value) < 0.03
    assert issues["bad"].rate.estimate.value == 0.0 and issues["bad"].divergence.kl is None
    real, words = result.linguistic.real.features, by_name(result.linguistic.rows)
    phrases = {n: abs(row.features["bigram"].mean.value - real["bigram"].mean.value) for n, row in words.items()}
    assert phrases["good"] < phrases["bad"] and result.linguistic.closest["bigram"] != "bad"
    assert actions["good"].distances["total"].excess < 4 * result.actions.floor.distances["total"].excess


def test_the_aggregate_is_its_members_pooled(result):
    counts = by_name(result.issues.rows)
    for category, count in counts["both"].counts.items():
        assert count == counts["good"].counts[category] + counts["bad"].counts[category]
    assert by_name(result.simulators)["both"].members == ("good", "bad")
    assert by_name(result.simulators)["both"].num_sessions == 80


def test_the_record_survives_json(result):
    assert type(result).model_validate_json(result.model_dump_json()) == result


def test_missing_figures_are_named_in_the_notes(result):
    notes = "\n".join(result.notes)
    assert "bad: none of" in notes and "no distribution" in notes
    assert "good: no discriminator" in notes


def test_sessions_without_labels_give_gaps_and_not_zeros(real):
    bare = tuple(
        s.model_copy(update={"messages": tuple(Message(role=m.role, content=m.content) for m in s.messages)})
        for s in real
    )
    found = evaluate([Simulator(name="bare", sessions=bare)], real, QUICK)
    assert found.actions.rows[0].distances["total"].mean is None
    assert all(rate.rate is None for rate in found.actions.rows[0].rates.rates.values())
    assert found.issues.rows[0].rate.estimate.value is None and found.issues.rows[0].divergence.kl is None
    assert found.validity.rows[0].correlation.r is None
    assert sum("annotated" in note for note in found.notes) >= 3


def test_sessions_in_a_script_without_blanks_get_a_note_on_their_words(real):
    text = Message(role="user", content="我睡不着。")
    chinese = Session(session_id="zh", messages=(text, Message(role="assistant", content="嗯。"), text))
    found = evaluate([Simulator(name="zh", sessions=(chinese,))], real, QUICK)
    assert next(note for note in found.notes if "without blanks" in note).startswith("zh: 100% of the words")


def test_one_session_has_values_and_no_intervals(real):
    found = evaluate([Simulator(name="one", sessions=(real[0],))], real[:1], QUICK)
    entropy = found.linguistic.rows[0].features["entropy"]
    assert entropy.mean.value > 0 and entropy.mean.low is None and entropy.sd is None
    assert found.linguistic.rows[0].self_bleu.value is None
    assert found.actions.floor is None and any("one user" in note for note in found.notes)


def test_an_empty_side_and_a_duplicate_name_are_reported(real, good):
    with pytest.raises(ConfigError, match="no real sessions"):
        evaluate([good], [])
    with pytest.raises(ConfigError, match="good: no sessions"):
        evaluate([good.model_copy(update={"sessions": ()})], real)
    with pytest.raises(ConfigError, match="two simulators are named 'good'"):
        evaluate([good, good], real)
    with pytest.raises(ConfigError, match="'real'"):
        evaluate([good.model_copy(update={"name": "real"})], real)


def test_labels_outside_the_taxonomy_are_counted_and_all_tables_come(real):
    odd = labelled("odd", "warm", [("sings",), ("sings",), ()])
    dances = [m.model_copy(update={"actions": ("dances",)}) if m.role == "user" else m for m in odd.messages]
    odd = odd.model_copy(update={"messages": tuple(dances)})
    found = evaluate([Simulator(name="odd", sessions=(odd,))], real, QUICK)
    assert found.linguistic.rows[0].features["words"].mean.value > 0
    # An issue is one, whatever its name; of actions of another vocabulary, no rate is known.
    assert found.issues.rows[0].rate.num_issues == 2 and not any(found.issues.rows[0].counts.values())
    assert {rate.rate for rate in found.actions.rows[0].rates.rates.values()} == {None}
    num = sum(m.role == "user" for m in dances)
    told = [note for note in found.notes if "not in the taxonomy" in note]
    assert told == [
        f"actions: 'dances' is not in the taxonomy; {num} messages carry it",
        "issues: 'sings' is not in the taxonomy; 2 messages carry it",
    ]


def test_versions_under_one_name_are_refused_unless_allowed(real):
    def of(version: str, session: Session) -> Session:
        card = Provenance(
            simulator=SpeakerCard(name="simulator", kind="engine", version=version),
            chatbot=SpeakerCard(name=session.chatbot),
            seat="user",
            context_id=session.session_id,
            context_digest="0",
            seeds=(0,),
        )
        return session.model_copy(update={"provenance": card.model_dump(mode="json")})

    mixed = Simulator(name="mixed", sessions=(of("base", real[0]), of("it1", real[1])))
    with pytest.raises(ConfigError, match=r"mixed: cannot pool episodes of 2 different simulators.*base.*it1"):
        check_subjects([mixed], real)
    check_subjects([mixed], real, allow_mixed=True)
    pure = {n: Simulator(name=n, sessions=(of(n, s),)) for n, s in zip(("base", "it1"), real[:2], strict=True)}
    check_subjects([*pure.values(), aggregate("all", pure, pure)], real)
    with pytest.raises(ConfigError, match="did you mean 'it1'"):
        aggregate("all", pure, ["base", "it2x1"])


def test_halves_share_no_user_and_lose_none():
    sessions = generate_sessions(7, 2, 3, chatbots=CHATBOTS)
    one, two = halves(sessions)
    assert not {s.user_id for s in one} & {s.user_id for s in two}
    assert len(one) + len(two) == 14
    assert halves(sessions[:2]) is None


def test_validity_leaves_out_a_chatbot_without_sessions_with_a_note():
    issue = ("unempathetic_responses",)
    real = [labelled(f"r{i}{k}", f"bot{i}", [issue] * i + [()] * (6 - i)) for i in range(5) for k in range(2)]
    simulated = tuple(labelled(f"s{i}", f"bot{i}", [issue] * (i + 1) + [()] * (5 - i)) for i in range(4))
    found = evaluate([Simulator(name="sim", sessions=simulated)], real, QUICK).validity
    row = found.rows[0]
    assert row.left_out == ("bot4",) and row.correlation.num == 4
    assert row.correlation.r == pytest.approx(stats.pearsonr([0, 1, 2, 3], [1, 2, 3, 4]).statistic)
    assert [r.chatbot for r in found.real] == [f"bot{i}" for i in range(5)]
    assert row.rates[4].rate.estimate.value is None
    assert any("left out" in note and "bot4" in note for note in found.notes)
    assert found.reliability == pytest.approx(1.0)  # both halves of each chatbot are alike


def test_the_ab_table_gives_both_sides_and_the_verdict():
    issue = ("unempathetic_responses",)

    def arm(name: str, bot: str, events: int) -> list[Session]:
        return [labelled(f"{name}{bot}{i}", bot, [issue if i < events else (), ()]) for i in range(100)]

    real = [*arm("r", "old", 10), *arm("r", "new", 30)]
    simulated = (*arm("s", "old", 12), *arm("s", "new", 28), *arm("s", "other", 3))
    test = AbTest(name="A", control="old", treatment="new")
    row = ab_table([test], [Simulator(name="sim", sessions=simulated)], real).rows[0]
    assert row.verdict == "agree"
    assert (row.simulated.test.control, row.simulated.test.treatment) == (0.06, 0.14)
    assert row.simulated.clustered_p == pytest.approx(row.simulated.test.p, rel=0.2)
    assert 100 < row.sessions_for_effect < 10_000 and row.real.sessions_needed < row.sessions_for_effect
    gone = ab_table(
        [AbTest(name="B", control="old", treatment="other")], [Simulator(name="sim", sessions=simulated)], real
    )
    assert gone.rows[0].real is None and gone.rows[0].verdict is None and "real users" in gone.notes[0]
    with pytest.raises(ConfigError, match=r"no chatbot 'nwe'.*did you mean 'new'"):
        ab_table([AbTest(name="C", control="old", treatment="nwe")], [], real)


def test_table_2_is_scikit_learns_and_its_interval_resamples_contexts():
    rng = np.random.default_rng(0)
    scored = []
    for i in range(60):
        for is_real in (True, False):
            values = rng.normal(0.5 if is_real else -0.5, 1.0, size=rng.integers(3, 9))
            scored.append(
                ScoredSession(
                    session_id=f"{i}{is_real}",
                    context_id=str(i),
                    real=is_real,
                    log_odds=(0.0, *values.tolist()),
                    num_turns=len(values),
                )
            )
    row = discriminator_row("it1", Judgement(scored=tuple(scored)), turns=(1, 5, 25))
    y = [s.real for s in scored for _ in s.log_odds[1:]]
    called = [v > 0 for s in scored for v in s.log_odds[1:]]
    overall = row.cells["overall"]
    assert overall.accuracy.value == pytest.approx(np.mean(np.array(y) == np.array(called)))
    assert overall.f1.value == pytest.approx(f1_score(y, called))
    assert overall.mcc.value == pytest.approx(matthews_corrcoef(y, called))
    assert overall.accuracy.low < overall.accuracy.value < overall.accuracy.high
    assert row.cells["25"].accuracy.value is None and row.cells["25"].accuracy.low is None
    assert row.cells["1"].num_decisions == 120 and row.leak is None
    # one decision a context: the interval is the binomial's
    first = row.cells["1"].accuracy
    assert first.high - first.low == pytest.approx(2 * 1.96 * math.sqrt(first.value * (1 - first.value) / 120), rel=0.2)


def test_a_session_without_a_score_is_left_out_and_counted():
    good = ScoredSession(session_id="a", context_id="a", real=True, log_odds=(0.0, 1.0), num_turns=1)
    odd = good.model_copy(update={"session_id": "b", "log_odds": (0.0, math.nan)})
    row = discriminator_row("x", Judgement(scored=(good, odd)))
    assert row.num_unscored == 1 and row.cells["overall"].num_decisions == 1
    assert row.cells["overall"].mcc.value is None
