"""The report of `solvers.py`: its tables in Markdown, its plots and its sheets of edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from portraits64_report import table

from sdedit_pl.picture_grid import grid, to_picture
from sdedit_pl.plots import Value, line_plot
from sdedit_pl.typing import Images

REFERENCES = ("ancestral", "paper")
"""Long runs that others are compared with. Tables and plots are about the first of them that is measured: the second
ends on a state with noise in it, which every other run is better than."""

SHEET_EVALUATIONS = (10, 20)
SHEET_CELL = 192
KINDS = {"SDE": True, "ODE": False}
"""Kinds of solvers, and whether they are stochastic."""

Record: TypeAlias = Mapping[str, Any]


def blocks(results: Mapping[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The records of each t0 and number of colours, references first, then in the order of solver, grid and cost."""

    def place(record: Record) -> tuple[int, str, str, int]:
        rank = REFERENCES.index(record["solver"]) if record["reference"] else len(REFERENCES)
        return rank, record["solver"], record["grid"], record["allowed"]

    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in results["cells"].values():
        found.setdefault((str(record["t0"]), record["colours"]), []).append(record)
    ordered = sorted(found, key=lambda block: (-block[1], block[0]))
    return {block: sorted(found[block], key=place) for block in ordered}


class Block:
    """What was measured at one t0 on one kind of guides.

    Args:
        records: as `blocks` has them.
        reference: the long run that the goal is about; None for the first that is measured.

    Attributes:
        references: the long runs.
        goal: the one that the goal is about; None where it is not measured.
        held: the records that are held against it.
        counts: their numbers of evaluations, ascending.
    """

    def __init__(self, records: Sequence[Record], reference: str | None = None) -> None:
        self.records = records
        self.references = [record for record in records if record["reference"]]
        wanted = [record for record in self.references if reference in (None, record["solver"])]
        self.goal = wanted[0] if wanted else None
        self.held = [record for record in records if not record["reference"] and self.versus(record)]
        self.counts = sorted({record["allowed"] for record in self.held})

    def versus(self, record: Record) -> Record | None:
        """How a record differs from the goal; None for the goal itself, or where there is none."""
        return None if self.goal is None else record["versus"].get(self.goal["solver"])

    def meets_goal(self, record: Record) -> bool:
        """Whether a record loses nothing against the goal."""
        versus = self.versus(record)
        return versus is not None and versus["meets_goal"]

    def at(self, count: int) -> list[Record]:
        """The records held at so many evaluations, the best first: those that meet the goal, each by its KID."""
        found = [record for record in self.held if record["allowed"] == count]
        return sorted(found, key=lambda record: (not self.meets_goal(record), record["kid"]["value"]))

    def ladders(self) -> dict[tuple[str, str], list[Record]]:
        """The records held of each solver and grid, in the order of evaluations."""
        found: dict[tuple[str, str], list[Record]] = {}
        for record in self.held:
            found.setdefault((record["solver"], record["grid"]), []).append(record)
        return found

    def recommended(self) -> Record | None:
        """The record with fewest evaluations whose solver and grid meet the goal there and at all higher numbers."""
        lasting: list[Record] = []
        for ladder in self.ladders().values():
            failures = [index for index, record in enumerate(ladder) if not self.meets_goal(record)]
            lasting += ladder[failures[-1] + 1 if failures else 0 :][:1]
        return min(lasting, key=lambda record: (record["allowed"], record["kid"]["value"]), default=None)


