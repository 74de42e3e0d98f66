"""Conversations leave the machine only where that is allowed, and keys stand in the environment alone."""

from __future__ import annotations

import pytest
import yaml

from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.directory import RunDirectory
from launch.run.preflight import speaker_needs
from launch.run.settings import load_config, open_run, to_dict
from launch.serving.judges import JudgeConfig, JudgeName, serve_judge
from launch.serving.language_models import ModelChoice, language_model
from rlenv.core.errors import ConfigError
from rlenv.speakers.outside import is_outside, secret_problems

KEY = "sk-proj-4f9aB2"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "http://127.0.0.1/v1",
        "http://127.8.0.1",
        "http://[::1]:80/v1",
        "http://LOCALHOST.:1",
    ],
)
def test_an_endpoint_of_this_machine_needs_no_consent(url):
    assert not is_outside(url)


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com/v1", "http://10.0.0.4:8000", "http://node7:8000/v1", "http://localhost.example.com",
     "http://127.0.0.1.nip.io", "http://[2001:db8::1]/v1"],
)  # fmt: skip
def test_an_endpoint_elsewhere_needs_consent_before_a_run_starts(url):
    assert is_outside(url)
    speaker = SpeakerConfig(kind="endpoint", base_url=url, model="m")
    [problem] = speaker_needs("chatbots", {"hosted": speaker}, RunConfig())
    assert problem.startswith("chatbots.hosted.allow_external: ") and "is not this machine" in problem
    allowed = SpeakerConfig(kind="endpoint", base_url=url, model="m", allow_external=True)
    assert speaker_needs("chatbots", {"hosted": allowed}, RunConfig()) == []


def test_a_judge_and_a_summarizer_elsewhere_need_consent(tmp_path):
    choice = ModelChoice(base_url="https://api.example.com/v1", model="m")
    with (
        pytest.raises(ConfigError, match=r"allow_external: api\.example\.com is not this machine"),
        language_model(choice, num_positions=10, log_dir=tmp_path),
    ):
        pass
    judge = JudgeConfig(judge=JudgeName.endpoint, base_url="https://api.example.com/v1", model="m")
    with pytest.raises(ConfigError, match="--allow-external"), serve_judge(judge, tmp_path):
        pass


def test_consent_may_be_given_to_a_run_that_was_started_without(tmp_path):
    speaker = {"kind": "endpoint", "base_url": "https://api.example.com/v1", "model": "m"}
    source = tmp_path / "run.yaml"
    source.write_text(yaml.safe_dump({"out_dir": str(tmp_path / "run"), "chatbots": {"hosted": speaker}}))
    run = RunDirectory(tmp_path / "run")
    open_run(run, load_config(source))
    run.path("base/simulated").mkdir(parents=True)
    open_run(run, load_config(source, ["chatbots.hosted.allow_external=true"]))


@pytest.mark.parametrize(
    "wrong",
    [{"api_key_env": KEY}, {"base_url": f"https://u:{KEY}@h/v1"}, {"base_url": f"https://h/v1?api_key={KEY}"}],
)
def test_a_key_in_the_settings_is_refused_without_showing_it(wrong, tmp_path):
    speaker = {"kind": "endpoint", "base_url": "https://h/v1", "model": "m", "allow_external": True, **wrong}
    source = tmp_path / "run.yaml"
    source.write_text(yaml.safe_dump({"chatbots": {"hosted": speaker}}))
    with pytest.raises(ConfigError, match=r"never write the key itself|give the key by api_key_env") as error:
        load_config(source)
    assert KEY not in str(error.value)
    choice = {"base_url": "http://localhost/v1", "model": "m", **wrong}
    with pytest.raises(ConfigError) as error, language_model(ModelChoice(**choice), num_positions=10, log_dir=tmp_path):
        pass
    assert KEY not in str(error.value)


def test_a_saved_configuration_has_the_variables_name_and_not_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPPORT_KEY", KEY)
    speaker = {"kind": "endpoint", "base_url": "http://localhost/v1", "model": "m", "api_key_env": "SUPPORT_KEY"}
    source = tmp_path / "run.yaml"
    source.write_text(yaml.safe_dump({"out_dir": str(tmp_path / "run"), "chatbots": {"hosted": speaker}}))
    config = load_config(source)
    RunDirectory(config.out_dir).open(to_dict(config))
    files = [path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("SUPPORT_KEY" in text for text in files) and not any(KEY in text for text in files)
    assert secret_problems(speaker["base_url"], "SUPPORT_KEY") == []
