"""The page in a real browser: Chromium through playwright, where both are there (CHROMIUM names its program)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_runs
import pytest

from optima_lite.outlets.contents import contents
from optima_lite.outlets.page import page
from optima_lite.runs.folder import read_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        try:
            chromium = play.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield chromium
        chromium.close()


class Looked:
    """A page in a browser; wrong: whatever it complained about, and what it asked for besides itself."""

    def __init__(self, browser: Any, folders: list[Path], file: Path, *, width: int = 1280, scheme: str = "light"):
        file.write_text(page(contents([read_run(folder) for folder in folders])), encoding="utf-8")
        self.tab = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        self.wrong: list[str] = []
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)
        self.tab.on("request", lambda asked: None if asked.url == self.address else self.wrong.append(asked.url))
        self.address = file.resolve().as_uri()

    def at(self, hash: str) -> Looked:
        self.tab.goto("about:blank")
        self.tab.goto(self.address + hash)
        return self.settled()

    def settled(self) -> Looked:
        while not self.value("document.documentElement.dataset.ready !== undefined"):
            self.tab.wait_for_timeout(20)
        self.tab.wait_for_timeout(300)
        return self

    def value(self, script: str) -> Any:
        return self.tab.evaluate(script)

    @property
    def hash(self) -> str:
        return str(self.value("location.hash"))

    @property
    def said(self) -> str:
        return str(self.value("document.querySelector('#detail').textContent"))


def test_hostile_texts_are_shown_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "hostile", hostile=True)
    looked = Looked(browser, [folder], tmp_path / "page.html")
    for number in range(6, 6 + len(made_runs.HOSTILE)):
        looked.at(f"#view=dialogues&at={number}")
        assert looked.value("document.title") == "hostile"
        assert looked.value("document.querySelectorAll('#detail img, #detail script').length") == 0
    assert made_runs.HOSTILE[0] in looked.at("#view=dialogues&at=6").said
    assert "\\u202eturned round\\u202c" in looked.at("#view=dialogues&at=8").said
    looked.at("#view=dialogues&at=13")  # a line of 100,000 characters: its beginning, in its place
    assert looked.value("document.documentElement.scrollWidth") <= 1280
    assert (
        looked.value("Math.max(...[...document.querySelectorAll('.said')].map((one) => one.textContent.length))")
        == 20_000
    )
    assert looked.wrong == []


def test_keys_move_and_the_address_leads_back(browser: Any, tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", held_out=30)
    looked = Looked(browser, [folder], tmp_path / "page.html").at("")
    for key in ("2", "j", "j", "ArrowDown", "k"):
        looked.tab.keyboard.press(key)
        looked.tab.wait_for_timeout(50)
    assert looked.hash == "#view=dialogues&set=iteration_0_sampled&beside=untrained_sampled&at=2"
    assert looked.value("document.querySelector('.row[aria-selected=true]').textContent").startswith(
        "✓ What is the home of Mira 2?"
    )
    before = looked.said
    looked.tab.reload()
    assert looked.settled().said == before
    looked.tab.keyboard.press("3")
    looked.tab.wait_for_timeout(100)
    assert "chosen" in looked.said
    assert "rejected" in looked.said
    looked.tab.go_back()
    looked.tab.wait_for_timeout(100)
    assert looked.said == before
    assert looked.wrong == []


def test_filters_and_search_show_what_passes(browser: Any, tmp_path: Path) -> None:
    folder = made_runs.make(tmp_path / "run", held_out=30)
    looked = Looked(browser, [folder], tmp_path / "page.html")
    status = "document.querySelector('#status').textContent"
    where = "#view=dialogues&set=iteration_0_sampled"
    for wanted, count in (
        ("", 30),
        ("&right=right", 10),
        ("&right=partly", 10),
        ("&text=mira+2", 12),
        ("&text=nobody", 0),
    ):
        looked.at(where + wanted)
        assert looked.value(status) == f"{count} of 30"
    assert looked.at("#view=dialogues&set=training_0&ending=truncated").value(status) == "0 of 12"
    assert looked.at("#view=dialogues&set=training_0&imitated=1").value(status) == "4 of 12"
    assert looked.wrong == []


def test_two_runs_stand_side_by_side(browser: Any, tmp_path: Path) -> None:
    folders = [made_runs.make(tmp_path / name, held_out=5) for name in ("one", "two")]
    looked = Looked(browser, folders, tmp_path / "page.html").at("#view=dialogues")
    assert looked.value("[...document.querySelectorAll('#detail h3')].map((one) => one.textContent)") == [
        "one: iteration 0, sampled",
        "two: iteration 0, sampled",
    ]
    assert looked.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_holds_every_view(browser: Any, tmp_path: Path, scheme: str) -> None:
    folder = made_runs.make(tmp_path / "run", made_runs.FOUR)
    looked = Looked(browser, [folder], tmp_path / "page.html", width=400, scheme=scheme)
    for view in ("overview", "dialogues", "trees", "pairs"):
        looked.at(f"#view={view}")
        assert looked.value("document.documentElement.scrollWidth") == 400
        assert looked.value("document.querySelector('#detail').textContent.length") > 50
    assert looked.wrong == []


def test_of_ten_thousand_long_dialogues_only_what_is_seen_is_there(browser: Any, tmp_path: Path) -> None:
    large = {"held_out": 400, "training": 1150, "samples": 8, "length": 180, "facts": 700, "trees": 20, "nodes": 40}
    folder = made_runs.make(tmp_path / "big", **large)
    looked = Looked(browser, [folder], tmp_path / "page.html").at("#view=dialogues&set=training_0")
    assert looked.value("document.querySelectorAll('.row').length") < 40
    assert looked.value("document.querySelectorAll('*').length") < 1000
    assert looked.value("unpacked.size") <= 2  # one block of dialogues, one of facts
    looked.tab.keyboard.press("End")
    looked.tab.wait_for_timeout(200)
    assert looked.hash.endswith("at=9199")
    assert looked.value("unpacked.size") <= 4
    assert looked.wrong == []
