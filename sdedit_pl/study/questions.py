"""The three questions of the paper's human evaluation, in our own words.

Each is a forced choice between two methods' outputs for the same guide, which is shown except for realism.

Source: Meng et al., "SDEdit", ICLR 2022, section 5 and the appendix on human evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Question:
    """A question about two images.

    Args:
        hint: advice on what to judge.
        intact: the intact image of a catch trial: the guide, a real image (if there is one), or a method's output.
    """

    text: str
    hint: str
    shows_guide: bool
    intact: Literal["guide", "real", "output"]


QUESTIONS = {
    "realism": Question(
        "Which image looks more realistic?",
        "Choose the one that looks more like a real picture without flaws. Colours and brightness may differ.",
        shows_guide=False,
        intact="real",
    ),
    "faithfulness": Question(
        "Which image is closer to the guide?",
        "Compare places, shapes and colours with the guide. How real the image looks does not matter here.",
        shows_guide=True,
        intact="guide",
    ),
    "satisfaction": Question(
        "Which image would you rather have?",
        "Imagine that you made the guide and asked for a realistic picture of it. Weigh how real it looks "
        "against how close it is to the guide.",
        shows_guide=True,
        intact="output",
    ),
}
