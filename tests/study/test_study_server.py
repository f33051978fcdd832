"""The server as a browser meets it: the page, the images, the answers, and what it refuses."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sdedit_pl.study.design import StudyError
from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.server import StudyServer
from sdedit_pl.study.store import Study


class TestPage:
    @pytest.mark.parametrize(
        ("path", "kind"), [("/", "text/html"), ("/study.css", "text/css"), ("/study.js", "text/javascript")]
    )
    def test_it_needs_nothing_from_elsewhere(self, client, path: str, kind: str) -> None:
        reply = client.get(path)
        assert reply.status == 200 and reply.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert not re.search(rb"https?:|//[a-z]+\.|@import", reply.body)
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]

    def test_a_raters_name_in_the_address_is_the_pages_own_business(self, client) -> None:
        assert client.get("/?rater=someone").body == client.get("/").body

    def test_all_that_the_script_looks_for_is_in_the_page(self, client) -> None:
        script, page = client.get("/study.js").body.decode(), client.get("/").body.decode()
        wanted = set(re.findall(r'element\("([\w-]+)"\)', script)) | {"left", "right", "guide"}
        assert len(wanted) > 10 and wanted <= set(re.findall(r'id="([\w-]+)"', page))

    @pytest.mark.parametrize(
        "path", ["/none", "x://[/", "/images/", "/images/../index.html", "/images/00.png", "/page/study.js"]
    )
    def test_there_is_nothing_else(self, client, path: str) -> None:
        assert (client.get(path).status, client.post(path, {}).status) == (404, 404)


class TestTrials:
    def test_questions_are_in_words(self, client) -> None:
        told = client.get("/api/study").json["questions"]
        assert told == {name: {"text": asked.text, "hint": asked.hint} for name, asked in QUESTIONS.items()}

    def test_nothing_tells_whose_an_image_is_or_which_answer_is_right(self, client) -> None:
        replies = [client.post("/api/join", {"rater": f"r{number}"}) for number in range(4)]
        told = b"".join(reply.body for reply in replies).decode()
        for secret in ("ours", "theirs", "others", "alder", "birch", "cedar", "dogwood", "degraded", "correct"):
            assert secret not in told
        for trial in replies[0].json["trials"]:
            assert trial.keys() == {"id", "question", "left", "right", "guide", "answered"}

    def test_images_are_kept_by_the_browser(self, client, served: StudyServer) -> None:
        trial = client.join("a")[0]
        reply = client.get(f"/images/{trial['left']}.png")
        assert reply.body == served.study.image(trial["left"]) and reply.body.startswith(b"\x89PNG")
        assert reply.headers["Content-Type"] == "image/png" and "immutable" in reply.headers["Cache-Control"]

    def test_joining_again_changes_nothing(self, client, served: StudyServer) -> None:
        assert client.join("a") == client.join("a") != client.join("b")
        assert len(served.study.raters()) == 2


class TestAnswers:
    def test_one_is_stored_before_it_is_acknowledged(self, client, served: StudyServer) -> None:
        for count, trial in enumerate(client.join("a"), 1):
            reply = client.answer("a", trial["id"], "left")
            assert (reply.status, reply.json) == (200, {"choice": "left"})
            with Study(served.study.path) as elsewhere:
                assert len(elsewhere.answers()) == count
        assert all(trial["answered"] for trial in client.join("a"))

    def test_sent_again_it_counts_once_and_the_first_stands(self, client, served: StudyServer) -> None:
        trial = client.join("a")[0]["id"]
        replies = [client.answer("a", trial, choice) for choice in ("right", "right", "left")]
        assert [reply.json for reply in replies] == [{"choice": "right"}] * 3
        assert [answer.choice for answer in served.study.answers()] == ["right"]

    def test_no_time_need_be_known(self, client, served: StudyServer) -> None:
        assert client.answer("a", client.join("a")[0]["id"], "left", None).status == 200
        assert served.study.answers()[0].milliseconds is None

    def test_raters_at_once(self, client, served: StudyServer) -> None:
        def take_part(rater: str) -> None:
            for trial in client.join(rater):
                for _ in range(2):
                    assert client.answer(rater, trial["id"], "left").status == 200

        threads = [Thread(target=take_part, args=(f"rater{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(served.study.answers()) == sum(served.study.raters().values()) > 40

    @pytest.mark.parametrize(
        ("change", "status", "message"),
        [
            ({"rater": "nobody"}, 404, "this study does not know you"),
            ({"trial": "0" * 24}, 404, "this study did not ask you that"),
            ({"rater": "a b"}, 400, "a rater is called by 1 to 64 letters"),
            ({"rater": "x" * 65}, 400, "a rater is called by 1 to 64 letters"),
            ({"rater": 7}, 400, "a rater is called by 1 to 64 letters"),
            ({"trial": 7}, 400, "an answer has a trial's id, and left or right as its choice"),
            ({"choice": "both"}, 400, "an answer has a trial's id, and left or right as its choice"),
            ({"choice": ["left"]}, 400, "an answer has a trial's id, and left or right as its choice"),
            ({"milliseconds": -1}, 400, "milliseconds must be a whole number from 0 to"),
            ({"milliseconds": 1e20}, 400, "milliseconds must be a whole number from 0 to"),
            ({"milliseconds": True}, 400, "milliseconds must be a whole number from 0 to"),
            ({"method": "ours"}, 400, "an answer has rater, trial, choice, milliseconds, got rater, trial"),
        ],
    )
    def test_what_is_no_answer_is_refused(
        self, client, served: StudyServer, change: dict[str, Any], status: int, message: str
    ) -> None:
        trial = client.join("a")[0]["id"]
        body = {"rater": "a", "trial": trial, "choice": "left", "milliseconds": 1, **change}
        reply = client.post("/api/answers", body)
        assert reply.status == status and message in reply.json["error"]
        assert served.study.answers() == []

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            (b"{", {"Content-Type": "application/json"}, 400),
            (b"\xff", {"Content-Type": "application/json"}, 400),
            (b"[]", {"Content-Type": "application/json"}, 400),
            (b"rater=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
            (b"{}", {}, 415),
            (b" " * 5000, {"Content-Type": "application/json"}, 413),
            (b"{}", {"Content-Type": "application/json", "Content-Length": "-1"}, 413),
            (b"{}", {"Content-Type": "application/json", "Content-Length": "9" * 5000}, 413),
            (b"[" * 4000, {"Content-Type": "application/json"}, 400),
        ],
    )
    def test_what_is_no_json_is_refused(self, client, body: bytes, headers: dict[str, str], status: int) -> None:
        reply = client.send("POST", "/api/join", body, headers)
        assert reply.status == status and reply.json["error"]

    def test_when_it_cannot_be_stored_the_page_is_asked_to_try_again(
        self, client, served: StudyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        trial = client.join("a")[0]["id"]
        with monkeypatch.context() as patch:
            patch.setattr(Study, "record", full)
            reply = client.answer("a", trial, "left")
        assert reply.status == 503 and "cannot be read or written at the moment" in reply.json["error"]
        assert "database or disk is full" in caplog.text
        assert client.answer("a", trial, "left").status == 200


class TestAddress:
    def test_a_port_in_use_is_refused(self, build: Callable[..., Path]) -> None:
        with socket.socket() as other, Study(build()) as study:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(
                StudyError, match=f"cannot listen at host=127.0.0.1 port={port}: Address already in use"
            ):
                StudyServer(study, "127.0.0.1", port)

    def test_two_servers_do_not_share_a_port(self, served: StudyServer) -> None:
        with pytest.raises(StudyError, match="Address already in use; give another port="):
            StudyServer(served.study, "127.0.0.1", served.port)

    @pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70000)])
    def test_an_address_that_is_none_is_refused(self, build: Callable[..., Path], host: str, port: int) -> None:
        with Study(build()) as study, pytest.raises(StudyError, match=f"cannot listen at host={host} port={port}: "):
            StudyServer(study, host, port)
