"""The evaluation of simulators against real sessions: the paper's figures (4.3, Appendix B) and what they are worth.

Every function takes records or arrays and returns records that can be printed and saved; none knows of files, models
or reports. What cannot be computed is None, never a silent zero.
"""
