"""A corpus of damaged input of every kind, made from a seed, and what rlenv does with each case.

    python -m tests.bad_input --cases 300 --seed 0      prints a table of outcomes by kind

A case is accepted (and what was read is written and read again, with the same result) or refused with a message that
names the file or the key, and of settings the key of the damaged value, as the command line would tell it. Anything
else is a fault: an error that the command line calls a fault of rlenv, another result, words of a conversation in the
message, or a library's words.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.cli.main import message_of
from rlenv.core.errors import RlenvError

SECRET = "zanzibar"
"""A word of the messages, which no error may show."""
NOT_FOR_PEOPLE = re.compile(
    r"Traceback|fault of rlenv|Input should|Tuple should|validation error|something else|"
    r"\b[A-Z]\w+Error\b|<class|object at 0x"
)
"""What a library says and nobody understands."""
LONGEST = 400
"""Characters of the longest line that a person reads."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 10**25, 1e308, float("inf"), float("nan"), -0.0),
    *("", " ", "\t\n", "null", "nan", "1e400", "007", "yes", "\x00", "\ud83d", "\u202e", "é" * 3, "x" * 5000),
    *(
        [],
        {},
        [[]],
        [None],
        {"": ""},
        {"a": {"b": None}},
        [1, "a", None],
        ["a"] * 2000,
        "../../etc/passwd",
        "/dev/null",
    ),
)
"""Values that a program or a person may write in place of the right one."""


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    kind: str
    number: int
    mutation: str
    result: str
    """accepted, refused or FAULT."""
    told: str = ""
    """The error, or the traceback of a fault."""


# --------------------------------------------------------------------------------------------------------- mutations


def in_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Returns a mutation's name and the damaged bytes."""
    at, other = (rng.randrange(len(data) + 1) for _ in range(2))
    low, high = sorted((at, other))
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    zipped = gzip.compress(data)
    made = {
        "cut": data[:at],
        "emptied": b"",
        "blank": b" \n\n",
        "flipped": data[:at] + bytes([(data[at] if at < len(data) else 0) ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        "inserted": data[:at] + rng.choice([b"\x00", b"\xff\xfe", b'"', b"{", b"[", b"\n", b"\\", b":"]) + data[at:],
        "deleted": data[:low] + data[high:],
        "doubled": data[:high] + data[low:],
        "shuffled lines": b"".join(lines),
        "byte order mark": b"\xef\xbb\xbf" + data,
        "UTF-16": data.decode("utf-8", "replace").encode("utf-16"),
        "Windows lines": data.replace(b"\n", b"\r\n"),
        "gzipped": zipped,
        "cut gzip": zipped[: rng.randrange(1, len(zipped))],
        "deep": b"[" * 5_000,
        "noise": rng.randbytes(200),
        "HTML": b"<html><body>Not found</body></html>",
    }
    name = rng.choice(sorted(made))
    return name, made[name]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of each value inside a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def in_values(value: Any, rng: random.Random) -> tuple[str, Any]:
    """Returns a mutation's name and a copy of nested lists and objects with one value, key or item damaged."""
    root = [json.loads(json.dumps(value))]
    path = (0, *rng.choice(list(places(root[0]))))
    parent: Any = root
    for key in path[:-1]:
        parent = parent[key]
    key, where = path[-1], ".".join(map(str, path[1:]))
    how = rng.choice(["replaced", "replaced", "replaced", "removed", "renamed", "wrapped", "as text", "added", "twice"])
    if how == "removed" and len(path) > 1:
        del parent[key]
    elif how == "renamed" and isinstance(parent, dict):
        parent[rng.choice([f"{key}s", str(key).upper(), f" {key}", "", "x" * 60])] = parent.pop(key)
    elif how == "wrapped":
        parent[key] = rng.choice([[parent[key]], {"value": parent[key]}])
    elif how == "as text":
        parent[key] = json.dumps(parent[key])
    elif how == "added" and isinstance(parent[key], dict):
        parent[key][rng.choice(["extra", "Role", "id", "__class__"])] = rng.choice(ODD)
    elif how == "twice" and isinstance(parent, list) and len(path) > 1:
        parent.insert(key, parent[key])
    else:
        how, parent[key] = "replaced", rng.choice(ODD)
    return f"{where or 'all'} {how}", root[0]


# ------------------------------------------------------------------------------------------------------------- kinds


class Sessions:
    """A sessions file."""

    def __init__(self, folder: Path) -> None:
        from rlenv.data.sessions import session_dict
        from rlenv.population.corpus import generate_sessions

        self.path = folder / "sessions.jsonl"
        self.rows = [session_dict(s) for s in generate_sessions(3, 1, 0)]
        for row in self.rows:
            row["messages"] = [dict(m) for m in row["messages"][:4]]
            row["messages"][0]["content"] = f"{SECRET} {SECRET}"
        self.rows = json.loads(json.dumps(self.rows))

    def mutate(self, rng: random.Random) -> str:
        if rng.random() < 0.4:
            name, data = in_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in self.rows), rng)
        else:
            name, rows = in_values(self.rows, rng)
            data = b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
        self.path.write_bytes(data)
        return name

    def use(self) -> None:
        from rlenv.data.sessions import read_sessions, write_sessions

        for neighbours in ("merge", "reject"):
            with contextlib.suppress(RlenvError):
                read_sessions(self.path, neighbours=neighbours)
        read = read_sessions(self.path, neighbours="keep")
        again = self.path.with_name("again.jsonl")
        write_sessions(again, read)
        same(read_sessions(again, neighbours="keep"), read)


