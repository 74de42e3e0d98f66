"""Trains a chatbot against the simulated users of an adversarial run.

The output of each line is complete in the run directory before the next line begins, so the same command resumes a run.
"""

from __future__ import annotations

from dataclasses import replace

from launch.adversarial.expected import expected_phases as phases_of_a_refresh
from launch.chatbot.config import CHATBOT, ChatbotRunConfig
from launch.chatbot.learning_curve import LearningCurve
from launch.chatbot.phases import (
    START,
    evaluate_chatbot,
    fit_start,
    prepare_chatbot_model,
    refresh_simulator,
    reinforce,
    stages,
)
from launch.chatbot.report import rejudge, report
from launch.chatbot.report_page import ChatbotEvaluation
from launch.chatbot.run import ChatbotRun, check_settings, groups_of_users, missing_here
from launch.run.contents import SMALL_LLAMA
from launch.run.settings import to_dict
from launch.tracking.tracker import Tracker
from rlenv.core.errors import ConfigError


def train_chatbot(config: ChatbotRunConfig) -> ChatbotEvaluation:
    """Trains a chatbot in ``config.out_dir``, or resumes its training; returns its evaluation before and after.

    Raises:
        RlenvError: a problem that the user can fix. Finished phases are kept.
    """
    check_settings(config)
    if problems := missing_here(config):
        raise ConfigError("\n".join(problems))
    with ChatbotRun.of(config).opened() as run:
        run = prepare_chatbot_model(run)
        settings, root = to_dict(run.config), run.directory.root
        with Tracker(root, config.settings.tracking, config.name, settings, axis="update") as tracker:
            curve = LearningCurve(run, tracker)
            start, chatbot = _train(run, curve)
            for version in (start, chatbot):
                rejudge(run, version)
            evaluation = report(run, start, chatbot, *curve.write())
            artifacts = {"adapter": run.directory.path(f"{chatbot}/adapter"), "report": run.directory.path("report")}
            tracker.log_artifacts(chatbot, artifacts)
        return evaluation


def _train(run: ChatbotRun, curve: LearningCurve) -> tuple[str, str]:
    """Returns the names of the first and the last version of the chatbot, both evaluated with the same users."""
    config, groups = run.config, groups_of_users(run.config)
    chatbot = start = fit_start(run)
    evaluate_chatbot(run, start, groups)
    stage_run = run
    for stage in stages(config.rl.num_rounds, config.alternate_every):
        if stage.number > 1:
            stage_run = refresh_simulator(stage_run, stage.number - 1, chatbot)
        chatbot = reinforce(stage_run, stage, chatbot, curve.follow(stage))
        curve.finish(stage)
    evaluate_chatbot(stage_run, chatbot, groups)
    run.hosts.close()
    return start.name, chatbot.name


def expected_phases(config: ChatbotRunConfig) -> list[str]:
    """Returns the phases of a chatbot's training with these settings, in order, those of its refreshes too."""
    settings, chatbot = config.settings, config.chatbot
    phases = [f"models/{SMALL_LLAMA}"] if settings.engines[chatbot.engine].model == SMALL_LLAMA else []
    phases += [f"chatbots/{CHATBOT}"] if chatbot.adapter == "trained" else []
    phases.append(f"{START}/measured")
    made = "an earlier run's"
    refresh = replace(
        settings,
        num_iterations=config.refresh.num_iterations,
        simulator=replace(settings.simulator, model=made, adapter=made),
        backbone=made,
        chatbots={},
    )
    versions = [START]
    for stage in stages(config.rl.num_rounds, config.alternate_every):
        if stage.number > 1:
            phases += [f"refresh{stage.number - 1}/{phase}" for phase in phases_of_a_refresh(refresh)]
        phases.append(f"{stage.version}/adapter")
        versions.append(stage.version)
    phases.append(f"{versions[-1]}/measured")
    judged = config.evaluation.held_out_judge is not None
    return phases + [f"{version}/judged" for version in (START, versions[-1]) if judged]
