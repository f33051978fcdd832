"""The paint page in a real browser: a painter with mouse and keys, one with fingers on a phone, and a killed server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from support.chromium import Server, browser, until
from support.paint_page import save_model_of

from sdedit_pl.data.image_format import PixelFormat

pytestmark = pytest.mark.slow

Place = tuple[float, float]  # in fractions of the picture


@pytest.fixture
def server(desk: Path) -> Iterator[Server]:
    serving = Server("paint", "ckpt=tiny.safetensors", "out=out", "guides=guides", "browser=false", "device=cpu")
    serving.start()
    yield serving
    serving.kill()


class Painter:
    """Somebody who paints in a browser."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.open()

    def open(self) -> None:
        self.driver.get(self.url)
        until(lambda: self.script("return document.body.dataset.ready === 'true'"), "the page")

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def element(self, identity: str) -> WebElement:
        return self.driver.find_element(By.ID, identity)

    def click(self, *identities: str) -> None:
        for identity in identities:
            self.element(identity).click()

    def set(self, identity: str, value: object) -> None:
        """Moves a slider, chooses a colour or types a number."""
        text = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.script(text, self.element(identity), value)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def on_screen(self, place: Place) -> Place:
        """A place of the picture in pixels of the window."""
        box = self.script("const b = $('view').getBoundingClientRect(); return [b.left, b.top]")
        x, y, scale, width, height = self.script("return [view.x, view.y, view.scale, width, height]")
        return box[0] + x + place[0] * width * scale, box[1] + y + place[1] * height * scale

    def drag(self, *places: Place) -> None:
        actions = ActionChains(self.driver, duration=20)
        start, *others = (tuple(map(round, self.on_screen(place))) for place in places)
        actions.w3c_actions.pointer_action.move_to_location(*start)
        actions.click_and_hold()
        for place in others:
            actions.w3c_actions.pointer_action.move_to_location(*place)
        actions.release().perform()

    def touch(self, *fingers: tuple[Place, ...]) -> None:
        """Each finger passes its places, at the same time as the others."""
        paths = [[self.on_screen(place) for place in finger] for finger in fingers]
        for kind, positions in (
            ("touchStart", [path[0] for path in paths]),
            *(("touchMove", list(step)) for step in zip(*(path[1:] for path in paths), strict=True)),
            ("touchEnd", []),
        ):
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(positions)]
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def pixel(self, place: Place, layer: str = "guide") -> tuple[int, ...]:
        text = f"return [...{layer}.ctx.getImageData(arguments[0] * width, arguments[1] * height, 1, 1).data]"
        return tuple(self.script(text, *place))

    def masked(self, place: Place) -> bool:
        return self.pixel(place, "mask")[3] > 128

    def jobs(self) -> list[dict[str, Any]]:
        return self.script("return refresh().then(() => state.jobs)")

    def run_to_the_end(self) -> dict[str, Any]:
        """Presses Enter and waits until the samples are shown."""
        before = len(self.jobs())
        self.press(Keys.ENTER)
        until(lambda: [job["state"] for job in self.jobs()[before:]] == ["done"], "the edit")
        job = self.jobs()[-1]
        shown = f"results/{job['identity']}/"
        until(lambda: self.script("return state.chosen || ''").startswith(shown), "the samples")
        return job

    def samples(self) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, "#samplesrow button")

    def notice(self) -> str:
        return self.element("notice").text

    def saved(self) -> bool:
        return self.script("return document.body.dataset.stored === 'true'")


def quick(painter: Painter) -> None:
    painter.script("document.querySelector('details').open = true")
    for identity, value in (("samples", 2), ("steps", 3), ("t0", 30)):
        painter.set(identity, value)


RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def test_a_painter_at_a_desk_from_the_first_stroke_to_the_next_guide(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "desk") as driver:
        painter = Painter(driver, server.url)
        quick(painter)
        assert "about" in painter.element("time").text, "how long it will take is known before"
        painter.set("front", "#ff0000")
        painter.set("back", "#0000ff")
        painter.drag((0.2, 0.3), (0.8, 0.3))
        painter.press("x")
        painter.drag((0.2, 0.6), (0.8, 0.6))
        assert (painter.pixel((0.5, 0.3)), painter.pixel((0.5, 0.6))) == (RED, BLUE)
        before = painter.script("return brushSize()")
        painter.press("]")
        assert painter.script("return brushSize()") > before
        painter.press("[", "[")
        assert painter.script("return brushSize()") < before

        ActionChains(driver).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
        assert painter.pixel((0.5, 0.6)) == (255, 255, 255, 255)
        painter.click("redo")
        assert painter.pixel((0.5, 0.6)) == BLUE
        painter.press("e")
        painter.drag((0.2, 0.6), (0.8, 0.6))
        assert painter.pixel((0.5, 0.6)) == (255, 255, 255, 255), "the eraser restores the canvas"
        painter.press("f")
        painter.drag((0.5, 0.9))
        assert painter.pixel((0.1, 0.9)) == BLUE and painter.pixel((0.5, 0.3)) == RED
        painter.press("i")
        painter.drag((0.5, 0.3))
        assert painter.element("front").get_attribute("value") == "#ff0000"

        painter.press("m", "b")
        painter.drag((0.3, 0.3), (0.7, 0.3))
        assert painter.masked((0.5, 0.3)) and not painter.masked((0.5, 0.8))
        painter.click("invert")
        assert not painter.masked((0.5, 0.3)) and painter.masked((0.5, 0.8))
        painter.click("invert")
        painter.set("feather", 50)
        assert painter.element("soft").is_selected()
        job = painter.run_to_the_end()
        assert job["settings"]["kind"] == "strength" and len(job["samples"]) == 2
        greys = np.unique(np.array(Image.open(f"out/{job['identity']}/strength.png")))
        assert len(greys) > 20 and (greys[0], greys[-1]) == (0, 255)

        painter.samples()[1].click()
        shown = painter.script(
            "return [state.chosen, $('save').getAttribute('href'), $('record').getAttribute('href')]"
        )
        assert shown[0] == shown[1] == f"results/{job['identity']}/{job['samples'][1]}"
        record = painter.script("return fetch(arguments[0]).then((reply) => reply.text())", shown[2])
        assert yaml.safe_load(record)["seed"] == job["settings"]["seed"]
        painter.set("split", 20)
        assert "20%" in (painter.element("compare").get_attribute("style") or "")

        painter.click("use")
        until(lambda: not painter.element("compare").is_displayed(), "the sample to become the guide")
        painter.click("windows")
        assert "overlapping windows" in painter.element("scopehint").text
        painter.click("whole")
        painter.click("lock")
        again = painter.run_to_the_end()
        sample, guide = (Image.open(f"out/{job['identity']}/{name}") for name in (job["samples"][1], "guide.png"))
        assert again["settings"]["seed"] == job["settings"]["seed"]
        assert again["settings"]["match_colours"] and not job["settings"]["match_colours"]
        assert np.array_equal(np.array(Image.open(f"out/{again['identity']}/guide.png")), np.array(sample))
        assert guide.size != sample.size, "only an unpainted sample is sent at its own size"

        until(painter.saved, "the painting to be kept")
        marks = painter.pixel((0.5, 0.3)), painter.masked((0.5, 0.3))
        painter.open()
        assert (painter.pixel((0.5, 0.3)), painter.masked((0.5, 0.3))) == marks
        history = driver.find_elements(By.CSS_SELECTOR, "#history button")
        assert len(history) == 2
        history[1].click()
        painter.click("restore")
        until(lambda: painter.pixel((0.1, 0.9)) == BLUE, "the earlier painting")
        assert painter.script("return number('samples')") == 2


