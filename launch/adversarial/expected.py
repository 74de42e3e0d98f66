"""The phases that a run of Algorithm 1 makes, known before it starts. ``launch.adversarial.algorithm`` makes them."""

from __future__ import annotations

from itertools import zip_longest

from launch.run.config.run import RunConfig
from launch.run.contents import FURTHER_SFT, SMALL_LLAMA, version_names


def expected_phases(config: RunConfig) -> list[str]:
    """Returns the phases of a run with these settings, in order.

    Rows that are no version (``zero_shot``, ``resampled``) are left out; what ``stop`` may leave out is there.
    """
    judged = config.accept != "always" or config.stop != "never"
    phases = ["data"]
    if SMALL_LLAMA in (config.simulator.model, config.backbone):
        phases.append(f"models/{SMALL_LLAMA}")
    if not config.simulator.adapter:
        phases.append("base/adapter")
    phases += [f"chatbots/{name}" for name, chatbot in config.chatbots.items() if chatbot.adapter == "trained"]
    versions = version_names(config)
    for version, following in zip_longest(versions, versions[1:]):
        phases += [f"{version}/adapter"] if version != "base" else []
        phases += [f"{version}/simulated", f"{version}/discriminator"]
        phases += [f"{version}/acceptance"] if judged else []
        phases += [] if following in (None, FURTHER_SFT) else [f"{version}/preferences"]
        phases.append(f"{version}/measures")
    return phases
