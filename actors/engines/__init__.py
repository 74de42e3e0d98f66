"""Engines that sample tokens (vLLM, transformers, a scripted stand-in) and the actor that hosts one."""
