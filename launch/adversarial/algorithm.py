"""Algorithm 1: adversarial training of the user simulator, in the paper's order and words.

The comments give the paper's line numbers. Lines without one go beyond it: the run's own chatbots, an update that is
taken only if it is harder to tell (``accept``), an early end (``stop``), further rows of the table. Without these the
loop is the paper's.

The output of each line is complete in the run directory before the next line begins, so the same command resumes a run,
and with a larger ``num_iterations`` goes on from its last version.
"""

from __future__ import annotations

import logging

from launch.adversarial.acceptance import early_end, judge_version
from launch.adversarial.discrimination import fit_discriminator
from launch.adversarial.measures import measure
from launch.adversarial.phases import (
    collect_sessions,
    fit_base_simulator,
    fit_chatbots,
    further_sft,
    make_preferences,
    prepare_data,
    update_simulator,
)
from launch.adversarial.pretraining import prepare_model
from launch.adversarial.rows import further_rows
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import choose_contexts
from launch.run.config.run import RunConfig
from launch.run.contents import FURTHER_SFT, version_names
from launch.run.directory import RunDirectory
from launch.run.preflight import check_ready
from launch.run.settings import to_dict
from launch.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def run_adversarial(config: RunConfig) -> RunDirectory:
    """Runs or resumes Algorithm 1 in ``config.out_dir``; returns the run directory.

    Raises:
        RlenvError: a problem that the user can fix. Finished phases are kept, and the next call skips them.
    """
    check_ready(config)
    with (
        AdversarialRun(config).opened() as run,
        Tracker(run.directory.root, config.tracking, config.name, to_dict(config)) as tracker,
    ):
        _iterate(run, tracker)
    return run.directory


def _iterate(run: AdversarialRun, tracker: Tracker) -> None:
    config = run.config
    real = prepare_data(run.directory, config.data, config.seed)
    prepare_model(run, config.simulator.model)
    backbone = prepare_model(run, config.backbone)
    contexts = choose_contexts(real, config.collect, config.discriminator, config.seed)
    sft_sessions = real["sft"][: config.data.max_sft_sessions]

    adapter = taken = fit_base_simulator(run, sft_sessions)  # line 1
    fit_chatbots(run.training, run.chatbots, run.serving, config.chatbot_sft, config.context, sft_sessions)
    names = version_names(config)
    tries = 0  # versions since ``taken`` that were not taken; each halves the learning rate
    for step, name in enumerate(names):  # line 3
        simulated = collect_sessions(run, adapter, contexts)  # line 4
        discriminator = fit_discriminator(run, backbone, adapter.name, adapter, simulated, contexts)  # line 5
        verdict = judge_version(run, adapter.name, taken.name if step else None, simulated, contexts)
        if verdict.taken:
            taken, tries = adapter, 0
            taken_sessions, taken_discriminator = simulated, discriminator
        else:
            tries += name != FURTHER_SFT
        end = early_end(config, verdict, tries)
        following = None if end or name == names[-1] else names[step + 1]
        if following not in (None, FURTHER_SFT):  # the last simulator is evaluated but not trained further
            preferences = make_preferences(run, taken, taken_discriminator, taken_sessions, contexts)  # 6 to 8
        measure(run, tracker, step, name, simulated, contexts)
        if following is None:
            if name != names[-1]:
                log.info("%s is the last version: %s", name, end)
            break
        if following == FURTHER_SFT:
            adapter = further_sft(run, contexts["adversarial"])
        else:
            adapter = update_simulator(run, taken, preferences, following, 0.5**tries)  # line 9

    rows = further_rows(run, taken, taken_discriminator, contexts)
    for step, row in enumerate(rows, start=len(names)):
        simulated = row.collect()
        fit_discriminator(run, backbone, row.name, row.reader, simulated, contexts)
        measure(run, tracker, step, row.name, simulated, contexts)
