"""Who labels conversations with the taxonomy: deterministic detectors, a language model, the population's oracle.

Each is an ``rlenv.core.protocols.Judge``; ``annotate.py`` writes what one says into sessions.
"""
