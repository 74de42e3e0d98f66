"""Chats in the forms of other tools: what was said is kept, and all that is left out, renamed or made is counted."""

import csv
import gzip
import json

import pytest

from rlenv.core.errors import ConfigError, DataError
from rlenv.data.importers import ChatOptions, ImportOptions, import_chat
from rlenv.data.sessions import read_sessions, write_sessions

FLAT, TIRED, RAIN = "My flat is damp.", "That sounds tiring.", "Since the rain."
SHORT = [("user", FLAT), ("assistant", TIRED)]
LONG = [*SHORT, ("user", RAIN)]
SECRET = "secret words"


def openai(said=SHORT, role="role", content="content"):
    return [{role: who, content: text} for who, text in said]


def sharegpt(said=SHORT):
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[who], "value": text} for who, text in said]


def chats(path, **options):
    """Imports a file; returns (id, what was said) of each session, and the report."""
    sessions, report = import_chat(path, chat=ChatOptions(**options))
    write_sessions(path.with_name("round.jsonl"), sessions)
    assert read_sessions(path.with_name("round.jsonl"), neighbours="keep") == sessions
    return [(s.session_id, [(m.role, m.content) for m in s.messages]) for s in sessions], report


def node(role, text):
    return {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}


SYSTEM = {"role": "system", "content": "Be brief."}
FORMS = {
    "sharegpt": {"id": "c1", "conversations": [{"from": "system", "value": "x"}, *sharegpt()]},
    "openai": {"id": "c1", "messages": [SYSTEM, *openai()]},
    "system in the middle": {"id": "c1", "messages": [openai()[0], SYSTEM, openai()[1]]},
    "hash": {"conversation_hash": "c1", "model": "m", "conversation": openai()},
    "text": {"id": "c1", "messages": json.dumps(openai())},
    "python": {"id": "c1", "messages": repr(openai())},
    "prompt": {"id": "c1", "prompt": FLAT, "completion": TIRED},
    "prompt of messages": {"id": "c1", "prompt": openai()[:1], "completion": openai()[1:]},
    "parts": {
        "id": "c1",
        "messages": [{"role": r, "content": [{"type": "text", "text": t}, {"type": "image_url"}]} for r, t in SHORT],
    },
    "gemini": {
        "id": "c1",
        "messages": [{"role": r, "parts": [{"text": t}]} for r, t in (("user", FLAT), ("model", TIRED))],
    },
    "tools": {
        "id": "c1",
        "messages": [
            openai()[0],
            {"role": "assistant", "content": None, "tool_calls": [{"id": "t"}]},
            {"role": "tool", "tool_call_id": "t", "content": "10:00"},
            openai()[1],
        ],
    },
    "chosen": {"id": "c1", "prompt": openai()[:1], "chosen": openai()[1:], "rejected": openai()[1:]},
    "chosen with its prompt": {"id": "c1", "chosen": openai(), "rejected": openai()},
    "a field for each side": {"id": "c1", "turns": [{"Human": FLAT, "AI": TIRED}]},
    "two texts": {"id": "c1", "history": [[FLAT, TIRED]]},
    "Claude's export": {"uuid": "c1", "name": "x", "chat_messages": [
        {"sender": "human", "text": FLAT}, {"sender": "assistant", "text": TIRED},
    ]},
    "ChatGPT's export": {"conversation_id": "c1", "current_node": "3", "mapping": {
        "1": {"message": None, "parent": None, "children": ["2"]},
        "2": {"message": node("user", FLAT), "parent": "1", "children": ["3", "4"]},
        "3": {"message": node("assistant", TIRED), "parent": "2", "children": []},
        "4": {"message": node("assistant", "a reply that was not kept"), "parent": "2"},
    }},
    "labels": {"id": "c1", "text": f"\n\nHuman: {FLAT}\n\nAssistant: {TIRED}"},
    "labels in angle brackets": {"id": "c1", "text": f"<HUMAN>: {FLAT} <ASSISTANT>: {TIRED}"},
    "ChatML": {"id": "c1", "text": f"<|im_start|>system\nx<|im_end|>\n<|im_start|>user\n{FLAT}<|im_end|>\n"
                                   f"<|im_start|>assistant\n{TIRED}<|im_end|>"},
    "Llama 2": {"id": "c1", "text": f"<s>[INST] <<SYS>>\nx\n<</SYS>>\n\n{FLAT} [/INST] {TIRED} </s>"},
    "Llama 3": {"id": "c1", "text": f"<|start_header_id|>user<|end_header_id|>\n\n{FLAT}<|eot_id|>"
                                    f"<|start_header_id|>assistant<|end_header_id|>\n\n{TIRED}<|eot_id|>"},
    "context and response": {"id": "c1", "Context": FLAT, "Response": TIRED},
    "CounselChat": {"id": "c1", "questionTitle": "x", "questionText": FLAT, "answerText": TIRED},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["lines", "list", "pretty", "gzip", "bom"])
