"""Work and n devices -> the work done by n processes that add up their gradients.

Every process (rank) takes its share of each optimiser step's groups; gradients are added once per
step, which is then the step of a single process. Outside of them all here is that of a single one.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from persona_lab.errors import UserError
from persona_lab.model.engine import Group


def spread(
    n: int, accelerator: Literal["cpu", "gpu"], folder: Path, work: Callable[[], None]
) -> None:
    """Do the same work in n processes, one per device, and wait for all of them.

    Each gets a GPU, or its share of the CPU's threads. They meet in the folder, which is empty. The
    work is picklable and knows its process by `rank`.

    Raises:
        UserError: One of them raised it; the others are ended.
        RuntimeError: One of them failed otherwise; names the error that it raised.
    """
    threads = max(1, torch.get_num_threads() // n)
    try:
        mp.spawn(_work, args=(n, accelerator, folder, threads, work), nprocs=n)  # pyright: ignore[reportPrivateImportUsage]
    except mp.ProcessRaisedException as failed:  # pyright: ignore[reportPrivateImportUsage]
        # A process notes its error in a file: its parent is given no more than a traceback.
        what, *mend = json.loads((folder / f"error-{failed.error_index}.json").read_text())
        raise (UserError(what, *mend) if mend else RuntimeError(what)) from failed


def _work(
    rank: int, n: int, accelerator: str, folder: Path, threads: int, work: Callable[[], None]
) -> None:
    if accelerator == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        # To all that follows, the one device is the first.
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank] if visible else str(rank)
    torch.set_num_threads(threads)
    backend = "nccl" if accelerator == "gpu" else "gloo"
    meeting = f"file://{folder}/meeting"
    try:
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=n)
        work()
    except Exception as error:
        of_user = isinstance(error, UserError)
        words = error.args if of_user else [f"{type(error).__name__}: {error}"]
        (folder / f"error-{rank}.json").write_text(json.dumps(words))
        raise
    # Not after a failure: the others would then report the lost connection before its cause.
    dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 in a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_share(groups: Sequence[Group]) -> list[Group]:
    """This process's share of a step's groups, all of them in a single one; may be empty."""
    if not dist.is_initialized():
        return list(groups)
    by_size = sorted(groups, key=lambda group: group.n_tokens, reverse=True)
    return by_size[dist.get_rank() :: dist.get_world_size()]


def add_up(parameters: Iterable[nn.Parameter], *numbers: float) -> list[float]:
    """Add the gradients of all processes, in place, and the numbers, which are returned."""
    if not dist.is_initialized():
        return list(numbers)
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:  # a process without a share of this step
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = nn.utils.parameters_to_vector(gradients)
    sums = torch.tensor(numbers, dtype=torch.float64, device=flat.device)
    dist.all_reduce(flat)
    dist.all_reduce(sums)
    nn.utils.vector_to_parameters(flat, gradients)
    return sums.tolist()
