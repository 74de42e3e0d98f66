"""Intervals, rates, divergences and correlations."""
