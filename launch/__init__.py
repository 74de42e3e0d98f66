"""Composes the packages: command line, Algorithm 1, chatbot training, studies, reports, serving.

Importing it registers ``launch.serving.env`` as what serves an environment's ``config`` (``rlenv.env.providers``).
"""

from rlenv.env.providers import register_provider

register_provider("config", "launch.serving.env:serve_env")
