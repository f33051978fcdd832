"""The paint page's server: edits, their queue and cancellation, what survives a restart, and refused requests."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.array_files import dicom, geotiff, nifti
from support.paint_page import Page, data_url, mask, painting, save_model_of
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import load_described, save_denoiser
from sdedit_pl.cli import main
from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.data.value_decoding import png_file, read_values
from sdedit_pl.paint import paint_jobs, paint_server
from sdedit_pl.paint.paint_server import access_token, paint_app


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Edits wait for this event after their first evaluation."""
    event, watch = threading.Event(), paint_jobs.Job.watch

    def watch_and_wait(job: paint_jobs.Job, t: Any, x_0: Any) -> None:
        watch(job, t, x_0)
        event.wait(120)

    monkeypatch.setattr(paint_jobs.Job, "watch", watch_and_wait)
    return event


UINT16 = {"dtype": "uint16", "range": (0.0, 4000.0)}


class TestEdit:
    @pytest.mark.parametrize(
        "area",
        [{}, {"kind": "mask"}, {"kind": "strength"}, {"kind": "mask", "focus": True}, {"focus": [4, 4, 30, 20]}],
        ids=str,
    )
    def test_the_command_line_repeats_it_to_the_bit(self, page: Page, area: dict[str, Any]) -> None:
        identity = page.submit(**area, **({"area": data_url(mask())} if "kind" in area else {}))
        job = page.finished(identity)
        assert job["done"] == job["total"] == 6
        assert (job["state"], job["samples"]) == ("done", ["guide_seed5.png", "guide_seed6.png"]), job["message"]
        assert main(["edit", f"config=out/{identity}/edit.yaml", "out=again", "device=cpu"]) == 0
        for name in job["samples"]:
            assert page.get(f"results/{identity}/{name}").content == Path("again", name).read_bytes()

    def test_windows_show_estimates_and_repeat_on_the_command_line(self, page: Page) -> None:
        identity = page.submit(windows=True, match_colours=True)
        job = page.finished(identity)
        assert (job["state"], job["done"], job["windows"]) == ("done", job["total"], 16), job["message"]
        assert main(["edit", f"config=out/{identity}/edit.yaml", "out=again", "device=cpu"]) == 0
        with Image.open(Path("again", job["samples"][0])) as sample:
            assert sample.size == (40, 40)
        assert (
            page.get(f"results/{identity}/{job['samples'][0]}").content == Path("again", job["samples"][0]).read_bytes()
        )
        assert "estimates" in page.get(f"api/edits/{identity}/events").text
        assert page.request_edit(windows=True, focus=True).status_code == 400

    def test_labels(self, desk: Path, open_jobs: Callable) -> None:
        model = tiny_config("data.path=unused", "data.size=16", "condition.classes=[cat,dog]").model
        save_denoiser("tiny.safetensors", build_denoiser(model), model)
        page = Page(paint_app(open_jobs(), Path("guides")), base_url="http://localhost:7860/")
        assert page.get("api/state").json()["model"]["labels"] == ["cat", "dog"]
        job = page.finished(page.submit(label="cat", guidance=2))
        assert (job["state"], job["windows"]) == ("done", 2), job["message"]
        assert main(["edit", f"config=out/{job['identity']}/edit.yaml", "out=again", "device=cpu"]) == 0
        for name in job["samples"]:
            assert page.get(f"results/{job['identity']}/{name}").content == Path("again", name).read_bytes()
        assert "label=dot is unknown; did you mean dog" in page.request_edit(label="dot").text

    def test_the_guidance_that_the_training_chose(self, desk: Path, open_jobs: Callable) -> None:
        denoiser, description = load_described("tiny.safetensors")
        for name, checkpoint in (("tiny", {"guidance": 2}), ("tiny-early", {})):
            save_denoiser(f"{name}.safetensors", denoiser, description.model, {"config": {"checkpoint": checkpoint}})
        page = Page(paint_app(open_jobs(), Path("guides")), base_url="http://localhost:7860/")
        assert page.get("api/state").json()["model"]["guidance"] == 2
        guided, plain = page.finished(page.submit()), page.finished(page.submit(guidance=1))
        assert (guided["state"], guided["windows"], plain["windows"]) == ("done", 2, 1), guided["message"]
        assert yaml.safe_load(Path("out", guided["identity"], "edit.yaml").read_text())["guidance"] == 2

    def test_events_show_estimates_and_the_end(self, page: Page) -> None:
        identity = page.submit()
        text = page.get(f"api/edits/{identity}/events").text
        events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
        last = events[-1]
        assert last["job"]["state"] == "done" and last["job"]["done"] == last["job"]["total"] == 6
        assert len(last["estimates"]) == 2 and last["estimates"][0].startswith("data:image/png;base64,")

    def test_a_restarted_server_has_the_earlier_edits(self, page: Page, open_jobs: Callable) -> None:
        done, killed = page.submit(), page.submit()
        page.finished(done)
        page.finished(killed)
        file = Path("out", killed, "job.json")
        file.write_text(file.read_text().replace('"done",', '"running",'))
        Path("out", killed, "edit.yaml").unlink()
        Path("out", "damaged").mkdir()
        Path("out", "damaged", "job.json").write_text("{")
        again = Page(paint_app(open_jobs(), Path("guides")), base_url="http://localhost:7860/")
        jobs = again.get("api/state").json()["jobs"]
        assert [(job["identity"], job["state"]) for job in jobs] == [(done, "done"), (killed, "interrupted")]
        assert again.get(f"results/{done}/guide_seed5.png").status_code == 200
        assert again.get(f"results/{killed}/guide.png").status_code == 200

    def test_it_fails_in_one_message_without_the_checkpoint(self, page: Page) -> None:
        Path("tiny.safetensors").rename("away.safetensors")
        job = page.finished(page.submit())
        assert job["state"] == "failed" and "tiny.safetensors is gone; put it back" in job["message"]
        Path("away.safetensors").rename("tiny.safetensors")
        assert page.finished(page.submit())["state"] == "done"


