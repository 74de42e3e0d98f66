"""Models of a run served to others: in an environment, as an endpoint, in TRL's trainer, as judges."""
