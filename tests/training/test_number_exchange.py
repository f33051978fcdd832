"""Numbers and objects that the devices of a run exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed
from support.processes import on_two_devices

from sdedit_pl.training.number_exchange import Agreement


def test_one_device_agrees_with_itself_at_once() -> None:
    agreement = Agreement()
    agreement.begin(1)
    assert agreement.largest(0, 3) == [0, 3] and agreement.largest(15, 0) == [15, 0]
    assert agreement.gathered("name") == ["name"]


def test_two_devices_get_the_same_maxima_one_call_later_and_notice_a_dead_device(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        agreement = Agreement()
        agreement.begin(2)
        maxima = [agreement.largest(15 if (rank, call) == (1, 2) else 0, 10 * call + rank) for call in range(5)]
        gathered = agreement.gathered({"rank": rank})
        torch.distributed.barrier()
        if rank == 1:
            return maxima, gathered, None  # and dies
        try:
            while True:
                agreement.largest(0, 0)
        except RuntimeError as error:
            return maxima, gathered, str(error)

    first, second = on_two_devices(work, tmp_path)
    assert first[0] == second[0] == [[0, 0], [0, 1], [0, 11], [15, 21], [0, 31]]
    assert first[1] == second[1] == [{"rank": 0}, {"rank": 1}] and first[2]