class TestOtherData:
    """Models of values that are no 8-bit pictures, 24 x 16 pixels."""

    @pytest.fixture
    def open_page(self, desk: Path, open_jobs: Callable) -> Callable[..., Page]:
        def open_page(channels: int, **format: Any) -> Page:
            save_model_of(channels, PixelFormat(**format))
            return Page(paint_app(open_jobs(), Path("guides")), base_url="http://localhost:7860/")

        return open_page

    @pytest.mark.parametrize(
        ("name", "make", "values", "format", "painted"),
        [
            ("scan.nii.gz", lambda values: gzip.compress(nifti(values)), np.uint16(2000), UINT16, [800]),
            (
                "scan.dcm",
                lambda values: dicom(values[..., 0], WindowCenter=2000.5, WindowWidth=3001),
                np.uint16(2000),
                UINT16,
                [1100],
            ),
            (
                "field.tif",
                geotiff,
                np.float32(0.25),
                {"dtype": "float32", "range": (0.0, 0.5), "shown": (2, 1, 3), "bands": ("a", "b", "c", "d")},
                [0.25, 0.1, 0.5, 0.2],
            ),
            ("icon.png", png_file, np.uint8(100), {"alpha": True}, [255, 51, 102, 255]),
        ],
    )
    def test_painted_pixels_change_and_others_keep_the_files_values(
        self,
        name: str,
        make: Any,
        values: Any,
        format: dict[str, Any],
        painted: list[float],
        open_page: Callable[..., Page],
    ) -> None:
        page, file = open_page(len(painted), **format), Path(name)
        file.write_bytes(make(np.full((24, 16, len(painted)), values)))
        source = page.opened(file).json()["source"]
        picture = page.shown(source)
        assert picture.size == (16, 24) and page.get("api/state").json()["model"]["rule"]
        picture.paste((255, 51, 102) if picture.mode == "RGB" else 51, (4, 5, 8, 9))
        job = page.finished(page.submit(guide=data_url(picture), source=source, area=data_url(mask(size=(16, 24)))))
        assert job["state"] == "done", job["message"]
        folder, before = Path("out", job["identity"]), read_values(file, name).values
        guide, result = (read_values(folder / file, "a").values for file in (job["guide"], job["samples"][0]))
        assert guide.dtype == result.dtype == before.dtype and job["guide"] == f"guide{name[name.index('.') :]}"
        expected = before.copy()
        expected[5:9, 4:8] = painted
        assert np.allclose(guide, expected, rtol=1e-6) and np.array_equal(guide != before, expected != before)
        kept = np.asarray(mask(size=(16, 24))) == 0
        assert np.array_equal(result[kept], guide[kept]) and not np.array_equal(result, guide)
        address = f"results/{job['identity']}/{job['samples'][0]}"
        assert page.shown(address).size == (16, 24) and page.get(f"thumbs/{address[8:]}").status_code == 200
        assert page.get(address).content == (folder / job["samples"][0]).read_bytes()
        assert main(["edit", f"config={folder}/edit.yaml", "out=again", "device=cpu"]) == 0
        assert page.get(address).content == Path("again", job["samples"][0]).read_bytes()
        again = page.finished(page.submit(guide=data_url(page.shown(address)), source=address))
        assert Path("out", again["identity"], again["guide"]).read_bytes() == page.get(address).content, "unpainted"

    def test_a_blank_canvas_and_a_part_of_a_guide_of_the_folder(self, open_page: Callable[..., Page]) -> None:
        page = open_page(1, **UINT16)
        job = page.finished(page.submit(guide=data_url(page.shown("blank"))))
        assert read_values(Path("out", job["identity"], "guide.tif"), "a").values.max() == 2000
        np.save("guides/wide.npy", np.full((60, 70), 9999, np.uint16))
        assert page.get("api/state").json()["guides"] == ["noise.png", "wide.npy"]
        picture = page.shown("guides/wide.npy")
        asked = {"guide": data_url(picture), "source": "guides/wide.npy", "area": data_url(mask(size=(70, 60)))}
        job = page.finished(page.submit(**asked, focus=True))
        values = np.load(Path("out", job["identity"], job["samples"][0]))
        assert values.shape == (60, 70) and (values[:5] == 9999).all() and (values[15:25, 15:25] != 9999).any()
        job = page.finished(page.submit(**asked, windows=True))
        assert (job["state"], job["done"], job["windows"]) == ("done", job["total"], 4 * 8), job["message"]

    def test_files_that_do_not_fit_are_refused(self, open_page: Callable[..., Page]) -> None:
        page = open_page(1, **UINT16)
        np.save("bands.npy", np.zeros((8, 8, 4), np.uint16))
        Path("broken.npy").write_bytes(b"text")
        Path("text.txt").write_bytes(b"text")
        for name, message in {
            "bands.npy": "bands.npy has 4 bands, expected 1",
            "broken.npy": "cannot read image broken.npy: it is not an image",
            "text.txt": "text.txt is not an image file; its name must end in one of .png,",
        }.items():
            reply = page.opened(Path(name))
            assert reply.status_code == 400 and reply.json()["error"].startswith(message)
        assert not [*Path("out").rglob("*.npy")]
        reply = page.request_edit(source="opened/0/gone.npy")
        assert reply.status_code == 400 and reply.json()["error"] == "opened/0/gone.npy is gone; open the file again"
        reply = page.request_edit()
        assert "the painting must have the size of its file, (16, 24), got (40, 40)" in reply.json()["error"]
        for path in ("shown/opened/../../tiny.safetensors", "shown/results/x/guide.png", "shown/guides/none.png"):
            assert page.get(path).status_code == 404


