"""Trains a chatbot against the simulated users of an adversarial run.

The output of each line is complete in the run directory before the next line begins, so the same command resumes a run.
"""

from __future__ import annotations

from launch.chatbot.config import ChatbotRunConfig
from launch.chatbot.learning_curve import LearningCurve
from launch.chatbot.phases import (
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
