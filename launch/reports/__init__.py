"""``rlenv evaluate``: tables, figures and pages of an evaluation, in one directory."""
