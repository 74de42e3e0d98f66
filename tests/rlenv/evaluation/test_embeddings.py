"""Figure 3's numbers: against sklearn's neighbours, worked by hand, and as they come out where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from rlenv.core.errors import ConfigError
from rlenv.core.types import Session
from rlenv.evaluation.embeddings.neighbours import grounding, neighbour_accuracy
from rlenv.evaluation.embeddings.sessions import EmbeddingConfig, embedding_table, project, sample_sessions
from rlenv.evaluation.subjects import REAL, Simulator, context_of


def unit(vectors) -> np.ndarray:
    array = np.asarray(vectors, float)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def session(name: str, user: str = "", context: str | None = None) -> Session:
    extra = {} if context is None else {"context_id": context}
    return Session(session_id=name, user_id=user, **extra)


def angles(*degrees: float) -> np.ndarray:
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees])


# ------------------------------------------------------------------------------- told apart by neighbours


@pytest.mark.parametrize("shift", [0.0, 0.4, 2.0])
def test_the_accuracy_is_sklearns_leave_one_out_where_every_session_has_a_user_of_its_own(shift):
    rng = np.random.default_rng(1)
    real, other = unit(rng.normal(size=(60, 6))), unit(rng.normal(size=(60, 6)) + shift)
    ours = neighbour_accuracy(real, other, [f"r{i}" for i in range(60)], [f"s{i}" for i in range(60)])
    labels = np.repeat([1, 0], 60)
    theirs = cross_val_score(KNeighborsClassifier(1), np.concatenate([real, other]), labels, cv=LeaveOneOut())
    assert ours.value == pytest.approx(theirs.mean()) and ours.num == 120
    assert ours.low <= ours.value <= ours.high


def test_a_users_own_sessions_are_never_neighbours_worked_by_hand():
    # Users a, b, c, each a real and a simulated session; nearest of another user, by the angle between:
    real, other = angles(0, 60, 90), angles(5, 48, 100)
    # real: a(0) to b's 48, simulated; b(60) to c's 90, real; c(90) to b's 60, real
    # simulated: a(5) to b's 48, simulated; b(48) to c's 90 (42 away) or a's 5 (43): c's, real; c(100) to b's 60, real
    found = neighbour_accuracy(real, other, "abc", "abc")
    assert found.value == pytest.approx(3 / 6)


def test_equally_near_neighbours_share_the_vote():
    # a's real session lies as near to b's real as to c's simulated one; the five others' nearest are their own twins
    found = neighbour_accuracy(angles(0, 20), angles(-20, 180), "ab", "cd")
    # a(0): half. b(20): a, real: right. c(-20): a, real: wrong. d(180): b and c, equally far: half.
    assert found.value == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)


@pytest.mark.parametrize("paired", [True, False])
def test_without_a_difference_the_interval_covers_one_half_about_19_times_in_20(paired):
    rng = np.random.default_rng(0)
    ours, held, values = [f"a{i}" for i in range(60)], 0, []
    for _ in range(200):
        person = rng.normal(size=(60, 8)) if paired else 0.0
        real, other = (unit(person + rng.normal(size=(60, 8))) for _ in range(2))
        found = neighbour_accuracy(real, other, ours, ours if paired else [f"b{i}" for i in range(60)])
        held += found.low <= 0.5 <= found.high
        values.append(found.value)
    assert 0.9 <= held / 200 <= 0.99 and abs(np.mean(values) - 0.5) < 0.015


def test_copies_of_each_other_are_below_chance_unless_they_share_a_user():
    vectors = unit(np.random.default_rng(2).normal(size=(40, 5)))
    jitter = unit(vectors + 1e-4 * np.random.default_rng(3).normal(size=(40, 5)))
    names = [str(i) for i in range(40)]
    assert neighbour_accuracy(vectors, jitter, names, [f"s{n}" for n in names]).value == 0.0
    assert neighbour_accuracy(vectors, jitter, names, names).value == pytest.approx(0.5, abs=0.2)


def test_too_few_users_give_no_accuracy_and_sides_of_different_size_are_refused():
    assert neighbour_accuracy(angles(0, 1), angles(2, 3), "ab", "ab").value is None
    assert neighbour_accuracy(np.zeros((0, 2)), np.zeros((0, 2)), "", "").value is None
    with pytest.raises(ValueError, match="as many of each kind, got 1 and 2"):
        neighbour_accuracy(angles(0), angles(1, 2), "a", "bc")


# --------------------------------------------------------------------------------- nearest to its own context


def test_grounding_is_sklearns_nearest_neighbour_and_chance_is_one_of_all():
    rng = np.random.default_rng(4)
    real = unit(rng.normal(size=(30, 4)))
    simulated = unit(real + 0.5 * rng.normal(size=(30, 4)))
    users = [str(i) for i in range(30)]
    found = grounding(simulated, real, range(30), users, users)
    nearest = NearestNeighbors(n_neighbors=1).fit(real).kneighbors(simulated, return_distance=False)[:, 0]
    assert found.own_nearest.value == pytest.approx((nearest == np.arange(30)).mean())
    assert found.chance == pytest.approx(1 / 30)
    assert found.own_similarity.value == pytest.approx((simulated * real).sum(axis=1).mean())
    assert found.own_similarity.low > found.other_similarity.high


def test_another_session_of_the_same_user_does_not_compete_with_the_own_context():
    real = angles(0, 10, 90)  # the first two are user a's
    found = grounding(angles(8), real, [0], ["a"], ["a", "a", "b"])
    assert found.own_nearest.value == 1.0 and found.chance == 0.5
    assert found.own_similarity.value == pytest.approx(np.cos(np.radians(8)))
    assert found.other_similarity.value == pytest.approx(np.cos(np.radians(82)))


# ------------------------------------------------------------------------------------------- the whole table


def made(num=40, seed=0):
    """Real sessions, a simulator that stays by its contexts, one that has a style of its own, and their vectors."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(num, 12))
    real = [session(f"r{i}", f"u{i}") for i in range(num)]
    near = Simulator(name="near", sessions=tuple(session(f"r{i}#0", "", f"r{i}") for i in range(num)))
    far = Simulator(name="far", sessions=tuple(session(f"z{i}", "", f"r{i}") for i in range(num)))
    vectors = {
        REAL: list(base + 0.3 * rng.normal(size=base.shape)),
        "near": list(base + 0.3 * rng.normal(size=base.shape)),
        "far": list(0.3 * base + rng.normal(size=base.shape) + 4),
    }
    return real, [near, far], vectors


