"""A chatbot is trained against the simulated users of an adversarial run. One screen.

Each line's output is complete in the run directory before the next begins; the same command goes on from there.
"""

from __future__ import annotations

from launch.chatbot.config import ChatbotRunConfig
from launch.chatbot.learning_curve import LearningCurve
from launch.chatbot.phases import (
    evaluate_chatbot,
    fit_start,
    groups_of_users,
    hosting,
    prepare_chatbot_model,
    refresh_simulator,
    reinforce,
    stages,
)
from launch.chatbot.report import rejudge, report
from launch.chatbot.report_page import ChatbotEvaluation
from launch.run.directory import RunDirectory
from launch.run.serving import cluster
from launch.run.settings import to_dict
from launch.run.tracking import Tracker


def train_chatbot(config: ChatbotRunConfig) -> ChatbotEvaluation:
    """Trains a chatbot in ``config.out_dir``, or goes on with it; returns whether it got better, and with whom.

    Raises:
        RlenvError: what a person can mend; what was finished stays.
    """
    run = RunDirectory(config.out_dir)
    groups_of_users(config)
    config.rl.updates_per_round(config.settings.train.num_workers)
    with run.locked():
        run.open(to_dict(config))
        with cluster(config.settings.ray):
            return _run(config, run)


def _run(config: ChatbotRunConfig, run: RunDirectory) -> ChatbotEvaluation:
    config = prepare_chatbot_model(run, config)
    tracker = Tracker(run.root, config.settings.tracking, config.name, to_dict(config))
    curve = LearningCurve(run, config, tracker)
    chatbot = start = fit_start(run, config)
    try:
        with hosting(run) as hosts:
            evaluate_chatbot(run, hosts, config, start)
            world = config
            for stage in stages(config):
                if stage.number > 1:
                    hosts.close()
                    world = refresh_simulator(run, world, stage.number - 1, chatbot)
                chatbot = reinforce(run, hosts, world, stage, chatbot, curve.follow(stage))
                curve.finish(stage)
            evaluate_chatbot(run, hosts, config, chatbot)
    finally:
        tracker.close()
    for version in (start, chatbot):
        rejudge(run, config, version.name)
    return report(run, config, start.name, chatbot.name, *curve.write())
