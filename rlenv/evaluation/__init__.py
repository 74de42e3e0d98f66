"""Evaluation of simulators against real sessions: the paper's figures (4.3, Appendix B) with their uncertainty.

Every function takes records or arrays and returns records that can be printed and saved. Independent of files, models
and reports. A figure that is undefined is None, never a silent zero.
"""
