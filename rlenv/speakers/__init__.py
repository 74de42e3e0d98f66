"""Speakers, which can take a seat: models on an engine, endpoints, Python functions and scripted stand-ins."""
