"""The served discriminator: a killed actor changes no log-odds, and what cannot be served says why at once."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors.scoring import DiscriminatorPool, ScoringConfig
from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.types import Branch, Message, Session

pytestmark = pytest.mark.ray

WORDS = ["I", "feel", "low", "since", "May", "and", "sleep", "badly", "what", "happened", "then", "my", "dog", "died"]
SMALL = ScoringConfig(num_cpus=0.5, threads=1, max_restarts=1)


def _session(number: int) -> Session:
    texts = [" ".join(WORDS[(number + i) % len(WORDS) :][: 2 + i % 5]) for i in range(7)]
    messages = tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))
    return Session(session_id=f"s{number}", messages=messages)


SESSIONS = [_session(i) for i in range(120)]
BRANCHES = (Branch(turn=2, texts=("well", "I feel low")),)


@pytest.fixture(scope="module")
def checkpoint(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoTokenizer

    from rlenv.discriminator.model import new_classifier, save_classifier
    from rlenv.discriminator.rows import DiscriminatorLayout

    torch.manual_seed(1)
    classifier = new_classifier(str(tiny_llama), "float32")
    torch.nn.init.normal_(classifier.score.weight, std=1.0)
    folder = tmp_path_factory.mktemp("discriminator")
    save_classifier(
        classifier,
        folder,
        tokenizer=AutoTokenizer.from_pretrained(tiny_llama),
        layout=DiscriminatorLayout(max_tokens=512),
        base_model=str(tiny_llama),
        dtype="float32",
        evidence="last",
    )
    return folder


async def _score_all(pool: DiscriminatorPool, kill=None):
    calls = [asyncio.ensure_future(pool.log_odds(session, BRANCHES)) for session in SESSIONS]
    if kill is not None:
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        kill()
    return await asyncio.gather(*calls)


def test_an_actor_that_is_killed_while_it_scores_changes_no_log_odds(checkpoint, tmp_path, cluster):
    with DiscriminatorPool(checkpoint, SMALL, log_dir=tmp_path) as pool:
        undisturbed = asyncio.run(_score_all(pool))
        disturbed = asyncio.run(_score_all(pool, lambda: os.kill(pool.pids[0], signal.SIGKILL)))
        assert pool.restarts == 1
        assert [scores.session_id for scores in disturbed] == [session.session_id for session in SESSIONS]
        for score, expected in zip(disturbed, undisturbed, strict=True):
            assert score.log_odds == pytest.approx(expected.log_odds, abs=1e-5)
            assert score.branches[0] == pytest.approx(expected.branches[0], abs=1e-5)
        long = Session(session_id="long", messages=(Message(role="user", content="word " * 600),))
        with pytest.raises(OverlongError, match="session long"):
            asyncio.run(pool.log_odds(long))
        with pytest.raises(EngineError, match=r"discriminator-0 .*died.*max_restarts = 1 is used up"):
            asyncio.run(_score_all(pool, lambda: os.kill(pool.pids[0], signal.SIGKILL)))


def test_a_missing_checkpoint_is_reported_with_its_cause_and_not_waited_for(tmp_path, cluster):
    with (
        pytest.raises((ConfigError, EngineError), match=r"discriminator-0 of .*nowhere.*nowhere") as error,
        DiscriminatorPool(tmp_path / "nowhere", SMALL, log_dir=tmp_path),
    ):
        pass
    assert "not ready" not in str(error.value)  # as it would say had it waited for the start


def test_missing_gpus_are_reported_before_anything_is_started(checkpoint, tmp_path, cluster):
    with (
        pytest.raises(ConfigError, match=r"asks for 2 x \(0\.5 CPU and 1 GPU\).*the cluster has 2 CPU and 0 GPU"),
        DiscriminatorPool(checkpoint, ScoringConfig(replicas=2, num_cpus=0.5, num_gpus=1), log_dir=tmp_path),
    ):
        pass
