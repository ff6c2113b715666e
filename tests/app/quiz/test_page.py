"""The page of the quiz in a browser: it is answered, keeps its answers and saves them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparsteer.app.quiz.writing import quiz_page
from sparsteer.steering.recognition.quiz import Pair, Question, Quiz, Text

from ..pages_from_disk import chromium_without_window, quiet_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def quiz(n_questions: int) -> Quiz:
    shown = Text(("the", " <b>sun</b>", " is"), 1, (0.0, 1.0, 0.2))
    texts = Text(("a", " sun"), 1), Text(("a", " moon"), 1)
    pairs = tuple(Pair(texts, "A", "top", "near_miss") for _ in range(3))
    return Quiz(tuple(Question(n, (shown,), pairs) for n in range(n_questions)), 9, 0)


@pytest.fixture
def page() -> "Iterator[Page]":
    with chromium_without_window() as browser, quiet_page(browser, "file:", "blob:") as page:
        yield page


def test_answers_are_given_kept_and_saved(page: "Page", tmp_path: Path) -> None:
    made = quiz(2)
    (tmp_path / "quiz.html").write_text(quiz_page(made), encoding="utf-8")
    page.goto((tmp_path / "quiz.html").as_uri())
    assert page.locator("#shown .marked").inner_text().strip() == "<b>sun</b>"
    assert page.locator("fieldset").count() == 3
    page.keyboard.press("a")
    page.keyboard.press("B")
    page.check("input[name=pair-2][value=A]")
    assert "1 of 2" in (page.text_content("#progress") or "")
    page.click("#next")
    page.keyboard.press("b")
    page.reload()
    assert "Question 2" in (page.text_content("#title") or "") or page.is_enabled("#next")
    with page.expect_download() as download:
        page.click("#save")
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved["quiz"] == made.identity
    assert saved["answers"] == {"1": ["A", "B", "A"], "2": ["B", None, None]}
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