class TestQueue:
    def test_a_waiting_edit_knows_its_position_and_both_can_be_cancelled(
        self, page: Page, halted: threading.Event
    ) -> None:
        running, waiting, third = page.submit(), page.submit(), page.submit(steps=2)
        assert page.post(f"api/edits/{waiting}/cancel", json={}).status_code == 200
        assert page.finished(waiting)["state"] == "cancelled"
        page.job_when(running, lambda job: job["done"] == 2)
        page.post(f"api/edits/{running}/cancel", json={})
        halted.set()
        job = page.finished(running)
        assert (job["state"], job["samples"], job["done"]) == ("cancelled", [], 2), "within one step"
        assert sorted(file.name for file in Path("out", running).iterdir()) == ["guide.png", "job.json"]
        assert page.finished(third)["state"] == "done"

    def test_position(self, open_jobs: Callable, halted: threading.Event) -> None:
        jobs = open_jobs()
        request = paint_jobs.EditRequest(guide=data_url(painting()), t0=0.3, steps=2)
        submitted = [jobs.submit(request) for _ in range(3)]
        while submitted[0].state == "waiting":
            pass
        assert [jobs.position(job) for job in submitted] == [0, 1, 2]
        assert jobs.queued_seconds() > 0
        halted.set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guide": "text"}, "the guide must be a data URL of a PNG file"),
        ({"guide": data_url(painting())[:222]}, "cannot read image the guide"),
        ({"guide": data_url(painting(), "GIF")}, "the guide must be a data URL of a PNG file"),
        ({"guide": data_url(Image.new("1", (5000, 4001)))}, "5000x4001 pixels, more than 20 million"),
        ({"area": data_url(mask(size=(50, 40)))}, "the mask must have the size of the guide, (40, 40), got (50"),
        ({"area": data_url(Image.new("L", (40, 40)))}, "the mask is empty"),
        ({"t0": 1.5}, "t0: Input should be less than or equal to 1"),
        ({"t0": 0}, "t0: Input should be greater than 0"),
        ({"samples": 17}, "samples: "),
        ({"seed": -1}, "seed: "),
        ({"ckpt": "/etc/passwd"}, "ckpt: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_edit_is_refused_and_leaves_nothing(page: Page, change: dict, message: str) -> None:
    reply = page.request_edit(**change)
    assert reply.status_code == 400 and message in reply.json()["error"]
    assert not Path("out").exists() and page.get("api/state").json()["jobs"] == []


def test_uploads_are_limited(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paint_server, "LARGEST_BODY", 1000)
    reply = page.request_edit()
    assert reply.status_code == 413 and reply.json()["error"] == "send at most 1,000 bytes"


def test_a_full_disk_is_reported_and_retried(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(paint_jobs, "write_whole", full)
        reply = page.request_edit()
    assert reply.status_code == 503 and "out: No space left on device" in reply.json()["error"]
    assert page.finished(page.submit())["state"] == "done"


class TestFiles:
    def test_the_page_loads_nothing_from_other_sites(self, page: Page) -> None:
        for path in ("", "static/paint.js", "static/paint.css"):
            reply = page.get(path)
            assert reply.status_code == 200
            assert "https:" not in reply.text and "default-src 'none'" in reply.headers["Content-Security-Policy"]

    def test_guides_and_small_pictures(self, page: Page) -> None:
        assert page.get("api/state").json()["guides"] == ["noise.png"]
        assert page.get("guides/noise.png").status_code == 200
        identity = page.submit()
        page.finished(identity)
        assert page.get(f"thumbs/{identity}/guide_seed5.png").headers["Content-Type"] == "image/png"

    def test_nothing_else_is_reachable(self, page: Page) -> None:
        identity = page.submit()
        page.finished(identity)
        Path("secret").write_text("secret")
        for path in (
            "guides/other.png", "guides/..%2Ftiny.safetensors", "results/ID/job.json", "results/ID/..%2F..%2Fsecret",
            "results/none/guide.png", "results/..%2Fguides/noise.png", "thumbs/ID/job.json", "out/ID/guide.png",
            "static/..%2F..%2Fpaint_jobs.py", ".token",
        ):  # fmt: skip
            assert page.get(path.replace("ID", identity)).status_code == 404, path

    def test_with_a_token_everything_is_below_it(self, open_jobs: Callable) -> None:
        token = access_token(Path("out"))
        assert token == access_token(Path("out")) and len(token) > 20
        Path("out/.token").write_text("")  # by a process that was killed: an empty token would let everyone in
        assert len(access_token(Path("out"))) > 20 and Path("out/.token").stat().st_mode & 0o777 == 0o600
        Path("out/.token").write_text(token)
        assert (Path("out") / ".token").stat().st_mode & 0o77 == 0
        page = Page(paint_app(open_jobs(), Path("guides"), token), base_url=f"http://localhost/{token}/")
        assert page.get("").status_code == 200
        assert page.finished(page.submit())["state"] == "done"
        stranger = Page(page.app, base_url="http://localhost/")
        for path in ("", "api/state", "static/paint.js", f"{token}x/api/state"):
            assert stranger.get(path).status_code == 404
        shutil.rmtree("out")
