"""Judges, which label conversations with the taxonomy: rule-based detectors, a language model, the population's oracle.

Each is an ``rlenv.core.protocols.Judge``; ``annotate`` writes a judge's labels into sessions.
"""
