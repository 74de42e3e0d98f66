"""The taxonomy: as large as the paper says, editable, strict about its own form, and known to the population."""

import pytest

from rlenv.errors import DataError
from rlenv.population.agenda import ACTIONS
from rlenv.population.oracle import RULES
from rlenv.population.replies import REACTION_ACTIONS
from rlenv.population.wording import concerns
from rlenv.taxonomy import load_taxonomy

GOOD = (
    "actions:\n  good:\n    smiles: [Smiles, The user smiles.]\nissues:\n  app_bug:\n    crash: [Crash, It crashes.]\n"
)


def test_it_is_as_large_as_the_paper_says():
    taxonomy = load_taxonomy()
    assert len(taxonomy.actions) >= 20 and len(taxonomy.issues) >= 35
    assert {a.group for a in taxonomy.actions} == {"good", "bad", "user_features", "moderators"}
    assert len({i.group for i in taxonomy.issues}) == 6


def test_it_can_be_replaced_by_a_file(tmp_path):
    (tmp_path / "own.yaml").write_text(GOOD)
    own = load_taxonomy(tmp_path / "own.yaml")
    assert own.action_ids() == ("smiles",) and own.issue_ids("app_bug") == ("crash",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "actions: {",
        GOOD.replace("smiles:", "Smiles!:"),
        GOOD.replace("good", "great"),
        GOOD.split("issues")[0],
    ],
)
def test_a_file_that_is_no_taxonomy_is_told(tmp_path, text):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(DataError, match=r"own\.yaml"):
        load_taxonomy(tmp_path / "own.yaml")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="none"):
        load_taxonomy(tmp_path / "none.yaml")


def test_every_label_of_the_population_is_in_it():
    taxonomy = load_taxonomy()
    used = set(ACTIONS.values()) | {action for actions in REACTION_ACTIONS.values() for action in actions}
    assert used <= set(taxonomy.action_ids())
    assert {rule.issue for rule in RULES} <= set(taxonomy.issue_ids())
    assert {f.kind for concern in concerns().values() for f in concern.facts} <= set(ACTIONS)
