"""Algorithm 1: adversarial user simulator training. One screen, the paper's order and words.

Each line's output is complete in the run directory before the next begins; the same command goes on from there.
"""

from __future__ import annotations

import logging

from launch.adversarial.discrimination import fit_discriminator
from launch.adversarial.measures import measure
from launch.adversarial.phases import (
    collect_sessions,
    fit_base_simulator,
    fit_trained_chatbots,
    make_preferences,
    prepare_data,
    update_simulator,
)
from launch.adversarial.pretraining import prepare_model
from launch.adversarial.simulation import choose_contexts
from launch.run.config import RunConfig
from launch.run.contents import version_name
from launch.run.directory import RunDirectory
from launch.run.serving import Serving, cluster
from launch.run.settings import to_dict
from launch.run.tracking import Tracker

log = logging.getLogger(__name__)


def run_adversarial(config: RunConfig) -> RunDirectory:
    """Runs Algorithm 1 in ``config.out_dir``, or goes on with it; returns the run directory.

    Raises:
        RlenvError: what a person can mend; what was finished stays.
    """
    run = RunDirectory(config.out_dir)
    with run.locked():
        run.open(to_dict(config))
        with cluster(config.ray):
            _run(config, run)
    return run


def _run(config: RunConfig, run: RunDirectory) -> None:
    data = prepare_data(run, config)
    base_model = prepare_model(run, config, config.simulator.model)
    backbone = prepare_model(run, config, config.backbone)
    serving = Serving(config, base_model, run.path("logs"))
    tracker = Tracker(run.root, config.tracking, config.name, to_dict(config))
    try:
        contexts = choose_contexts(data, config)
        chat = serving.formats["simulator"]
        adapter = fit_base_simulator(run, config, base_model, chat, data["sft"])  # line 1
        chatbots = fit_trained_chatbots(run, config, serving, data["sft"])
        for k in range(config.num_iterations + 1):  # line 3
            version = adapter.name
            simulated = collect_sessions(run, config, serving, adapter, chatbots, contexts)  # line 4
            discriminator = fit_discriminator(run, config, serving, backbone, version, simulated, contexts)  # line 5
            if k < config.num_iterations:  # the last simulator is judged like the others, and not trained further
                pairs = make_preferences(run, config, serving, adapter, discriminator, simulated)  # lines 6 to 8
            measure(run, config, tracker, k, version, simulated, contexts)
            if k < config.num_iterations:
                adapter = update_simulator(run, config, serving, adapter, pairs, version_name(k + 1))  # line 9
        for name in config.zero_shot:  # for comparison (4.2): untrained models in the user's seat
            simulated = collect_sessions(run, config, serving, name, chatbots, contexts)
            fit_discriminator(run, config, serving, backbone, name, simulated, contexts)
            k += 1
            measure(run, config, tracker, k, name, simulated, contexts)
    finally:
        serving.close()
        tracker.close()
