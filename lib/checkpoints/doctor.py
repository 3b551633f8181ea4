"""What is here and what can be expected of it: packages, hardware, models, memory, speed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from lib.checkpoints import hub
from lib.checkpoints.inspecting import WORDS, inspect, short, size_of
from lib.components import components_for, structure
from lib.config import ModelSpec
from lib.contexts import Context
from lib.devices import BIG, choose_device, choose_dtype
from lib.model import VersatileDiffusion
from lib.specs import VD_FOUR_FLOW_V1_0

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements_analyse.txt"
SECONDS = 0.3
"""How long each operation is repeated to be timed."""


def diagnose(device: str | None = None) -> Iterator[tuple[bool, str]]:
    """Lines, each with whether what it says is as it should be."""
    yield True, f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    wrong = list(_versions())
    yield not wrong, "packages: " + ("; ".join(wrong) or "all within the bounds of requirements")
    place = choose_device(device)
    yield True, f"hardware: {_hardware(place)}"
    free = shutil.disk_usage(hub.PRETRAINED).free
    yield True, f"disk: {size_of(free)} free where {hub.PRETRAINED} is"
    speeds: dict[torch.dtype, float] = {}
    for name in _models():
        yield True, ""
        try:
            report = inspect(name)
        except ValueError as error:
            yield False, f"{name}: {error}"
            continue
        works = [flow for flow in WORDS if not report.missing(flow)]
        if report.held:
            count = sum(one.parameters for one in report.held.values())
            state = ", ".join(works) or "no flow is complete"
            yield not report.damaged, f"{name}: {short(count)} parameters; works: {state}"
            for flow in (flow for flow in WORDS if flow not in works):
                yield True, f"  {flow} needs {', '.join(report.missing(flow))}"
            yield from ((False, f"  {sentence}") for sentence in report.damaged.values())
        else:  # what it would take is worth knowing beforehand
            files = f"{hub.MAIN_FILES[0]} (pretrained/README.md lists the others)"
            yield True, f"{name}: not here; `python -m lib download {name}`, or by hand: {files}"
        for flow in ("t2i", "i2t"):
            if flow in works or not report.held:
                yield from _expected(report.spec, flow, place, speeds)


def _models() -> list[str]:
    """What `load` takes by name: folders of models in `pretrained/`, and the released one."""
    configs = sorted(hub.PRETRAINED.glob("*/config.json"))
    own = [path.parent.name for path in configs if '"unet"' in path.read_text(encoding="utf-8")]
    indices = sorted(hub.PRETRAINED.glob("*/model_index.json"))
    return [*own, *(path.parent.name for path in indices), VD_FOUR_FLOW_V1_0.name]


def _expected(
    spec: ModelSpec, flow: str, device: torch.device, speeds: dict[torch.dtype, float]
) -> Iterator[tuple[bool, str]]:
    """Memory and time of a flow, by counting."""
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in structure(spec).items()
    }
    dtype = choose_dtype(device, sum(counts.values()))
    needed = sum(counts[name] for name in components_for([flow]))
    size, memory = needed * dtype.itemsize, _memory(device)
    room = "" if size < memory else f", more than the {size_of(memory)} there are"
    kind = str(dtype).removeprefix("torch.")
    yield (
        not room,
        f"  {flow}: {short(needed)} parameters in {kind}, {size_of(size)} of weights{room}",
    )
    if dtype not in speeds:
        speeds[dtype] = measure_speed(device, dtype)
    work = 2 * step_flops(spec, flow)  # with guidance, the network runs twice
    seconds = work / speeds[dtype]
    yield (
        True,
        f"  {flow}: a guided step is {work / 1e9:.3g} GFLOP: {seconds:.2g} s, {spec.steps} steps "
        f"{spec.steps * seconds:.2g} s, if it ran at the {speeds[dtype] / 1e9:.3g} GFLOP/s of one "
        f"convolution and one product of matrices, timed here for {2 * SECONDS:g} s",
    )


def step_flops(spec: ModelSpec, flow: str) -> float:
    """Multiplications and additions of one call of the network, counted on shapes alone."""
    data, context = ("image", "text") if flow == "t2i" else ("text", "image")
    parts = ("time_embed", f"{data}_data", f"{context}_context")
    modules = structure(spec)
    vd = VersatileDiffusion(spec, {name: modules[name] for name in parts})
    tokens = spec.clip.text.positions if context == "text" else spec.clip.vision.tokens
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        x = torch.empty(1, *spec.latent_shape(data))
        vd.eps(x, 1, [(Context(context, torch.empty(1, tokens, spec.clip.projection)), 1.0)])
    return float(counter.get_total_flops())


@torch.inference_mode()
def measure_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s: the mean of a 3x3 convolution and of a product of matrices, repeated for a moment."""
    a, b = torch.ones(2, 1024, 1024, device=device, dtype=dtype)
    x = torch.ones(1, 320, 64, 64, device=device, dtype=dtype)
    w = torch.ones(320, 320, 3, 3, device=device, dtype=dtype)
    product = _rate(lambda: a @ b, 2 * 1024**3, device)
    convolution = _rate(lambda: conv2d(x, w, padding=1), 2 * 64 * 64 * 9 * 320**2, device)
    return (product + convolution) / 2


def _rate(work: Callable[[], object], flops: float, device: torch.device) -> float:
    def wait() -> None:
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).synchronize()

    work()
    wait()
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < SECONDS:
        work()
        wait()
        count += 1
    return flops * count / passed


def _versions() -> Iterator[str]:
    """Packages that are missing or outside of the bounds they were tested within."""
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([\w-]+)>=([\d.]+),<([\d.]+)", line):
            name, low, high = match.groups()
            try:
                here = metadata.version(name)
            except metadata.PackageNotFoundError:
                yield f"{name} is not installed (pip install '{line}')"
                continue
            if not _numbers(low) <= _numbers(here) < _numbers(high):
                yield f"{name} is {here}, tested were {low} to below {high}"


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {size_of(card.total_memory)}"
    big = str(choose_dtype(device, BIG + 1))
    words = f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {size_of(_memory(device))}"
    return f"{device.type}, {words}; large models run in {big.removeprefix('torch.')}"


def _memory(device: torch.device) -> int:
    """Bytes of the device's memory; without bound where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**63
