"""The page in a real browser: a rater at a desk and one on a phone at once, and a server that is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from support.chromium import PATIENCE, Server, browser, until

from sdedit_pl.study.study_database import StudyDatabase

pytestmark = pytest.mark.slow

FITS = (
    "const page = document.documentElement; return page.scrollWidth <= innerWidth && page.scrollHeight <= innerHeight"
)


@pytest.fixture
def server(build: Callable[..., Path]) -> Iterator[Server]:
    serving = Server("study", "serve", f"study={build(comparisons=12, catches=3)}")
    serving.start()
    yield serving
    serving.kill()


class Rater:
    """A rater who answers in a browser and records the answers."""

    def __init__(self, driver: webdriver.Chrome, url: str, press: Callable[[webdriver.Chrome, str], None]) -> None:
        self.driver = driver
        self.press = press
        self.given: list[tuple[str, str, str]] = []
        driver.get(url)

    def element(self, identity: str) -> WebElement:
        return self.driver.find_element(By.ID, identity)

    def begin(self) -> None:
        WebDriverWait(self.driver, PATIENCE).until(lambda _: self.element("start").is_enabled())
        self.element("start").click()

    def ready(self) -> bool:
        return self.element("left").is_displayed() and self.element("left").is_enabled()

    def answer(self) -> None:
        """Answers the trial on the screen, every third one with the image on the left."""
        WebDriverWait(self.driver, PATIENCE).until(lambda _: self.ready())
        side = "left" if len(self.given) % 3 == 1 else "right"
        shown = [self.driver.find_element(By.CSS_SELECTOR, f"#{place} img") for place in ("left", "right")]
        names = [Path(image.get_attribute("src") or "").stem for image in shown]
        before = self.element("count").text
        time.sleep(0.3)  # the page ignores choices right after new images appear
        self.press(self.driver, side)
        self.given.append((*names, side))
        WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: self.element("count").text != before)

    def unsent(self) -> int:
        script = "return Object.keys(localStorage).filter((key) => key.split('/').length === 4).length"
        return self.driver.execute_script(script)

    def finished(self) -> bool:
        return "answers have arrived" in self.element("outcome").text

    def stored_in(self, study: StudyDatabase, number: int) -> list[tuple[str, str, str]]:
        query = (
            "SELECT left_image, right_image, choice FROM answers JOIN trials ON trials.id = trial "
            f"WHERE rater = {number} ORDER BY position"
        )
        return study._rows(query)


def by_key(driver: webdriver.Chrome, side: str) -> None:
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_LEFT if side == "left" else "2")


def by_tap(driver: webdriver.Chrome, side: str) -> None:
    driver.find_element(By.ID, side).click()


def test_two_raters_at_once_and_a_killed_server_lose_and_double_nothing(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "desk") as desk, browser(tmp_path / "phone", phone=True) as phone:
        raters = [Rater(desk, server.url, by_key)]
        raters[0].begin()  # the first to join, so that the raters' numbers are known
        raters.append(Rater(phone, server.url, by_tap))
        raters[1].begin()
        total = int(raters[0].element("count").text.split()[-1])
        killed, restarted, noticed = Event(), Event(), []

        def take_part(rater: Rater) -> None:
            for count in range(total):
                if count == 5:
                    killed.wait(PATIENCE)
                if count == 8:  # three answers without a server
                    until(lambda: rater.element("notice").is_displayed(), "the page to notice")
                    assert rater.unsent() >= 3 and "does not answer" in rater.element("notice").text
                    noticed.append(rater)
                    restarted.wait(PATIENCE)
                rater.answer()
                if count == 10:  # closed and opened again
                    rater.driver.get(server.url)
                    rater.begin()
            until(rater.finished, "all answers to arrive")

        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(take_part, rater) for rater in raters]

            def both_have(count: int) -> bool:
                return all(len(rater.given) >= count for rater in raters) or any(part.done() for part in parts)

            until(lambda: both_have(5), "five answers of each")
            server.kill()
            killed.set()
            until(lambda: len(noticed) == 2 or any(part.done() for part in parts), "three more of each")
            server.start()
            restarted.set()
            until(lambda: both_have(12), "four more of each")
            server.kill()  # in the middle of the raters' requests
            server.start()
            for part in parts:
                part.result()
        assert [rater.unsent() for rater in raters] == [0, 0]
        server.kill()
        with StudyDatabase(Path("study.sqlite")) as study:
            assert study.raters() == {1: total, 2: total}
            assert len(study.answers()) == 2 * total
            for number, rater in enumerate(raters, 1):
                assert rater.stored_in(study, number) == rater.given


def test_a_rater_at_a_desk_needs_no_mouse_and_one_on_a_phone_no_scrolling(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "desk") as desk:
        rater = Rater(desk, server.url, by_key)
        WebDriverWait(desk, PATIENCE).until(lambda _: rater.element("start").is_enabled())
        for keys in (Keys.TAB, Keys.ENTER):
            desk.switch_to.active_element.send_keys(keys)
        WebDriverWait(desk, PATIENCE).until(lambda _: rater.ready())
        assert desk.switch_to.active_element == rater.element("question"), "the new question is what is read out"
        for side in ("left", "right"):
            desk.switch_to.active_element.send_keys(Keys.TAB)
            assert desk.switch_to.active_element == rater.element(side)
    with browser(tmp_path / "phone", phone=True) as phone:
        rater = Rater(phone, server.url, by_tap)
        rater.begin()
        guided = set()
        for _ in range(11):  # into the third of three blocks of five
            WebDriverWait(phone, PATIENCE).until(lambda _: rater.ready())
            assert phone.execute_script(FITS), "all of it is on the screen"
            for side in ("left", "right"):
                size = rater.element(side).size
                wide = 160 if rater.element("guide").is_displayed() else 230
                assert min(size["width"], size["height"]) >= wide, "the images use the width of the screen"
            guided.add(rater.element("guide").is_displayed())
            rater.answer()
        assert guided == {True, False}


def test_a_rater_named_in_the_address_can_continue_in_another_browser(server: Server, tmp_path: Path) -> None:
    address = f"{server.url}?rater=somebody"
    with browser(tmp_path / "one") as driver:
        rater = Rater(driver, address, by_tap)
        rater.begin()
        for _ in range(2):
            rater.answer()
        until(lambda: rater.unsent() == 0, "two answers to be sent")
    with browser(tmp_path / "two") as driver:
        rater = Rater(driver, address, by_tap)
        WebDriverWait(driver, PATIENCE).until(lambda _: rater.element("start").is_enabled())
        assert "(13 to go)" in rater.element("start").text
