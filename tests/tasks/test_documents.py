"""A folder of texts: what is a fact in it, and what is said of one that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from optima_lite.errors import DataError
from optima_lite.settings.task import TaskSettings
from optima_lite.tasks.documents import facts_in
from optima_lite.tasks.questions import facts


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        facts_in(str(folder))
    return f"{caught.value.where}: {caught.value.what}".replace(f"{folder}", ".")


def test_paragraphs_and_rows_by_the_names_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("\ufeffOakton is a town.\nIt is old.\n\n \t\nMira lives there.\n", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.md").write_text("Mira lives there.\r\n\r\nTess is her mother.")
    (tmp_path / "d.jsonl").write_text('{"title": "Oakton", "text": "A town."}\n\n{"text": "Bare."}\n{"text": ""}\n')
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_bytes(b"\0")
    (tmp_path / ".hidden").write_bytes(b"\0")
    assert facts_in(str(tmp_path)) == (
        "Oakton is a town. It is old.",
        "Mira lives there.",
        "Oakton: A town.",
        "Bare.",
        "Tess is her mother.",
    )


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == ".: no such folder"
    assert refused(tmp_path) == ".: nothing to look up in this folder"
    (tmp_path / "empty.txt").write_text(" \n\n")
    assert refused(tmp_path) == ".: nothing to look up in this folder"
    assert refused(tmp_path / "empty.txt") == ".: a file, not a folder"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("paper.pdf", b"%PDF", "./paper.pdf: neither text nor rows"),
        ("a.txt", b"\xff\xfe\x00", "./a.txt: not UTF-8 text"),
        ("a.txt", b"ELF\0\0", "./a.txt: binary data, not text"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "./a.jsonl:2: a list where a JSON object is needed"),
        ("a.jsonl", b'{"body": "x"}\n', "./a.jsonl:1: no field 'text'; the keys there are body"),
        ("a.jsonl", b'{"text": {"a": 1}}\n', "./a.jsonl:1: text holds an object where text is needed"),
        ("a.jsonl", b"\x00\x01", "./a.jsonl:1: not JSON: Expecting value at column 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert refused(tmp_path) == said


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert refused(tmp_path) == "./a.txt: a device, a pipe or a dead link, not a file"


def test_the_facts_of_a_task_are_those_of_all_its_splits(tmp_path: Path) -> None:
    rows = [f'{{"question": "q{k}", "answers": "a", "context": ["fact {k}", "known"]}}' for k in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    settings = TaskSettings(name="jsonl", path=str(tmp_path / "rows.jsonl"))
    assert sorted(facts(settings, "task")) == sorted({f"fact {k}" for k in range(20)} | {"known"})
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("elsewhere")
    assert facts(settings, str(tmp_path / "texts")) == ("elsewhere",)
