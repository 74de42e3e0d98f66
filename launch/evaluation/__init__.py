"""``rlenv evaluate``: what it reads, the tables, figures and report that it writes."""