def tabled(real, simulators, vectors, **settings):
    sessions = {REAL: real} | {s.name: list(s.sessions) for s in simulators}
    return embedding_table(sessions, vectors, EmbeddingConfig(**settings), embedder="a test's")


def test_a_simulator_by_its_contexts_is_grounded_and_not_told_apart_and_one_of_its_own_style_is():
    table = tabled(*made())
    near, far = table.rows
    assert near.grounding.own_nearest.value > 0.9 and near.accuracy.low < 0.5 < near.accuracy.high
    assert far.accuracy.value > 0.9 and far.grounding.own_nearest.value < near.grounding.own_nearest.value
    assert table.floor.num_sessions == 20 and 0.2 < table.floor.accuracy.value < 0.8
    place = {(p.name, p.context_id): np.array([p.x, p.y]) for p in table.points}
    spread = np.std([v for (name, _), v in place.items() if name == REAL], axis=0).mean()
    apart = {n: np.mean([np.linalg.norm(place[n, f"r{i}"] - place[REAL, f"r{i}"]) for i in range(40)]) for n in
             ("near", "far")}  # fmt: skip
    assert apart["near"] < spread / 2 < apart["far"]


def test_the_table_is_the_same_every_time_and_survives_json():
    one, two = tabled(*made()), tabled(*made())
    assert one == two and type(one).model_validate_json(one.model_dump_json()) == one