def test_an_object_and_a_part_of_a_photo(server: Server, tmp_path: Path) -> None:
    photo = np.zeros((900, 1400, 3), dtype=np.uint8) + np.linspace(0, 255, 1400).astype(np.uint8)[None, :, None]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.new("RGB", (200, 200), "red").save(tmp_path / "object.png")
    with browser(tmp_path / "desk") as driver:
        painter = Painter(driver, server.url)
        quick(painter)
        painter.element("file").send_keys(str(tmp_path / "photo.png"))
        until(lambda: painter.script("return width") == 1400, "the photo")
        assert not painter.element("run").is_enabled() and "Paint the mask" in painter.element("scopehint").text

        painter.script("opening = 'object'")
        painter.element("file").send_keys(str(tmp_path / "object.png"))
        until(lambda: painter.script("return !!state.object"), "the object")
        painter.drag((0.5, 0.5), (0.3, 0.4))
        corner = painter.script(
            "const o = state.object; return [(o.x + 100 * o.scale) / width, (o.y + 100 * o.scale) / height]"
        )
        painter.drag(tuple(corner), (corner[0] + 0.05, corner[1] + 0.05))
        painter.set("objectturn", 45)
        painter.click("place")
        assert painter.pixel((0.3, 0.4)) == RED and painter.masked((0.3, 0.4))
        assert painter.script("return state.regions.length") == 1 and "about" in painter.element("time").text

        job = painter.run_to_the_end()
        assert job["settings"]["focus"] is True
        guide, result = (
            np.array(Image.open(f"out/{job['identity']}/{name}").convert("RGB")).astype(int)
            for name in ("guide.png", job["samples"][0])
        )
        assert result.shape == (900, 1400, 3)
        changed = abs(result - guide).sum(2)
        assert changed[360, 420] > 0 and not changed[:, 900:].any()

        painter.click("close", "mask", "clear")
        painter.press("r")
        painter.drag((0.6, 0.5), (0.8, 0.8))
        job = painter.run_to_the_end()
        x, y, width, height = job["settings"]["focus"]
        assert abs(x - 840) < 10 and abs(y - 450) < 10 and abs(width - 280) < 10 and abs(height - 270) < 10


