"""Where the official files come from: the Hugging Face hub, once, then its local cache."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)

PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained"
"""Where weights are looked for by name, and where files downloaded by hand go."""

MAIN_FILES = (
    "vd-four-flow-v1-0-fp16.pth",
    "vd-four-flow-v1-0.pth",
    "vd-four-flow-v1-0-fp16-deprecated.pth",
    "vd-four-flow-v1-0-deprecated.pth",
)
"""The released diffuser, the preferred file first."""

_OLD, _NEW = "shi-labs/versatile-diffusion", "shi-labs/versatile-diffusion-model"

# name below PRETRAINED -> where to get it, the preferred place first
SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    **{
        name: ((_OLD, f"pretrained_pth/{name}"),)
        if "deprecated" in name
        else ((_NEW, f"pretrained_pth/{name}"), (_OLD, f"pretrained_pth/{name}"))
        for name in MAIN_FILES
    },
    "kl-f8.pth": ((_OLD, "pretrained_pth/kl-f8.pth"), (_NEW, "pretrained_pth/kl-f8.pth")),
    "optimus-vae.pth": (
        (_OLD, "pretrained_pth/optimus-vae.pth"),
        (_NEW, "pretrained_pth/optimus-vae.pth"),
    ),
    "clip-vit-large-patch14/model.safetensors": (
        ("openai/clip-vit-large-patch14", "model.safetensors"),
    ),
}


def fetch(name: str) -> Path:
    """Path of an official file: in `pretrained/`, else in the hub's cache, else downloaded.

    Args:
        name: a key of `SOURCES`.

    Raises:
        ValueError: not an official file.
        OSError: not here, and it could not be downloaded; says how to get it by hand.
    """
    if name not in SOURCES:
        raise ValueError(f"{name!r} is no official file: choose from {', '.join(SOURCES)}.")
    if (PRETRAINED / name).is_file():
        return PRETRAINED / name
    # only who downloads pays for the import
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for repo, path in SOURCES[name]:
        try:
            log.info("looking for %s in %s", path, repo)
            return Path(hf_hub_download(repo, path))
        except LocalEntryNotFoundError as error:  # no connection: another repo will not help
            raise OSError(_by_hand(name)) from error
        except (OSError, EntryNotFoundError) as error:
            reason = error
    raise OSError(_by_hand(name)) from reason


def _by_hand(name: str) -> str:
    repo, path = SOURCES[name][0]
    return (
        f"{name} is neither in {PRETRAINED} nor in the local Hugging Face cache, and could not be "
        f"downloaded: go online once, or get {path} from https://huggingface.co/{repo} and put it "
        f"at {PRETRAINED / name}."
    )