class Chats:
    """A file of chats in the form of another tool, which is imported."""

    def __init__(self, folder: Path) -> None:
        turns = [{"from": "human", "value": f"{SECRET} hello"}, {"from": "gpt", "value": "Hi."}] * 2
        parts = [{"type": "text", "text": SECRET}]
        openai = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts},
                  {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]  # fmt: skip
        self.values = [{"id": "1", "conversations": turns}, {"id": "2", "messages": openai}]
        self.csv = f'session,speaker,text\n1,user,{SECRET} hello\n1,assistant,Hi.\n2,user,"a, b"\n'.encode()
        self.folder, self.path = folder, folder

    def mutate(self, rng: random.Random) -> str:
        if rng.random() < 0.3:
            self.path = self.folder / "chats.csv"
            name, data = in_bytes(self.csv, rng)
        else:
            self.path = self.folder / rng.choice(["chats.json", "chats.jsonl"])
            name, values = in_values(self.values, rng)
            lines = values if isinstance(values, list) else [values]
            one_a_line = "\n".join(json.dumps(value) for value in lines)
            data = (json.dumps(values) if self.path.suffix == ".json" else one_a_line).encode()
        self.path.write_bytes(data)
        return name

    def use(self) -> None:
        from rlenv.data.importers import import_chat
        from rlenv.data.sessions import read_sessions, write_sessions

        sessions, _ = import_chat(self.path)
        out = self.folder / "imported.jsonl"
        if sessions:
            write_sessions(out, sessions)
            same(len(read_sessions(out, neighbours="keep")), len(sessions))