def test_at_most_so_many_of_each_are_shown_and_of_the_same_contexts():
    table = tabled(*made(), num_shown=5)
    shown = [{p.context_id for p in table.points if p.name == name and p.shown} for name in (REAL, "near", "far")]
    assert len(shown[0]) == 5 and shown[0] == shown[1] == shown[2]


def test_a_pool_has_numbers_and_no_points_of_its_own():
    real, (near, far), vectors = made()
    both = Simulator(name="both", sessions=(*near.sessions, *far.sessions), members=("near", "far"))
    vectors["both"] = vectors["near"] + vectors["far"]
    sessions = {REAL: real, "near": list(near.sessions), "far": list(far.sessions), "both": list(both.sessions)}
    table = embedding_table(sessions, vectors, EmbeddingConfig(), embedder="a test's", pools=["both"])
    assert table.rows[2].num_sessions == 80 and {p.name for p in table.points} == {REAL, "near", "far"}


def test_undefined_figures_are_gaps_with_a_reason():
    real, (near, _), vectors = made(num=10)
    blank = tabled(real, [near], {REAL: vectors[REAL], "near": [None, *vectors["near"][1:]]})
    assert blank.points == () and "there are 19; give more sessions" in blank.notes[0]
    assert "near: 1 sessions without text are not embedded" in blank.notes
    stranger = Simulator(name="stranger", sessions=tuple(session(f"x{i}") for i in range(10)))
    table = tabled(real, [stranger], {REAL: vectors[REAL], "stranger": vectors["near"]})
    assert table.rows[0].grounding is None and table.rows[0].accuracy.value is not None
    assert any("context_id" in note for note in table.notes)
    one = tabled(real[:1], [near], {REAL: vectors[REAL][:1], "near": vectors["near"]})
    assert one.floor is None and one.rows[0].accuracy.value is None
    assert one.rows[0].grounding.own_nearest.value is None
    nothing = tabled(real, [near], {REAL: [None] * 10, "near": [None] * 10})
    assert nothing.num_real == 0 and nothing.rows[0].accuracy.value is None and nothing.points == ()


def test_equal_sessions_count_once_against_the_perplexity():
    real, simulators, vectors = made(num=40)
    same = {name: [vectors[REAL][0]] * 40 for name in vectors}
    table = tabled(real, simulators, same)
    assert table.points == () and "there are 1;" in table.notes[0]
    assert all(row.accuracy.value == pytest.approx(0.5) for row in table.rows)


def test_a_sample_prefers_contexts_that_were_simulated_and_takes_each_once_before_any_twice():
    real = [session(f"r{i}", f"u{i}") for i in range(30)]
    simulated = tuple(session(f"r{i}#{k}", f"u{i}", f"r{i}") for i in range(10, 20) for k in range(3))
    some = sample_sessions([Simulator(name="it1", sessions=simulated)], real, EmbeddingConfig(num_sessions=10))
    assert {s.session_id for s in some[REAL]} == {f"r{i}" for i in range(10, 20)}
    assert [context_of(s) for s in some["it1"]] == [s.session_id for s in some[REAL]]
    again = sample_sessions(
        [Simulator(name="it1", sessions=simulated[::-1])], real[::-1], EmbeddingConfig(num_sessions=10)
    )
    assert again == some


def test_the_plane_keeps_clusters_together_and_is_the_same_every_time():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(25, 10)) + 8 * np.eye(10)[k] for k in range(3)])
    plane = project(vectors, 10.0, 3)
    assert np.array_equal(plane, project(vectors, 10.0, 3))
    labels = np.repeat(range(3), 25)
    assert cross_val_score(KNeighborsClassifier(1), plane, labels, cv=LeaveOneOut()).mean() == 1.0


def test_wrong_settings_are_reported_together():
    with pytest.raises(ConfigError, match=r"num_sessions: expected 1 or more, got 0\n.*perplexity: expected 1 or more"):
        EmbeddingConfig(num_sessions=0, perplexity=0.5)
