"""The report of a study: tables in Markdown, the findings as JSON and all answers as CSV."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from sdedit_pl.study.study_database import StudyDatabase
from sdedit_pl.study.study_findings import answers_csv, summarise

REPORT_FILES = ("report.md", "report.json", "answers.csv")
_TEMPLATE = "study_report.md.jinja"


def study_report(study: StudyDatabase, threshold: float) -> dict[str, str]:
    """The text of each file of REPORT_FILES; report.json has the hashes of the others. Raises as `summarise` does."""
    answers = study.answers()
    findings = summarise(study.settings, study.raters(), answers, threshold)
    texts = {"report.md": report_markdown(findings), "answers.csv": answers_csv(answers, findings["left_out"])}
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return {**texts, "report.json": json.dumps({**findings, "files": files}, indent=1, ensure_ascii=False) + "\n"}


def report_markdown(findings: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"counted": _counted, "percent": _percent, "rate": _rate}
    text = resources.files("sdedit_pl.study").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    rates = {(row["first"], row["second"], row["question"]): row for row in findings["preferences"]}
    pairs = dict.fromkeys((row["first"], row["second"]) for row in findings["preferences"])
    return environment.from_string(text).render(findings, pairs=pairs, rates=rates)


def _rate(row: Mapping[str, Any]) -> str:
    if row["rate"] is None:
        return "no answers"
    return f"{_percent(row['rate'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}], {row['answers']}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