def test_a_16_bit_rectangle_keeps_its_values(desk: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    save_model_of(1, PixelFormat("uint16", range=(0.0, 4000.0)))
    server = request.getfixturevalue("server")
    values = np.random.default_rng(0).integers(900, 1100, (24, 16)).astype(np.uint16)
    np.save(tmp_path / "scan.npy", values)
    with browser(tmp_path / "desk") as driver:
        painter = Painter(driver, server.url)
        quick(painter)
        assert painter.element("rule").text == "Paint sets band 0; black and white are the ends of the shown range."
        assert painter.script("return [width, height, fitting()]") == [16, 24, True], "a blank canvas"
        painter.element("file").send_keys(str(tmp_path / "scan.npy"))
        until(lambda: "scan" in (painter.script("return state.file") or ""), "the file")
        painter.set("front", "#ff0000")
        painter.drag((0.3, 0.3), (0.7, 0.3))
        assert painter.pixel((0.5, 0.3)) == (76, 76, 76, 255), "one band is shown, so that paint is grey"
        painter.press("m")
        painter.drag((0.3, 0.7), (0.7, 0.7))
        until(painter.saved, "the painting to be kept")
        painter.open()
        assert painter.pixel((0.5, 0.3)) == (76, 76, 76, 255) and painter.masked((0.5, 0.7))
        job = painter.run_to_the_end()
        assert painter.element("save").text == "Save NPY"
        until(lambda: painter.script("return [$('after').naturalWidth, $('before').naturalWidth]") == [16, 16], "both")
        guide, result = (np.load(f"out/{job['identity']}/{name}") for name in (job["guide"], job["samples"][0]))
        assert guide[7, 8] == round(76 / 255 * 4000) and (guide != values).mean() < 0.5 and result.dtype == np.uint16
        assert np.array_equal(result[:10], guide[:10]) and not np.array_equal(result, guide), "only the mask changes"
        painter.click("use")
        until(lambda: painter.script("return state.file").endswith(job["samples"][0]), "the sample as a guide")
        again = painter.run_to_the_end()
        assert np.array_equal(np.load(f"out/{again['identity']}/{again['guide']}"), result)
        painter.script("document.querySelector('#history button:last-child').click()")
        painter.click("restore")
        until(lambda: painter.script("return state.file").endswith(job["guide"]), "the earlier painting")
        (tmp_path / "text.npy").write_text("text")
        painter.element("file").send_keys(str(tmp_path / "text.npy"))
        until(lambda: "cannot read image text.npy: it is not an image" in painter.notice(), "the message")


def test_a_cancelled_edit_and_a_killed_server_lose_nothing(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "desk") as driver:
        painter = Painter(driver, server.url)
        quick(painter)
        painter.drag((0.2, 0.3), (0.8, 0.3))
        marks = painter.pixel((0.5, 0.3))
        painter.set("steps", 1000)
        painter.set("samples", 16)
        painter.script("run(); run()")
        until(lambda: len(painter.samples()) == 16, "the first estimates")
        assert len(painter.jobs()) == 1, "a second press before the server's reply is no second edit"
        assert painter.element("after").is_displayed(), "an estimate is shown large"
        painter.click("run")
        until(lambda: not painter.script("return !!state.job"), "the cancellation")
        job = painter.jobs()[-1]
        assert job["state"] == "cancelled" and job["done"] < job["total"]

        painter.press(Keys.ENTER)
        until(lambda: len(painter.samples()) == 16, "the first estimates")
        until(painter.saved, "the painting to be kept")
        server.kill()
        until(lambda: "does not answer" in painter.notice(), "the page to notice")
        server.start()
        until(lambda: "Run it again" in painter.notice(), "the page to say what happened")
        assert [job["state"] for job in painter.jobs()] == ["cancelled", "interrupted"]
        assert painter.pixel((0.5, 0.3)) == marks
        quick(painter)
        assert len(painter.run_to_the_end()["samples"]) == 2

        server.kill()
        painter.press(Keys.ENTER)
        until(lambda: "Your painting is kept here" in painter.notice(), "the page to notice")


def test_a_painter_on_a_phone_uses_fingers(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "phone", phone=True) as driver:
        painter = Painter(driver, server.url)
        quick(painter)
        assert painter.script("return document.documentElement.scrollWidth <= innerWidth")
        buttons = "[...document.querySelectorAll('nav button, #run')].filter((button) => button.offsetHeight)"
        small = f"return {buttons}.filter((button) => button.offsetHeight < 34).length"
        assert painter.script(small) == 0, "buttons are large enough for a finger"
        painter.set("front", "#ff0000")
        painter.touch(((0.2, 0.3), (0.5, 0.3), (0.8, 0.3)))
        assert painter.pixel((0.5, 0.3)) == RED and painter.script("return scrollY") == 0
        before = painter.script("return view.scale")
        painter.touch(((0.4, 0.6), (0.3, 0.6), (0.2, 0.6)), ((0.6, 0.6), (0.7, 0.6), (0.8, 0.6)))
        assert painter.script("return view.scale") > 1.5 * before
        assert painter.pixel((0.4, 0.6)) == (255, 255, 255, 255), "two fingers do not paint"
        # Chromium ignores a tap in the first moments after a gesture of two fingers.
        until(lambda: painter.click("fit") or painter.script("return view.scale") < before * 1.1, "the whole picture")
        painter.click("mask")
        painter.touch(((0.3, 0.3), (0.5, 0.3), (0.7, 0.3)))
        assert painter.masked((0.5, 0.3))
        job = painter.run_to_the_end()
        assert job["settings"]["kind"] == "mask"
        assert painter.element("after").is_displayed() and painter.script(
            "return document.documentElement.scrollWidth <= innerWidth"
        )
