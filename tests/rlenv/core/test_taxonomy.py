"""The taxonomy: it has the paper's size and categories, can be replaced, and invalid files are rejected."""

import pytest

from rlenv.core.errors import ConfigError, DataError
from rlenv.core.taxonomy import GROUP_NAMES, load_taxonomy
from rlenv.population.oracle import RULES
from rlenv.population.users.agenda import ACTIONS
from rlenv.population.users.replies import REACTION_ACTIONS
from rlenv.population.wording import concerns
from rlenv.rewards.registry import make_reward

GOOD = (
    "actions:\n  good:\n    smiles: [Smiles, The user smiles.]\nissues:\n  app_bug:\n    crash: [Crash, It crashes.]\n"
)


def test_the_taxonomy_has_the_size_that_the_paper_gives():
    taxonomy = load_taxonomy()
    assert len(taxonomy.actions) >= 20 and len(taxonomy.issues) >= 35
    assert {a.group for a in taxonomy.actions} == {"good", "bad", "user_features", "moderators"}
    assert len({i.group for i in taxonomy.issues}) == 6


PAPER_ACTIONS = {
    "good": ("Gained an insight", "Change talk", "Agrees with chatbot", "Chatbot created change"),
    "bad": ("Disagrees with chatbot", "Asks for clarity", "Aggressive to chatbot", "Chatbot loses user"),
    "user_features": ("General distress", "Negative affect", "Positive affect"),
}
PAPER_ISSUES = {
    "user_distress": ("Invalidating or dismissive framing", "Unempathetic responses", "Premature wrap-up"),
    "user_confusion": (
        "Chatbot hallucinates", "Unclear or confusing wording", "Chatbot contradicts itself",
        "Chatbot forgets in context",
    ),
    "user_frustration": (
        "Circular conversations", "Ignoring user's request to end session", "Repetitive questions",
    ),
    "user_losing_trust": ("Chatbot gives bad advice", "Chatbot is sycophantic"),
    "policy_violation": (
        "Failure to follow crisis protocol", "Providing medical diagnoses", "Inappropriate self-disclosure",
    ),
    "app_bug": ("Incomplete message", "Transcription errors", "Duplicate chatbot messages"),
}  # fmt: skip
"""Appendices D and E; B.2 names two more issues, whose groups are our choice."""


def test_the_taxonomy_has_the_papers_categories_in_the_papers_groups():
    taxonomy = load_taxonomy()
    for printed, categories in ((PAPER_ACTIONS, taxonomy.actions), (PAPER_ISSUES, taxonomy.issues)):
        group_of = {c.name: c.group for c in categories}
        assert {name: group_of.get(name) for names in printed.values() for name in names} == {
            name: group for group, names in printed.items() for name in names
        }
        assert {c.group for c in categories} <= set(GROUP_NAMES)


def test_the_labels_of_any_data_set_can_be_ids(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(GOOD.replace("smiles:", "N:").replace("crash:", "no:\n  lack of empathy:").replace("no:\n  ", ""))
    assert load_taxonomy(path).action_ids() == ("N",) and load_taxonomy(path).issue_ids() == ("lack of empathy",)
    path.write_text(GOOD.replace("smiles:", "yes:").replace("crash:", "7:"))
    assert load_taxonomy(path).action_ids() == ("yes",) and load_taxonomy(path).issue_ids() == ("7",)


def test_the_taxonomy_can_be_replaced_by_a_file(tmp_path):
    (tmp_path / "own.yaml").write_text(GOOD)
    own = load_taxonomy(tmp_path / "own.yaml")
    assert own.action_ids() == ("smiles",) and own.issue_ids("app_bug") == ("crash",)


def test_rewards_accept_a_custom_taxonomy(tmp_path):
    (tmp_path / "own.yaml").write_text(GOOD)
    file = {"taxonomy": str(tmp_path / "own.yaml")}
    make_reward({"issue_free": {"categories": {"crash": 2.0}, **file}, "user_actions": file})
    with pytest.raises(ConfigError, match="no issue 'premature_wrap_up'; there are crash"):
        make_reward({"issue_free": {"categories": {"premature_wrap_up": 2.0}, **file}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "actions: {",
        GOOD.replace("smiles:", '" smiles":'),
        GOOD.replace("smiles: [Smiles, The user smiles.]", "smiles:"),
        GOOD.replace("good", "great"),
        GOOD.split("issues")[0],
    ],
)
def test_a_file_that_is_not_a_taxonomy_is_reported(tmp_path, text):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(DataError, match=r"own\.yaml"):
        load_taxonomy(tmp_path / "own.yaml")


def test_a_missing_taxonomy_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="none"):
        load_taxonomy(tmp_path / "none.yaml")


def test_every_label_of_the_population_is_in_the_taxonomy():
    taxonomy = load_taxonomy()
    used = set(ACTIONS.values()) | {action for actions in REACTION_ACTIONS.values() for action in actions}
    assert used <= set(taxonomy.action_ids())
    assert {rule.issue for rule in RULES} <= set(taxonomy.issue_ids())
    assert {f.kind for concern in concerns().values() for f in concern.facts} <= set(ACTIONS)
