"""The reference population: seeded users with hidden traits, scripted chatbots, and the oracle that labels both.

It stands where recorded users stand in the paper (Section 4.1), so that the whole adversarial loop runs with no
private data. Knows nothing of models, tokens or rewards.
"""
