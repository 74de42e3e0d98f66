"""Runs a study: an adversarial run, and then its evaluation against the known truth.

The same command resumes an interrupted study at its first unfinished phase.
"""

from __future__ import annotations

from launch.adversarial.algorithm import run_adversarial
from launch.adversarial.expected import expected_phases as phases_of_its_run
from launch.run.cluster.connection import cluster
from launch.run.contents import simulator_versions, version_names
from launch.run.directory import RunDirectory
from launch.run.readers import STUDY
from launch.run.settings import open_run
from launch.study.config import UNTUNED, StudyConfig, adversarial_config
from launch.study.phases import REAL, fit_sizes, label_all, require_sft_sessions, simulate_all, simulate_real_sessions
from launch.study.report import write_study_report


def run_study(config: StudyConfig) -> RunDirectory:
    """Runs or resumes the study in ``config.out_dir``; returns its directory.

    Raises:
        RlenvError: a problem that the user can fix. Finished phases are kept.
    """
    study, settings = RunDirectory(config.out_dir), adversarial_config(config)
    with study.locked():
        open_run(study, config, STUDY)
        require_sft_sessions(config)
        with cluster(settings.ray):
            run = run_adversarial(settings)  # base, it1, it2 ... and their discriminators
            versions = simulator_versions(run, settings)
            sizes = fit_sizes(study, config)  # the base simulator from fewer sessions (Table 1)
            real = simulate_real_sessions(study, config)  # the truth, of treatments too
            simulate_all(study, config, versions, sizes, real)
        label_all(study, config, versions, sizes)
        write_study_report(study, config, real)
    return study


def expected_phases(config: StudyConfig) -> list[str]:
    """Returns the phases of a study with these settings, in order, those of the runs inside it too."""
    run, sizes = adversarial_config(config), config.sft_sizes[:-1]
    return [
        *(f"adversarial/{phase}" for phase in phases_of_its_run(run)),
        *(f"sizes/{size}/base/adapter" for size in sizes if not run.simulator.adapter),
        REAL,
        *(f"measured/{version}/simulated" for version in (UNTUNED, *version_names(run))),
        *(f"sizes/{size}/base/simulated" for size in sizes),
        "labelled",
        "report",
    ]
