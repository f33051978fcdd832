"""The study's web server: the page, its images, answers, and refused requests."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.study_database import StudyDatabase


class TestPage:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [("/", "text/html"), ("/static/study.css", "text/css"), ("/static/study.js", "text/javascript")],
    )
    def test_it_loads_nothing_from_other_sites(self, browser, path: str, kind: str) -> None:
        reply = browser.get(path)
        assert reply.status_code == 200 and reply.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert not re.search(r"https?:|//[a-z]+\.|@import", reply.text)
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["Cache-Control"] == "no-cache"

    def test_it_contains_the_questions_in_words_the_same_for_every_rater(self, browser, study: StudyDatabase) -> None:
        page = browser.get("/").text
        assert browser.get("/?rater=someone").text == page
        content = re.search(r'<script id="study" type="application/json">(.*?)</script>', page)
        assert content is not None and json.loads(content[1]) == {
            "id": study.settings["id"],
            "questions": {name: {"text": asked.text, "hint": asked.hint} for name, asked in QUESTIONS.items()},
        }

    def test_it_contains_all_elements_that_the_script_uses(self, browser) -> None:
        script, page = browser.get("/static/study.js").text, browser.get("/").text
        wanted = set(re.findall(r'element\("([\w-]+)"\)', script)) | {"left", "right", "guide"}
        assert len(wanted) > 10 and wanted <= set(re.findall(r'id="([\w-]+)"', page))

    @pytest.mark.parametrize("path", ["/none", "/images/", "/images/00.png", "/static/../index.html.jinja", "/static"])
    def test_nothing_else_is_served(self, browser, path: str) -> None:
        assert browser.get(path).status_code == 404


class TestTrials:
    def test_nothing_reveals_a_method_or_a_correct_answer(self, browser) -> None:
        trials = [browser.join(f"r{number}") for number in range(4)]
        text = json.dumps(trials)
        for secret in ("ours", "theirs", "others", "alder", "birch", "cedar", "dogwood", "degraded", "correct"):
            assert secret not in text
        for trial in trials[0]:
            assert trial.keys() == {"id", "question", "left", "right", "guide", "answered"}

    def test_browsers_may_cache_images(self, browser, study: StudyDatabase) -> None:
        identity = browser.join("a")[0]["left"]
        reply = browser.get(f"/images/{identity}.png")
        assert reply.content == study.image(identity) and reply.content.startswith(b"\x89PNG")
        assert reply.headers["Content-Type"] == "image/png" and "immutable" in reply.headers["Cache-Control"]

    def test_images_do_not_wait_for_a_locked_database(self, browser, study: StudyDatabase) -> None:
        identity = browser.join("a")[0]["left"]
        with closing(sqlite3.connect(study.path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
            other.execute("BEGIN EXCLUSIVE")
            waiting = pool.submit(browser.join, "b")
            time.sleep(0.5)
            assert browser.get(f"/images/{identity}.png").status_code == 200 and not waiting.done()
            other.execute("ROLLBACK")
            assert waiting.result()


class TestAnswers:
    def test_an_answer_is_on_disk_before_it_is_acknowledged(self, browser, study: StudyDatabase) -> None:
        for count, trial in enumerate(browser.join("a"), 1):
            reply = browser.answer("a", trial["id"], "left")
            assert (reply.status_code, reply.json()) == (200, {"choice": "left"})
            with StudyDatabase(study.path) as elsewhere:
                assert len(elsewhere.answers()) == count
        assert all(trial["answered"] for trial in browser.join("a"))

    def test_the_first_answer_stands_and_its_time_is_optional(self, browser, study: StudyDatabase) -> None:
        trial = browser.join("a")[0]["id"]
        replies = [browser.answer("a", trial, choice, None) for choice in ("right", "left")]
        assert [reply.json() for reply in replies] == [{"choice": "right"}] * 2
        assert [(answer.choice, answer.milliseconds) for answer in study.answers()] == [("right", None)]

    @pytest.mark.parametrize(
        ("change", "status", "message"),
        [
            ({"rater": "nobody"}, 404, "this study does not know you"),
            ({"trial": "0" * 24}, 404, "this study did not ask you that"),
            ({"rater": "a b"}, 400, "rater: "),
            ({"rater": "a\n"}, 400, "rater: "),
            ({"rater": "x" * 65}, 400, "rater: "),
            ({"rater": 7}, 400, "rater: "),
            ({"trial": 7}, 400, "trial: "),
            ({"choice": "both"}, 400, "choice: Input should be 'left' or 'right'"),
            ({"choice": ["left"]}, 400, "choice: "),
            ({"milliseconds": -1}, 400, "milliseconds: Input should be greater than or equal to 0"),
            ({"milliseconds": 1e20}, 400, "milliseconds: "),
            ({"milliseconds": True}, 400, "milliseconds: "),
            ({"method": "ours"}, 400, "method: Extra inputs are not permitted"),
        ],
    )
    def test_an_invalid_answer_is_refused(
        self, browser, study: StudyDatabase, change: dict[str, Any], status: int, message: str
    ) -> None:
        trial = browser.join("a")[0]["id"]
        body = {"rater": "a", "trial": trial, "choice": "left", "milliseconds": 1, **change}
        reply = browser.post("/api/answers", json=body)
        assert reply.status_code == status and message in reply.json()["error"]
        assert study.answers() == []

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"{", "application/json", 400),
            (b"\xff", "application/json", 400),
            (b"[]", "application/json", 400),
            (b"[" * 4000, "application/json", 400),
            (b" " * 5000, "application/json", 413),
            (b"rater=a", "application/x-www-form-urlencoded", 415),
            (b"{}", "", 415),
        ],
    )
    def test_a_body_that_is_not_json_is_refused(self, browser, body: bytes, kind: str, status: int) -> None:
        reply = browser.post("/api/join", content=body, headers={"Content-Type": kind})
        assert reply.status_code == status and reply.json()["error"]

    def test_the_page_retries_an_answer_that_cannot_be_stored(
        self, browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        trial = browser.join("a")[0]["id"]
        with monkeypatch.context() as patch:
            patch.setattr(StudyDatabase, "record", full)
            reply = browser.answer("a", trial, "left")
        assert reply.status_code == 503 and "cannot be read or written at the moment" in reply.json()["error"]
        assert "database or disk is full" in caplog.text
        assert browser.answer("a", trial, "left").status_code == 200


class TestHost:
    """A page of another site can reach the server under its own name by DNS rebinding, but not read from it."""

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "192.168.1.7:8000", "[::1]:8000", "LOCALHOST", "study.example.org", socket.gethostname()]
    )
    def test_addresses_and_known_names_are_served(self, browser, host: str) -> None:
        assert browser.get("/", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
    def test_other_names_are_refused(self, browser, host: str) -> None:
        reply = browser.get("/", headers={"Host": host})
        assert reply.status_code == 400 and f"names=[{host.partition(':')[0]}]" in reply.json()["error"]
