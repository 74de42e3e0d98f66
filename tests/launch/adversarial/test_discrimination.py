"""The data of the discriminators' controls."""

from pathlib import Path

import pytest

from launch.adversarial.discrimination import _job, label_bad, version_jobs
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from rlenv.data.linguistics import words
from rlenv.discriminator.controls import shuffle_words_within_user
from rlenv.population.corpus import generate_sessions


def test_the_power_control_has_real_sessions_cut_like_simulated_ones_and_their_shuffled_copies() -> None:
    settings = ["env.max_turns=3", "discriminator.num_train_sessions=12", "discriminator.num_validation_sessions=6"]
    sessions = generate_sessions(12, 1, seed=1)
    config = load_config(None, settings)
    parts = {"adversarial": sessions[:8], "evaluation": sessions[8:]}
    data = label_bad(parts, config.discriminator, config.env.max_turns, shuffle_words_within_user)
    assert len(data.train.items) == 12 and len(data.validation.items) == 6
    by_context: dict[str, dict[bool, list[str]]] = {}
    for item in (*data.train.items, *data.validation.items):
        by_context.setdefault(item.context_id, {})[item.real] = item.session.user_messages()
    for pair in by_context.values():
        assert len(pair[True]) == len(pair[False]) == 3
        assert pair[True] != pair[False]
        assert sorted(words(" ".join(pair[True]))) == sorted(words(" ".join(pair[False])))


def test_a_control_has_whole_pairs_of_at_most_the_given_number_of_sessions() -> None:
    settings = ["discriminator.num_train_sessions=12", "discriminator.num_validation_sessions=6"]
    sessions = generate_sessions(12, 1, seed=1)
    parts = {"adversarial": sessions[:8], "evaluation": sessions[8:]}
    data = label_bad(parts, load_config(None, settings).discriminator, 5, shuffle_words_within_user)
    job = _job("power", Path("x"), data, 5)
    assert [item.real for item in job.train] == [item.real for item in job.validation] == [True, False, True, False]
    assert job.train == data.train.items[:4]
    assert _job("main", Path("x"), data).train == data.train.items


def test_the_learning_curve_has_fewer_training_sessions_and_the_same_validation() -> None:
    settings = ["discriminator.num_train_sessions=12", "discriminator.num_validation_sessions=6"]
    config = load_config(None, [*settings, "discriminator.learning_curve=[4,9,4]"]).discriminator
    sessions = generate_sessions(12, 1, seed=1)
    data = label_bad({"adversarial": sessions[:8], "evaluation": sessions[8:]}, config, 5, shuffle_words_within_user)
    main, leak, *fewer = version_jobs(Path("x"), data, config)
    assert main.train == data.train.items and leak.blank_user and not main.blank_user
    assert [job.out_dir for job in fewer] == [Path("x/main_4"), Path("x/main_9")]
    assert [job.train for job in fewer] == [main.train[:4], main.train[:8]]
    assert all(job.validation == main.validation and not job.blank_user for job in fewer)
    with pytest.raises(ConfigError, match=r"learning_curve: expected numbers from 4 to below .*\(12\), got 2, 12"):
        load_config(None, [*settings, "discriminator.learning_curve=[2,8,12]"])


def test_the_discriminator_of_new_users_is_trained_on_those_that_the_others_are_validated_on() -> None:
    settings = ["discriminator.num_train_sessions=12", "discriminator.num_validation_sessions=6"]
    sessions = generate_sessions(12, 1, seed=1)
    parts = {"adversarial": sessions[:8], "evaluation": sessions[8:]}
    for kind, names in (("likelihood", ["main", "leak", "new_users"]), ("classifier", ["main", "leak"])):
        config = load_config(None, [*settings, f"discriminator.kind={kind}"]).discriminator
        jobs = version_jobs(Path("x"), label_bad(parts, config, 5, shuffle_words_within_user), config)
        assert [job.name for job in jobs] == names
        if kind == "likelihood":
            assert (jobs[2].train, jobs[2].validation) == (jobs[0].validation, jobs[0].train)
            assert not jobs[2].blank_user