def report(results: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    found = {name: Block(records) for name, records in blocks(results).items()}
    texts = [
        "# Edits in few evaluations",
        origin(results),
        "## Summary",
        "Recommended is the solver and grid with fewest evaluations that meets the goal there and at every higher "
        "number measured; a single success among so many cells may be chance.",
        recommendations(found),
        "The best at each number of evaluations: the least KID of those that meet the goal, or else of all.",
        winners(found),
        "Do ODE solvers lose realism? The least KID of each kind of solver at each number of evaluations:",
        kinds(found),
    ]
    for (t0, colours), block in found.items():
        texts += [f"## t0 = {t0}, guides of {colours} colours", cells(block, results["guides"][str(colours)])]
    return "\n\n".join(texts) + "\n"


def origin(results: Mapping[str, Any]) -> str:
    """What was measured and how."""
    checkpoint, settings, images = results["checkpoint"], results["settings"], results["images"]
    return (
        f"`{checkpoint['file']}` (sha256 `{checkpoint['sha256'][0][:16]}`), {images['images']} validation images of "
        f"`{settings['data']}` in {images['groups']} groups (by {settings['groups']}), {settings['samples']} edits of "
        f"each, the network in {settings['precision']}, features of {settings['features']['name']}. References take "
        f"{settings['reference_steps']} steps: `paper` is SDEdit's algorithm to the letter (2 for VE, 4 for VP), "
        "`ancestral` this package's. "
        "Intervals hold 95 % of resamplings of the groups, the same ones for all cells, so that a difference whose "
        "interval holds 0 cannot be told from chance. The goal is a KID no higher than the interval of the reference's "
        "own KID, and an L2 to the guides within 1 % of the reference's. Seconds mean something only for a machine "
        "that did nothing else: the load beside them was no more than the threads then."
    )


def recommendations(found: Mapping[tuple[str, int], Block]) -> str:
    """The table of what to take, by each reference that is measured."""
    rows = []
    for (t0, colours), records in found.items():
        for reference in records.references:
            block = Block(records.records, reference["solver"])
            take = block.recommended()
            name = "none" if take is None else f"{take['solver']}, {take['grid']}"
            needed = "" if take is None else str(take["allowed"])
            first = [count for count in block.counts if any(map(block.meets_goal, block.at(count)))]
            first_count = str(first[0]) if first else "never"
            rows.append([t0, str(colours), reference["solver"], name, needed, first_count])
    return table(["t0", "colours", "reference", "recommended", "evaluations", "any meets the goal from"], rows)


def winners(found: Mapping[tuple[str, int], Block]) -> str:
    """The table of the best at each number of evaluations."""
    rows = []
    for (t0, colours), block in found.items():
        for count in block.counts:
            ranked = block.at(count)
            name = f"{ranked[0]['solver']}, {ranked[0]['grid']}"
            meeting = f"{sum(map(block.meets_goal, ranked))} of {len(ranked)}"
            rows.append([t0, str(colours), str(count), name, *differences(block.versus(ranked[0])), meeting])
    return table(["t0", "colours", "evaluations", "best", "KID - reference", "L2 to reference", "meet the goal"], rows)


def kinds(found: Mapping[tuple[str, int], Block]) -> str:
    """The table of the least KID of stochastic and of ODE solvers."""
    counts = sorted({count for block in found.values() for count in block.counts})
    rows = []
    for (t0, colours), block in found.items():
        for kind, stochastic in KINDS.items():
            row = [t0, str(colours), kind]
            for count in counts:
                values = [record["kid"]["value"] for record in block.at(count) if record["stochastic"] == stochastic]
                row.append(f"{min(values):.3f}" if values else "")
            rows.append(row)
    return table(["t0", "colours", "solvers of the", *map(str, counts)], rows)


def cells(block: Block, strokes: Mapping[str, float]) -> str:
    """The table of all numbers of a block, beside the KID of the guides themselves."""
    rows = [["(the guides)", "", "", f"{strokes['value']:.3f} ± {strokes['error']:.3f}", "", "", "0", "", "", ""]]
    for record in block.records:
        kid, versus = record["kid"], block.versus(record)
        of_kid, of_l2 = differences(versus)
        rows.append(
            [
                f"**{record['solver']}**" if record["reference"] else record["solver"],
                record["grid"],
                f"{record['evaluations']:g}",
                f"{kid['value']:.3f} [{kid['low']:.3f}, {kid['high']:.3f}]",
                of_kid,
                "" if versus is None else versus["kid_place"],
                f"{record['l2']['value']:.1f}",
                of_l2,
                "" if versus is None else "yes" if versus["meets_goal"] else "no",
                f"{record['seconds_per_edit']:.2f} ({record['load']:.1f})",
            ]
        )
    titles = ["solver", "grid", "evaluations", "KID", "KID - reference", "reference's interval", "L2"]
    return table([*titles, "L2 to reference", "meets the goal", "seconds an edit (load)"], rows)


def differences(versus: Record | None) -> tuple[str, str]:
    """How KID and L2 differ from the goal, with intervals."""
    if versus is None:
        return "", ""
    kid, l2 = versus["kid"], {key: 100 * value for key, value in versus["l2"].items()}
    return (
        f"{kid['value']:+.3f} [{kid['low']:+.3f}, {kid['high']:+.3f}]",
        f"{l2['value']:+.1f} % [{l2['low']:+.1f}, {l2['high']:+.1f}]",
    )


def draw(
    results: Mapping[str, Any],
    originals: Images,
    guides: Mapping[str, Images],
    shown: Callable[[Record], Images],
    folder: Path,
) -> None:
    """Draws a sheet of each block into `folder`, and plots of each that has something to compare.

    Args:
        results: all numbers.
        originals: the originals that sheets show.
        guides: number of colours -> their paintings.
        shown: the edits of these in a cell.
        folder: where pictures go.
    """
    for (t0, colours), records in blocks(results).items():
        block, name = Block(records), f"t0_{t0}_colours_{colours}".replace(":", "_")
        sheet(block, {"original": originals, "guide": guides[str(colours)]}, shown, folder / f"edits_{name}.png")
        for kind, stochastic in KINDS.items():
            ladders = best_ladders(block, stochastic)
            if ladders:
                title = f"{kind} solvers, t0 = {t0}, {colours} colours"
                plot(block, ladders, title, folder, f"{name}_{kind.lower()}")


def sheet(block: Block, columns: dict[str, Images], shown: Callable[[Record], Images], file: Path) -> None:
    """Draws some images' edits by the references, then by the best at some numbers of evaluations, beside `columns`."""
    best = [record for count in SHEET_EVALUATIONS for record in block.at(count)[:1]]
    for record in [*block.references, *best]:
        columns[f"{record['solver']} {record['grid']} {record['allowed']}"] = shown(record)
    rows = [[to_picture(image) for image in row] for row in zip(*columns.values(), strict=True)]
    grid(rows, list(columns), SHEET_CELL).save(file)


def best_ladders(block: Block, stochastic: bool) -> dict[str, Sequence[Record]]:
    """Each solver of a kind on one grid, by the name of both: with the most records, and of these the least KID."""

    def merit(ladder: Sequence[Record]) -> tuple[int, float]:
        return len(ladder), -sum(record["kid"]["value"] for record in ladder) / len(ladder)

    ladders = [(*names, ladder) for names, ladder in block.ladders().items() if ladder[0]["stochastic"] == stochastic]
    best = {solver: (used, ladder) for solver, used, ladder in sorted(ladders, key=lambda found: merit(found[2]))}
    return {f"{solver}, {used}": ladder for solver, (used, ladder) in sorted(best.items())}


def plot(block: Block, ladders: Mapping[str, Sequence[Record]], title: str, folder: Path, name: str) -> None:
    """Draws KID and L2 over evaluations; the bars are intervals of the difference to the reference."""
    reference = block.goal
    assert reference is not None
    label, wanted = f"{reference['solver']}, {reference['allowed']}", reference["kid"]

    def kid(record: Record) -> Value:
        difference = record["versus"][reference["solver"]]["kid"]
        return record["kid"]["value"], wanted["value"] + difference["low"], wanted["value"] + difference["high"]

    def l2(record: Record) -> Value:
        difference = record["versus"][reference["solver"]]["l2"]
        return 100 * difference["value"], 100 * difference["low"], 100 * difference["high"]

    def save(file: str, value: Callable[[Record], Value], level: Value, what: str, y_title: str) -> None:
        curves = {solver: [(one["allowed"], value(one)) for one in ladder] for solver, ladder in ladders.items()}
        picture = line_plot(
            curves,
            title=f"{what}: {title}",
            x_title="evaluations, at most",
            y_title=y_title,
            levels={label: level},
            logarithmic=True,
        )
        picture.save(folder / f"{file}_{name}.png")

    level = (wanted["value"], wanted["low"], wanted["high"])
    save("kid", kid, level, "Realism", "KID to the originals (bars: of its difference)")
    save("l2", l2, (0.0, -1.0, 1.0), "Faithfulness", "L2 to the guides, % above the reference's")
