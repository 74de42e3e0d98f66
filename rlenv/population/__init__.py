"""The reference population: seeded users with hidden traits, scripted chatbots, and the oracle that labels both.

It replaces the recorded users of the paper (Section 4.1), so that the whole adversarial loop runs without private data.
Independent of models, tokens and rewards.
"""