def test_a_chat_of_any_form_is_imported_from_any_layout(tmp_path, form, layout):
    path = tmp_path / "x.json"
    text = {"list": json.dumps([FORMS[form]]), "pretty": json.dumps([FORMS[form]], indent=2)}.get(
        layout, "\n" + json.dumps(FORMS[form]) + "\r\n\n"
    )
    raw = text.encode("utf-8-sig" if layout == "bom" else "utf-8")
    path.write_bytes(gzip.compress(raw) if layout == "gzip" else raw)
    assert chats(path)[0] == [("c1", SHORT)]


def test_what_is_left_out_and_what_is_made_is_counted(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps({k: v for k, v in FORMS[f].items() if k != "id"}) for f in ("tools", "parts")))
    found, report = chats(path)
    assert [session_id for session_id, _ in found] == ["talk-1", "talk-2"]
    assert report.dropped == {
        "messages of role 'tool'": 1, "messages[].tool_calls": 1, "messages without text": 1,
        "parts of messages: 'image_url'": 2,
    }  # fmt: skip
    assert report.changed == {"session_id: made from the file's name and the position": 2}


@pytest.mark.parametrize("past", [[[FLAT, TIRED]], openai()])
def test_a_history_goes_on_with_the_pair_beside_it(tmp_path, past):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"id": "c1", "instruction": RAIN, "input": "", "output": "I see.", "history": past}]))
    assert chats(path)[0] == [("c1", [*LONG, ("assistant", "I see.")])]


@pytest.mark.parametrize("beside", ["text", "chosen"])
def test_messages_are_read_and_not_the_text_or_the_better_chat_beside_them(tmp_path, beside):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**FORMS["openai"], beside: "User: other\nAssistant: words"}))
    assert chats(path)[0] == [("c1", SHORT)]


def test_labels_within_a_row_that_is_a_message_are_its_text(tmp_path):
    path, said = tmp_path / "x.jsonl", [("user", "User: me\nAI: you"), ("assistant", "Note: a\nTodo: b")]
    path.write_text("\n".join(json.dumps({"chat_id": "a", "role": who, "text": text}) for who, text in said))
    assert chats(path)[0] == [("a", said)]


def test_chats_within_an_object_are_found(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"version": 1, "data": [FORMS["openai"], {**FORMS["two texts"], "id": "c2"}]}))
    assert chats(path)[0] == [("c1", SHORT), ("c2", SHORT)]
    path.write_text(json.dumps({"conversations": [FORMS["openai"], {**FORMS["sharegpt"], "id": "c2"}]}))
    assert chats(path)[0] == [("c1", SHORT), ("c2", SHORT)]
    path.write_text(json.dumps({"id": "c1", "talk": [{"who": who, "text": text} for who, text in SHORT]}))
    with pytest.raises(DataError, match="got the fields 'talk'"):  # messages of other names are no chats
        chats(path)
    assert chats(path, names={"talk": "messages", "who": "role"})[0] == [("c1", SHORT)]
    path.write_text(json.dumps({**FORMS["openai"], "notes": [{"question": "x", "answer": "y"}]}))
    assert chats(path)[0] == [("c1", SHORT)]
    path.write_text(json.dumps({"train": [FORMS["openai"]], "test": [{**FORMS["prompt"], "id": "c2"}]}))
    assert chats(path)[0] == [("c1", SHORT), ("c2", SHORT)]


