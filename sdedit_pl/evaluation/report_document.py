"""The report: sections of text, tables and figures, written as HTML and Markdown or logged to W&B.

`report.html` embeds its figures and opens offline; `report.md` links to the same figures in the folder `figures`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit_pl.files import write_whole
from sdedit_pl.picture_grid import png_bytes
from sdedit_pl.result_folder import RECORDED, hashes_of

REPORT_HTML, REPORT_MARKDOWN, METRICS_FILE = "report.html", "report.md", "metrics.json"
FIGURES = "figures"
TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first text of a row is its name."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture with a caption; `name` is its file's name without suffix."""

    name: str
    caption: str
    picture: Image.Image


@dataclass(frozen=True)
class Section:
    title: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class ReportDocument:
    title: str
    sections: Sequence[Section]
    warning: str = ""

    def write(self, folder: Path, numbers: dict[str, Any]) -> None:
        """Writes the report, and `metrics.json`: `numbers`, to which it adds the hashes of all files in `folder`."""
        figures = [figure for section in self.sections for figure in section.figures]
        pictures = {figure.name: png_bytes(figure.picture, optimize=True) for figure in figures}
        (folder / FIGURES).mkdir(exist_ok=True)
        for name, content in pictures.items():
            (folder / FIGURES / f"{name}.png").write_bytes(content)
        write_whole(folder / REPORT_MARKDOWN, self.markdown())
        write_whole(folder / REPORT_HTML, self.html(pictures))
        (folder / METRICS_FILE).unlink(missing_ok=True)
        numbers[RECORDED] = hashes_of(folder)
        write_whole(folder / METRICS_FILE, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")

    def markdown(self) -> str:
        blocks = [f"# {self.title}", *([f"> {self.warning}"] if self.warning else [])]
        for section in self.sections:
            blocks += [f"## {section.title}", *section.paragraphs]
            blocks += [
                f"{figure.caption}\n\n![{figure.name}]({FIGURES}/{figure.name}.png)" for figure in section.figures
            ]
            if section.table is not None:
                blocks.append(markdown_table(section.table))
        return "\n\n".join(blocks).replace("<", "&lt;") + "\n"

    def html(self, pictures: Mapping[str, bytes]) -> str:
        import jinja2

        text = files("sdedit_pl.evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8")
        template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
        encoded = {name: base64.b64encode(content).decode("ascii") for name, content in pictures.items()}
        return template.render(report=self, pictures=encoded)


def markdown_table(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"

    return "\n".join([line(table.titles), line(["---"] * len(table.titles)), *map(line, table.rows)])


def log_to_wandb(report: ReportDocument, project: str, folder: Path, numbers: Mapping[str, Any]) -> None:
    """Logs a report as a run of Weights & Biases named after `folder`, which also holds W&B's files.

    WANDB_MODE=offline needs no account, WANDB_ENTITY names a team. Raises ValueError if W&B fails.
    """
    import wandb
    from wandb.errors import Error

    try:
        run = wandb.init(
            project=project, name=folder.name, dir=str(folder), job_type="evaluation", config=dict(numbers["settings"])
        )
    except (Error, ValueError) as error:
        raise ValueError(
            f"the report is in {folder / REPORT_HTML}, but not in wandb={project} ({str(error).splitlines()[0]}); log "
            "in with `wandb login`, or set WANDB_MODE=offline, and repeat the command: finished images are reused"
        ) from error
    logged: dict[str, Any] = {}
    for section in report.sections:
        if section.table is not None:
            rows: list[Any] = [list(row) for row in section.table.rows]
            logged[f"tables/{section.title}"] = wandb.Table(columns=list(section.table.titles), data=rows)
        logged |= {
            f"figures/{figure.name}": wandb.Image(figure.picture, caption=figure.caption) for figure in section.figures
        }
    run.log(logged)
    run.summary.update(
        {
            f"{task}/{method}/{name}": value
            for task, methods in numbers["tasks"].items()
            for method, measures in methods.items()
            for name, value in measures.items()
            if value is not None
        }
    )
    run.finish()