class Config:
    """The YAML file of a run, or one key=value of the command line."""

    names_keys = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.yaml"
        self.values = {
            "name": "tiny", "num_iterations": 1, "backbone": "small-llama", "out_dir": str(folder / "run"),
            "data": {"path": None, "population": {"num_users": 50}, "sft_share": 0.5},
            "context": {"budget_tokens": 200},
            "simulator": {"model": "small-llama", "adapter": None, "sampling": {"max_tokens": 20, "temperature": 0.7}},
            "sft": {"epochs": 1, "learning_rate": 1e-3, "dtype": "float32"},
            "engines": {"simulator": {"model": "auto", "backend": "transformers", "num_cpus": 0.5}},
            "env": {"max_turns": 3}, "discriminator": {"lora_rank": None, "epochs": 3},
            "dpo": {"beta": 0.1, "targets": "hard"}, "zero_shot": {}, "resampled": [2],
        }  # fmt: skip
        self.overrides: list[str] = []

    def mutate(self, rng: random.Random) -> str:
        self.overrides, data = [], yaml.safe_dump(self.values).encode()
        draw = rng.random()
        if draw < 0.3:
            name, data = in_bytes(data, rng)
        elif draw < 0.5:
            keys = [
                "name",
                "sft.epochs",
                "env.max_turns",
                "data.path",
                "simulator.sampling.temperature",
                "dpo",
                "a.b",
                "",
            ]
            values = [
                "",
                " ",
                "{",
                "[1",
                '"',
                "null",
                "nan",
                "1e9",
                "${x}",
                "${oc.env:HOME}",
                "a=b",
                "#",
                "'",
                "\x00",
                "é",
            ]
            self.overrides = [f"{rng.choice(keys)}={rng.choice(values)}"]
            name = f"override {self.overrides[0]}"
        else:
            name, values = in_values(self.values, rng)
            data = yaml.safe_dump(values, allow_unicode=False).encode()
        self.path.write_bytes(data)
        return name

    def use(self) -> None:
        from launch.run.settings import load_config, to_dict

        config = load_config(self.path, self.overrides)
        again = self.path.with_name("again.yaml")
        again.write_text(yaml.safe_dump(to_dict(config)))
        same(to_dict(load_config(again)), to_dict(config))


class OtherConfigs:
    """The YAML file of a study, of an env or of a chatbot's training."""

    names_keys = True

    def __init__(self, folder: Path) -> None:
        run = folder / "run"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"num_iterations": 1, "out_dir": str(run)}))
        env = {
            "run": str(run), "ensemble": {"base": 0.5, "it1": 1.0}, "users": {"real": {"kind": "population"}},
            "rewards": {"concise": {"weight": 0.5, "most_words": 3}}, "discriminator": "base", "split": "evaluation",
            "settings": {"env": {"max_turns": 3}, "simulator": {"sampling": {"temperature": 0.9}}},
        }  # fmt: skip
        study = {
            "out_dir": str(folder / "study"), "chatbots": ["steady", "brief"], "sft_sizes": [20, 40],
            "treatments": {"colder": {"control": "brief", "habits": {"cold": 0.5}}},
            "goals": {"pearson_r": 0.8}, "run": {"num_iterations": 2, "sft": {"epochs": 1}},
        }  # fmt: skip
        chatbot = {
            **env, "name": "bot", "held_out": ["real"], "split": "adversarial", "resample": 2,
            "chatbot": {"engine": "simulator", "adapter": "trained", "sampling": {"max_tokens": 60}},
            "rl": {"learning_rate": 1e-4, "num_rounds": 3}, "evaluation": {"every": 2},
        }  # fmt: skip
        self.path, self.kinds = folder / "other.yaml", {"env": env, "study": study, "chatbot": chatbot}
        self.chosen = "env"

    def mutate(self, rng: random.Random) -> str:
        self.chosen = rng.choice(sorted(self.kinds))
        if rng.random() < 0.3:
            name, data = in_bytes(yaml.safe_dump(self.kinds[self.chosen]).encode(), rng)
        else:
            name, values = in_values(self.kinds[self.chosen], rng)
            data = yaml.safe_dump(values).encode()
        self.path.write_bytes(data)
        return f"{self.chosen}: {name}"

    def use(self) -> None:
        from launch.chatbot.config import load_chatbot_config
        from launch.run.settings import to_dict
        from launch.serving.config import load_env_config
        from launch.study.config import load_study

        load = {"env": load_env_config, "study": load_study, "chatbot": load_chatbot_config}[self.chosen]
        config = load(self.path)
        again = self.path.with_name("again.yaml")
        again.write_text(yaml.safe_dump(to_dict(config)))
        same(to_dict(load(again)), to_dict(config))