def test_labels_of_unknown_speakers_are_asked_for(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"id": "c1", "text": f"Patient: {FLAT}\nTherapist: {TIRED}\nPatient: {RAIN}\nNote: dry"})
    )
    with pytest.raises(DataError, match=r"got 'Patient'; did you mean 'user'\?; say so with --role"):
        chats(path)
    said = [*SHORT, ("user", f"{RAIN}\nNote: dry")]
    assert chats(path, roles={"Patient": "user", "Therapist": "assistant"})[0] == [("c1", said)]
    path.write_text(json.dumps({"id": "c1", "turns": [{"Patient": FLAT, "Therapist": TIRED}]}))
    with pytest.raises(DataError, match="--role FIELD=user"):
        chats(path)
    assert chats(path, roles={"Patient": "user", "Therapist": "assistant"})[0] == [("c1", SHORT)]


def test_a_speaker_who_is_not_known_is_asked_for_where_another_would_speak_twice_in_a_row(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"id": "c1", "text": f"User: {FLAT}\nBertha: {TIRED}\nUser: {RAIN}\nBertha: so\nNote: x"})
    )
    with pytest.raises(DataError, match="got 'Bertha'"):
        chats(path)
    said = [*SHORT, ("user", RAIN), ("assistant", "so\nNote: x")]
    assert chats(path, roles={"Bertha": "assistant"})[0] == [("c1", said)]
    path.write_text(json.dumps({"id": "c1", "text": f"Jo: {FLAT}\nBertha: {TIRED}\nKim: {RAIN}\nAI: so"}))
    with pytest.raises(DataError, match="got 'Bertha'"):  # Jo and Kim have the same seat
        chats(path, roles={"Jo": "user", "Kim": "user"})
    path.write_text(json.dumps({"id": "c1", "text": f"User: {FLAT}\nMy boss: rude\nAssistant: {TIRED}"}))
    assert chats(path)[0] == [("c1", [("user", f"{FLAT}\nMy boss: rude"), SHORT[1]])]


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}: once, {SECRET}: again", f"Well now: {SECRET}\n{SECRET}: so"])
def test_lines_with_a_colon_that_no_speaker_says_twice_are_no_labels_and_not_shown(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"id": "c1", "text": text}))
    with pytest.raises(DataError) as refused:
        chats(path)
    assert SECRET not in str(refused.value) and "Well" not in str(refused.value)


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}: once", f"{SECRET}\nUser: a\nAssistant: b", f"{SECRET}\n" * 9])
def test_a_text_without_speakers_is_refused_and_not_quoted(tmp_path, text):
    path = tmp_path / "x.json"
    for name in ("text", "conversation"):
        path.write_text(json.dumps({"id": "c1", name: text}))
        with pytest.raises(DataError) as refused:
            chats(path)
        assert SECRET not in str(refused.value)


def test_lists_of_messages_are_chats_of_their_own(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([openai(), sharegpt(LONG)]))
    assert [said for _, said in chats(path)[0]] == [SHORT, LONG]
    path.write_text(json.dumps(openai(LONG)))
    assert [said for _, said in chats(path)[0]] == [LONG]


