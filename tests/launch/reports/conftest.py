"""Real and simulated sessions of the reference population, and a directory like that of a finished run."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rlenv.core.types import Session
from rlenv.data.sessions import write_sessions
from rlenv.discriminator.controls import shuffle_words_within_user
from rlenv.discriminator.labelled import ScoredSession
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.population.corpus import generate_sessions

CHATBOTS = ("steady", "echo", "brief", "stoic")
assert set(CHATBOTS) <= set(chatbot_names())


@dataclass(frozen=True)
class Files:
    """The files that the tests evaluate."""

    real: Path
    good: Path
    scrambled: Path
    run: Path


def write_run(root: Path, real: list[Session], versions: dict[str, list[Session]]) -> Path:
    """Writes the files of a run that an evaluation reads; log-odds are random, further apart for early versions."""
    rng = random.Random(0)
    (root / "data").mkdir(parents=True)
    write_sessions(root / "data/evaluation.jsonl.gz", real)
    (root / "config.yaml").write_text(yaml.safe_dump({"env": {"max_turns": 12}}))
    rows = []
    for step, (version, sessions) in enumerate(versions.items()):
        extra = {"part": "evaluation", "simulator": version}
        folder = root / version / "simulated"
        folder.mkdir(parents=True)
        trained_on = sessions[0].model_copy(update={"session_id": "trained-on", "part": "adversarial"})
        simulated = [
            s.model_copy(update={**extra, "context_id": r.session_id}) for r, s in zip(real, sessions, strict=True)
        ]
        write_sessions(folder / "sessions.jsonl", [*simulated, trained_on])
        for name, distance in (("main", 0.6 / (step + 1)), ("leak", 0.0), ("power", 2.0)):
            scored = [
                ScoredSession(
                    session_id=s.session_id,
                    context_id=str(i),
                    real=is_real,
                    log_odds=(0.0, *(rng.gauss(distance if is_real else -distance, 1) for _ in s.user_messages()[:12])),
                    num_turns=len(s.user_messages()),
                ).model_dump(mode="json")
                for is_real, some in ((True, real), (False, sessions))
                for i, s in enumerate(some)
            ]
            target = root / version / "discriminator" / name
            target.mkdir(parents=True)
            (target / "validation.json").write_text(json.dumps(scored))
        metrics = {"disc/referee_accuracy": 0.6, "disc/leak_accuracy": 0.5, "disc/accuracy_session": 0.7}
        metrics["disc/power_accuracy"] = 0.97
        (root / version / "measures").mkdir()
        (root / version / "measures/metrics.json").write_text(json.dumps(metrics))
        rows.append({"step": step, "version": version, **metrics})
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A few real and simulated sessions with four chatbots; base is word salad, it1 is users of the same population."""
    root = tmp_path_factory.mktemp("evaluation")
    real, good, it1 = (generate_sessions(24, 1, seed, chatbots=CHATBOTS) for seed in (1, 2, 3))
    write_sessions(root / "real.jsonl.gz", real)
    write_sessions(root / "good.jsonl", good)
    write_sessions(root / "scrambled.jsonl", shuffle_words_within_user(good))
    run = write_run(root / "run", real, {"base": shuffle_words_within_user(good), "it1": it1})
    return Files(root / "real.jsonl.gz", root / "good.jsonl", root / "scrambled.jsonl", run)
