"""Start-up times as multiples of bare `import torch`: help, imports of the verbs, and the first network evaluation.

    python benchmarks/start.py [checkpoint]

Each command runs in a process of its own; the fastest of several runs counts. Run it on an idle machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 5
FIRST_EVALUATION = """
import sys
import torch
from sdedit_pl.checkpoints.loading import load_for_editing
denoiser, description = load_for_editing(sys.argv[1], "cpu")
image = description.model.image
with torch.no_grad():
    denoiser(torch.zeros(1, image.channels, image.size, image.size), torch.tensor([0.5]))
"""
READING = "import sys; from safetensors.torch import load_file; load_file(sys.argv[1])"


def seconds(*command: str) -> float:
    """The shortest time of several runs of a Python command."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - begin)
    return min(times)


def main(checkpoint: str) -> None:
    torch = seconds("-c", "import torch")
    rows = {
        "import torch": torch,
        **{f"sdedit {verb} --help": seconds("-m", "sdedit_pl", verb, "--help") for verb in ("edit", "train")},
        **{f"import of {verb}": seconds("-c", f"import sdedit_pl.cli.{verb}") for verb in ("edit", "info", "demo")},
        "reading the checkpoint, with torch": seconds("-c", READING, checkpoint),
        "first network evaluation of an edit": seconds("-c", FIRST_EVALUATION, checkpoint),
    }
    print("| | seconds | times `import torch` |\n|---|---:|---:|")
    for name, value in rows.items():
        print(f"| {name} | {value:.2f} | {value / torch:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "checkpoints/portraits64.safetensors")
