"""``rlenv evaluate``: the tables, figures and report of an evaluation, in one folder."""