def test_both_chats_of_an_arena_are_imported_with_their_chatbots(tmp_path):
    path = tmp_path / "x.jsonl"
    value = {
        "question_id": "q",
        "model_a": "m1",
        "model_b": "m2",
        "conversation_a": openai(),
        "conversation_b": openai(),
    }
    path.write_text(json.dumps(value))
    sessions, _ = import_chat(path, chat=ChatOptions(names={"question_id": "session_id"}))
    assert [(s.session_id, s.chatbot) for s in sessions] == [("q-a", "m1"), ("q-b", "m2")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_with_a_row_a_message_or_a_row_a_chat_is_imported(tmp_path, delimiter):
    path = tmp_path / "x.csv"

    def write(rows):
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    write([{"conversation_id": i, "role": who, "text": text} for i in "ab" for who, text in LONG])
    assert chats(path)[0] == [("a", LONG), ("b", LONG)]
    write([{"id": "a", "messages": repr(openai())}])
    assert chats(path)[0] == [("a", SHORT)]
    write([{"prompt": FLAT, "response": TIRED}])
    assert chats(path)[0] == [("x-1", SHORT)]
    write([{"who": who, "text": text} for who, text in LONG])
    with pytest.raises(DataError, match="--map COLUMN=session_id"):
        chats(path, names={"who": "role"})
    path.write_text(f"role{delimiter}text\nuser\n")
    with pytest.raises(DataError, match="too few cells"):
        chats(path)


def test_parquet_and_a_saved_data_set_are_imported(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [FORMS["sharegpt"], {**FORMS["sharegpt"], "id": "c2"}]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "x.parquet")
    assert [i for i, _ in chats(tmp_path / "x.parquet")[0]] == ["c1", "c2"]
    folder = tmp_path / "saved" / "train"  # as Dataset.save_to_disk of datasets 5 writes it
    folder.mkdir(parents=True)
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    assert chats(folder)[0] == [("c1", SHORT), ("c2", SHORT)]
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"give one of .*train"):
        import_chat(folder.parent)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "x.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="a complete Parquet file"):
        import_chat(cut)


def test_names_of_roles_that_are_not_known_are_never_guessed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "c", "messages": openai([*SHORT, ("moderator", SECRET)])}))
    with pytest.raises(DataError, match=r"messages\[2\]\.role.*--drop-role") as caught:
        import_chat(path)
    assert SECRET not in str(caught.value)
    found, report = chats(path, drop_roles=["moderator"])
    assert found == [("c", SHORT)] and report.dropped == {"messages of role 'moderator'": 1}
    assert chats(path, roles={"moderator": "user"})[0][0][1][2] == ("user", SECRET)
    assert import_chat(path, ImportOptions(), ChatOptions(roles={"system": "assistant", "moderator": "user"}))


NO_CHATS = [
    "{}", '{"id": "c", "title": "x", "score": 3}', '"x"', "3", '{"messages": {"a": 1}}', '{"messages": ["a"]}',
    '{"messages": "[{"}', "[]", "", "[1", '{"messages": [{"role": "user", "content": 3}]}', "{a: 1}",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_CHATS)