class Roster:
    """The chatbots and zero-shot users of a run, up to the speakers that they become."""

    names_keys = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / "roster.yaml"
        self.values = {
            "hosted": {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "NO_KEY",
                       "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 5}},
            "mine": {"kind": "callable", "function": "json:dumps", "system_prompt": "Be kind."},
            "steady": {"kind": "population", "name": "steady", "habits": {"repeat": 0.5}},
            "local": {"kind": "engine", "engine": "simulator", "adapter": None},
        }  # fmt: skip

    def mutate(self, rng: random.Random) -> str:
        name, chatbots = in_values(self.values, rng)
        self.path.write_text(yaml.safe_dump({"chatbots": chatbots, "out_dir": str(self.path.with_name("run"))}))
        return name

    def use(self) -> None:
        from launch.run.preflight import check_functions
        from launch.run.roster import make_speaker, roster
        from launch.run.settings import load_config

        config = load_config(self.path)
        check_functions(config)
        for name, speaker in roster(config.chatbots).items():
            if speaker.kind != "engine":
                make_speaker(name, "chatbot", speaker, config.context, engines={}, formats={}, adapters={})


class Adapter:
    """A LoRA adapter's folder: its settings, and the head of its weights."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "adapter"
        self.path.mkdir()
        self.settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"],
                         "rank_pattern": {}, "base_model_name_or_path": "m", "use_dora": False}  # fmt: skip
        shapes = {"base_model.model.q_proj.lora_A.weight": [4, 8], "base_model.model.q_proj.lora_B.weight": [8, 4]}
        self.head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            self.head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 128]}
            end += 128
        self.data = bytes(end)

    def weights(self, head: Any) -> bytes:
        text = json.dumps(head).encode()
        return len(text).to_bytes(8, "little") + text + self.data

    def mutate(self, rng: random.Random) -> str:
        settings, weights = json.dumps(self.settings).encode(), self.weights(self.head)
        draw = rng.random()
        if draw < 0.3:
            name, changed = in_values(self.settings, rng)
            settings = json.dumps(changed).encode()
        elif draw < 0.5:
            name, settings = in_bytes(settings, rng)
        elif draw < 0.75:
            name, head = in_values(self.head, rng)
            weights = self.weights(head)
        else:
            name, weights = in_bytes(weights, rng)
        (self.path / "adapter_config.json").write_bytes(settings)
        (self.path / "adapter_model.safetensors").write_bytes(weights)
        return name

    def use(self) -> None:
        from rlenv.core.adapters import adapter_at, adapter_problems
        from rlenv.core.errors import ConfigError

        adapter = adapter_at(self.path, "a")
        for plain in (True, False):
            problems = adapter_problems(adapter.path, 8, {"q_proj.weight": (8, 8)}, plain=plain)
            if problems:
                raise ConfigError(f"{self.path}: " + "\n".join(problems))


class Taxonomy:
    """A taxonomy, or a map of labels to one."""

    names_keys = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / "taxonomy.yaml"
        self.values = {
            "actions": {
                "good": {"opens_up": ["Opens up", "Tells more."], "smiles": ["Smiles", "A smile."]},
                "bad": {"disagrees": ["Disagrees", "Says no."]},
            },
            "issues": {"user_distress": {"early_advice": ["Early advice", "Advice at once."]}, "app_bug": None},
        }
        self.map = {"actions": {"sad": ["opens_up"], "angry": ["disagrees"]}, "issues": {"bad": ["early_advice"]}}
        self.is_map = False

    def mutate(self, rng: random.Random) -> str:
        self.is_map = rng.random() < 0.3
        values = self.map if self.is_map else self.values
        if rng.random() < 0.4:
            name, data = in_bytes(yaml.safe_dump(values).encode(), rng)
        else:
            name, changed = in_values(values, rng)
            data = yaml.safe_dump(changed).encode()
        self.path.write_bytes(data)
        return f"{'map' if self.is_map else 'taxonomy'}: {name}"

    def use(self) -> None:
        from rlenv.core.taxonomy import load_taxonomy
        from rlenv.data.labels import load_label_map

        if self.is_map:
            load_label_map(str(self.path))
        else:
            taxonomy = load_taxonomy(self.path)
            same(type(taxonomy).model_validate_json(taxonomy.model_dump_json()), taxonomy)


class Replies:
    """What a language model replies as a judge."""

    def __init__(self, folder: Path) -> None:
        from rlenv.core.taxonomy import load_taxonomy
        from rlenv.judges.questions import action_question, issue_question
        from rlenv.population.corpus import generate_sessions

        self.path = folder
        (session,) = generate_sessions(1, 1, 0)
        self.taxonomy = load_taxonomy()
        place = next(i for i, m in enumerate(session.messages) if m.role == "user")
        question = issue_question(session, self.taxonomy)
        assert question is not None
        self.questions = {"issues": question, "actions": action_question(session, place, self.taxonomy, 3)}
        self.values = {
            "issues": {"issues": [{"category": self.taxonomy.issue_ids()[0], "messages": [1, 2]}], "note": SECRET},
            "actions": {"actions": list(self.taxonomy.action_ids()[:3])},
        }
        self.kind, self.reply = "issues", ""

    def mutate(self, rng: random.Random) -> str:
        self.kind = rng.choice(["issues", "actions"])
        if rng.random() < 0.4:
            name, data = in_bytes(json.dumps(self.values[self.kind]).encode(), rng)
            self.reply = data.decode("utf-8", "replace")
        else:
            name, value = in_values(self.values[self.kind], rng)
            self.reply = json.dumps(value)
        around = rng.choice(
            ["{}", "```json\n{}\n```", "<think>{SECRET} {{</think>{}", "Sure! {} I hope {{this}} helps."]
        )
        self.reply = around.replace("{}", self.reply)
        return name

    def use(self) -> None:
        from rlenv.judges.questions import read_actions, read_issues

        question = self.questions[self.kind]
        answer = (read_issues if self.kind == "issues" else read_actions)(self.reply, question, self.taxonomy)
        assert set(answer.labels) <= set(question.places)


class RunFolder:
    """The directory of a run: every file that rlenv wrote, damaged one at a time, under all that reads it."""

    FILES = (
        "config.yaml", "timings.jsonl", "metrics.jsonl", ".lock", "data/sft.jsonl.gz", "data/counts.json",
        "data/manifest.json", "base/simulated/sessions.jsonl", "base/simulated/conversations.jsonl.gz",
        "base/simulated/counts.json", "base/preferences/pairs.jsonl", "base/measures/metrics.json",
        "base/acceptance/verdict.json", "logs/sft-base.jsonl", "wandb.json",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        from launch.adversarial.phases import prepare_data
        from launch.adversarial.simulation import simulate
        from launch.run.directory import RunDirectory
        from launch.run.settings import load_config, to_dict
        from rlenv.core.files import to_line, write_json
        from rlenv.core.progress import Progress
        from rlenv.speakers.scripted import ScriptedChatbot, ScriptedUser

        self.whole, self.path = folder / "whole", folder / "run"
        self.config = load_config(None, ["num_iterations=1", "data.population.num_users=12", f"out_dir={self.path}"])
        run = RunDirectory(self.whole)
        with run.locked():
            run.open(to_dict(self.config))
            data = prepare_data(run, self.config.data, 0)
            contexts = {"adversarial": data["adversarial"][:2], "evaluation": data["evaluation"][:1]}
            user, bots = ScriptedUser("user", leave_rate=0.2), {"bot": ScriptedChatbot("bot")}
            config = self.config
            run.once("base/simulated", lambda path: simulate(
                path, "t", "base", user, bots, contexts, config.collect, config.env, 0
            ))  # fmt: skip

            pair = {"prompt": SECRET, "chosen": "a", "rejected": "b", "prompt_ids": [1], "chosen_ids": [2], "turn": 1,
                    "rejected_ids": [3], "reward_chosen": 1.0, "reward_rejected": -1.0, "session_id": "s",
                    "critical": "highest", "simulator": "base"}  # fmt: skip
            run.once("base/preferences", lambda path: (path.mkdir(), (path / "pairs.jsonl").write_bytes(to_line(pair))))
            run.once("base/measures", lambda path: (path.mkdir(), write_json(path / "metrics.json", {"a": 1.0})))
            run.once("base/acceptance", lambda path: (path.mkdir(), write_json(path / "verdict.json", {"taken": True})))
        row = {"step": 0, "version": "base", "disc/accuracy_overall": 0.7, "disc/power_accuracy": 0.95}
        run.path("metrics.jsonl").write_bytes(to_line(row))
        run.path("wandb.json").write_text(json.dumps({"id": "a", "steps": [0], "phases": []}))
        progress = Progress(str(run.path("logs/sft-base.jsonl")), "sft")
        for step in (1, 2):
            progress.write(step, 2, loss=1.0)

    def mutate(self, rng: random.Random) -> str:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.whole, self.path)
        file = rng.choice(self.FILES)
        path = self.path / file
        data = path.read_bytes()
        zipped = data[:2] == b"\x1f\x8b"
        if zipped and rng.random() < 0.5:
            data = gzip.decompress(data)
        draw = rng.random()
        if draw < 0.1:
            name = "removed"
            path.unlink()
        elif draw < 0.5 and path.suffix in (".json", ".jsonl"):
            name, rows = in_values([json.loads(line) for line in data.splitlines()] if path.suffix == ".jsonl"
                                   else json.loads(data), rng)  # fmt: skip
            lines = rows if path.suffix == ".jsonl" and isinstance(rows, list) else [rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        else:
            name, damaged = in_bytes(data, rng)
            path.write_bytes(damaged)
        return f"{file}: {name}"

    def use(self) -> None:
        from launch.adversarial.phases import read_pairs
        from launch.adversarial.simulation import read_simulated
        from launch.adversarial.table import results_table, verdicts
        from launch.adversarial.transcripts import side_by_side
        from launch.cli.status import sentences, status_of
        from launch.cli.verify import sentences as verified
        from launch.reports.verify import verify
        from launch.run.contents import read_data, run_settings, was_taken
        from launch.run.directory import RunDirectory
        from launch.run.readers import ADVERSARIAL
        from launch.run.settings import open_run
        from launch.tracking.config import TrackingConfig
        from launch.tracking.tracker import Tracker, read_metrics
        from rlenv.core.files import read_json

        run = RunDirectory(self.path)

        def resume() -> None:
            with run.locked():
                open_run(run, self.config, ADVERSARIAL)

        def table() -> None:
            rows = list(read_metrics(self.path / "metrics.jsonl"))
            results_table(rows)
            verdicts(rows)

        def track() -> None:
            with Tracker(self.path, TrackingConfig(), "n", {}) as tracker:
                tracker.log(0, "base", {"a": 1.0})

        uses: list[Callable[[], object]] = [
            lambda: sentences(status_of(self.path)), lambda: verified(verify(self.path)), table,
            lambda: run_settings(self.path), lambda: read_data(run), lambda: was_taken(run, "base"),
            lambda: read_simulated(run.path("base/simulated")),
            lambda: read_pairs(run.path("base/preferences/pairs.jsonl")),
            lambda: read_json(self.path / "base/measures/metrics.json"), lambda: side_by_side(run, ["base"], None, 0),
            track, resume,
        ]  # fmt: skip
        errors = []
        for use in uses:
            try:
                use()
            except RlenvError as error:
                errors.append(error)
        if errors:
            raise next((e for e in errors if str(self.path) in str(e)), errors[0])


KINDS = {
    "sessions": Sessions, "chats": Chats, "config": Config, "other configs": OtherConfigs, "roster": Roster,
    "adapter": Adapter, "taxonomy": Taxonomy, "judge replies": Replies, "run directory": RunFolder,
}  # fmt: skip


def same(actual: object, expected: object) -> None:
    """Fails where what was written reads differently."""
    if actual != expected:
        raise AssertionError("what was accepted does not survive the round trip")


def unfit(made: Any, mutation: str, told: str) -> bool:
    """Returns whether a message does not tell a person where to look, or is not written for people.

    What a language model replies has no place; its message goes back to the model.
    """
    if not told.strip() or SECRET in told or max(map(len, told.splitlines())) > LONGEST + len(str(made.path)):
        return True
    if NOT_FOR_PEOPLE.search(told.replace(str(made.path), "")):
        return True
    if override := re.fullmatch("override (.*?)=.*", mutation, re.DOTALL):
        return override[1].partition(".")[0] not in told
    if isinstance(made, Replies):
        return False
    damaged = re.fullmatch(r"(?:\w+: )?(\S+) (?:replaced|removed|renamed|wrapped|as text|added|twice)", mutation)
    names_keys = getattr(made, "names_keys", False)
    if str(made.path) not in told:  # what is found out after reading, about a speaker, is told by its key alone
        return not (isinstance(made, Roster) and damaged and damaged[1] in told)
    if not names_keys or not damaged or damaged[1] == "all" or "half an emoji" in told or "no such setting" in told:
        return False
    keys = [key for key in damaged[1].split(".") if not key.isdigit()]
    return not any(key.lower() in told.lower() for key in keys)


def outcomes(kind: str, cases: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Yields what comes of each case of a kind; equal arguments give equal cases."""
    made = KINDS[kind](folder)
    for number in range(cases):
        rng = random.Random(f"{seed} {kind} {number}")
        mutation = made.mutate(rng)
        result, told = "accepted", ""
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                made.use()
        except Exception as error:
            told = message_of(error)
            result = "FAULT" if unfit(made, mutation, told) else "refused"
            if "fault of rlenv" in told:
                told = traceback.format_exc()
        yield Outcome(kind, number, mutation, result, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), help="only one kind")
    parser.add_argument("--verbose", action="store_true", help="print each case")
    options = parser.parse_args()
    chosen = [options.kind] if options.kind else list(KINDS)
    print("| kind | cases | accepted | refused with a message | faults |\n|---|--:|--:|--:|--:|")
    total: Counter[str] = Counter()
    faults = []
    for index, kind in enumerate(chosen):
        share = options.cases // len(chosen) + (index < options.cases % len(chosen))
        with tempfile.TemporaryDirectory() as folder:
            found = list(outcomes(kind, share, options.seed, Path(folder)))
        counts = Counter(outcome.result for outcome in found)
        total += counts
        faults += [outcome for outcome in found if outcome.result == "FAULT"]
        print(f"| {kind} | {share} | {counts['accepted']} | {counts['refused']} | {counts['FAULT']} |")
        if options.verbose:
            for outcome in found:
                told = outcome.told.strip().splitlines()
                print(
                    f"  {outcome.number} {outcome.mutation[:80]!r}: {outcome.result}: {told[-1][:160] if told else ''}"
                )
    print(f"| all | {options.cases} | {total['accepted']} | {total['refused']} | {total['FAULT']} |")
    for outcome in faults:
        print(f"\n{outcome.kind} {outcome.number} ({outcome.mutation[:100]!r}):\n{outcome.told}")


if __name__ == "__main__":
    main()
