"""Processes for tests: forked from one that has imported everything, so they start at once."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.children", "training.stages", "tests.conftest"])
SECONDS = 120


def start(function: Callable[..., None], *arguments: Any, **environment: str) -> Any:
    """A process that runs a function."""
    child = CONTEXT.Process(target=_run, args=(environment, function, arguments))
    child.start()
    return child


def finish(*children: Any) -> list[int]:
    """Exit codes of processes; a negative one is the signal that ended it."""
    for child in children:
        child.join(SECONDS)
        assert child.exitcode is not None, "a process hangs"
    return [child.exitcode for child in children]


def run(function: Callable[..., None], *arguments: Any, processes: int = 1, **environment: str):
    """Run a function in processes that train together; their exit codes."""
    if processes == 1:
        return finish(start(function, *arguments, **environment))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(processes)} | environment
    ranks = (str(rank) for rank in range(processes))
    return finish(*[start(function, *arguments, RANK=rank, **place) for rank in ranks])


def _run(environment: dict[str, str], function: Callable[..., None], arguments: tuple) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)