def test_what_is_no_chat_is_refused_and_no_hint_leads_back_here(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        import_chat(path)
    assert "x.json" in str(caught.value) and "rlenv import" not in str(caught.value)


def test_a_folder_that_is_no_data_set_and_a_missing_file_are_told(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(DataError, match=path.name):
            import_chat(path)


def test_fields_are_renamed_only_to_fields_that_there_are():
    with pytest.raises(ConfigError, match="did you mean 'content'"):
        ChatOptions(names={"words": "contents"})


def rows(names, *values):
    return [dict(zip(names, row, strict=True)) for row in values]


TALK = rows(("role", "content", "turn"), ("user", FLAT, 1), ("assistant", TIRED, 2), ("user", RAIN, 3))
SENT = ["2024-05-01T09:00:00Z", "2024-05-01T09:00:40+00:00", "2024-05-02T00:01:00Z"]


@pytest.mark.parametrize(
    "messages",
    [
        [TALK[2], TALK[0], TALK[1]],
        [{**message, "Turn": str(message["turn"])} for message in reversed(TALK)],
        [{**openai(LONG)[i], "created_at": SENT[i]} for i in (2, 1, 0)],
        [{**openai(LONG)[i], "timestamp": 1714550400.5 + i} for i in (1, 2, 0)],
    ],
)
def test_messages_out_of_order_are_put_in_the_order_of_their_numbers_or_times(tmp_path, messages):
    (tmp_path / "list.json").write_text(json.dumps([{"id": "c1", "messages": messages}]))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": "c1", **m}) + "\n" for m in messages))
    for file in ("list.json", "rows.jsonl"):
        found, report = chats(tmp_path / file)
        assert found == [("c1", LONG)]
        assert sum(n for what, n in report.changed.items() if "in the order of" in what) == 1


@pytest.mark.parametrize(
    "messages",
    [
        TALK,
        [{**m, "turn": turn} for m, turn in zip(TALK, (1, 2, 1), strict=True)],  # begins again
        [{**m, "turn": turn} for m, turn in zip(TALK, (3, None, 1), strict=True)],
        [{**m, "turn": "", "time": time} for m, time in zip(openai(LONG), ("9:40", "9:20", "9:00"), strict=True)],
        [{**m, "time": time} for m, time in zip(openai(LONG), (SENT[2], "2024-05-01", SENT[0]), strict=True)],
        [{**m, "turn": turn} for m, turn in zip(TALK, (1, 1, 2), strict=True)],  # of each side
    ],
)
def test_messages_without_a_clear_order_of_their_own_keep_that_of_the_file(tmp_path, messages):
    (tmp_path / "list.json").write_text(json.dumps([{"id": "c1", "messages": messages}]))
    found, report = chats(tmp_path / "list.json")
    assert found == [("c1", LONG)] and not any("in the order of" in what for what in report.changed)


def test_numbers_of_each_side_are_an_order_where_the_speakers_field_is_renamed(tmp_path):
    messages = [{"Who": m["role"], "content": m["content"], "turn": t} for m, t in zip(TALK, (1, 1, 2), strict=True)]
    (tmp_path / "list.json").write_text(json.dumps({"id": "c1", "messages": [messages[2], *messages[:2]]}))
    assert chats(tmp_path / "list.json", names={"Who": "role"})[0] == [("c1", LONG)]


@pytest.mark.parametrize("between", ["\n", ",\n", " "])
def test_json_values_one_after_another_are_read_as_a_list_is(tmp_path, between):
    text = between.join(json.dumps({"id": str(i), "messages": openai()}, indent=1) for i in range(3))
    (tmp_path / "several.json").write_text(text)
    assert chats(tmp_path / "several.json")[0] == [(str(i), SHORT) for i in range(3)]
    (tmp_path / "cut.json").write_text(text[:-20])
    with pytest.raises(DataError, match=r"cut.json: expected one JSON object, got broken JSON at line \d+, column"):
        import_chat(tmp_path / "cut.json")


REPLIES = rows(
    ("message_id", "parent_id", "role", "text"),
    *(
        ("a", None, "user", FLAT),
        ("b", "a", "assistant", TIRED),
        ("c", "b", "user", RAIN),
        ("d", "a", "assistant", SECRET),
    ),
)


def test_messages_follow_their_replies_and_other_branches_are_counted(tmp_path):
    chain, tree = [REPLIES[i] for i in (2, 0, 1)], [REPLIES[i] for i in (3, 2, 1, 0)]
    (tmp_path / "chain.json").write_text(json.dumps({"id": "c1", "messages": chain}))
    found, report = chats(tmp_path / "chain.json")
    assert found == [("c1", LONG)] and report.changed["chats put in the order of their messages' replies"] == 1
    (tmp_path / "tree.json").write_text(json.dumps({"id": "c1", "messages": tree}))
    found, report = chats(tmp_path / "tree.json")
    assert found == [("c1", LONG)] and report.dropped["messages on other branches of replies"] == 1


@pytest.mark.parametrize(
    "change",
    [{"parent_id": "elsewhere"}, {"parent_id": "b"}, {"message_id": "a"}, {"message_id": None}],
    ids=["two roots", "a cycle", "an id twice", "an id missing"],
)
def test_messages_whose_replies_form_no_tree_keep_the_order_of_the_file(tmp_path, change):
    messages = [REPLIES[0], {**REPLIES[1], **change}, REPLIES[2]]
    (tmp_path / "list.json").write_text(json.dumps({"id": "c1", "messages": messages}))
    assert chats(tmp_path / "list.json")[0] == [("c1", LONG)]


def test_an_id_of_each_row_is_not_taken_for_that_of_a_chat(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": i, "chat": "x", **m}) + "\n" for i, m in enumerate(openai(LONG))))
    with pytest.raises(DataError, match=r"expected an id that messages share.*--map COLUMN=session_id"):
        import_chat(path)
    assert chats(path, names={"chat": "session_id"})[0] == [("x", LONG)]
    assert len(chats(path, names={"id": "session_id"})[0]) == 3  # who says so gets it
