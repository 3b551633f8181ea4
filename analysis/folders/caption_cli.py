"""The command line of automatic captions: `python -m analysis caption FOLDER`."""

from __future__ import annotations

import argparse
import json
import logging
import sys

_EXAMPLE = """\
examples:
  python -m analysis caption photos/
  python -m analysis caption photos/ --format sidecar --out photos/ --n 8
  python -m analysis caption photos/ --format webdataset --out shards/ --shard-size 5000

A stopped command goes on when it is started again; another --format costs no generation.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis caption`."""
    parser.epilog = _EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="pictures, also in subfolders")
    formats = ("sidecar", "jsonl", "csv", "webdataset")
    add("--format", choices=formats, default="sidecar", help="default: %(default)s")
    add("--out", metavar="DIR", help="captions go there (default: output/caption/FOLDER's name)")
    add("--n", type=int, default=4, help="candidates a picture, ranked by CLIP (default: 4)")
    add("--seed", type=int, default=0, help="chooses the candidates (default: 0)")
    add("--steps", type=int, help="sampling steps (default: the model's)")
    add("--scale", type=float, help="guidance scale (default: the model's)")
    add("--temperature", type=float, metavar="T", help="of decoding (default: the model's)")
    add("--negative", metavar="TEXT", help="a text to be guided away from")
    add("--sampler", default="ddim", help="default: %(default)s")
    add("--eta", type=float, default=0.0, help="0...1: share of fresh noise a step")
    add("--batch", type=int, help="texts generated at a time")
    add("--shard-size", type=int, default=1000, help="samples a webdataset shard (default: 1000)")
    again = "caption also what is done, and replace captions that somebody else has written"
    add("--again", action="store_true", help=again)
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    add("--device", help="cpu, cuda, mps (default: the best one here)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="default: by the hardware")
    add("--json", action="store_true", help="print one JSON document: record and captions")
    add("--quiet", action="store_true", help="no progress bar, no warnings")


def run(args: argparse.Namespace) -> int:
    """Caption, as the command line asks; prints where the captions are.

    Returns:
        0.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    import torch

    from analysis.folders.caption import caption_folder, check_options
    from data.folders import pictures_below, shown
    from lib.checkpoints.weights import load

    level = logging.ERROR if args.quiet else logging.WARNING
    logging.basicConfig(level=level, format="warning: %(message)s")
    check_options(args.format, args.n, args.seed, args.batch, args.shard_size)
    pictures_below(args.folder)  # before the model is loaded
    negative = ("text_context",) if args.negative else ()
    vd = load(
        args.model,
        flows=["i2t"],
        components=("clip_text", *negative),
        encoders=False,
        device=args.device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    try:
        done = caption_folder(
            vd,
            args.folder,
            args.out,
            form=args.format,
            n=args.n,
            seed=args.seed,
            batch_size=args.batch,
            shard_size=args.shard_size,
            again=args.again,
            progress=not args.quiet,
            steps=args.steps,
            scale=args.scale,
            temperature=args.temperature,
            negative_prompt=args.negative,
            sampler=args.sampler,
            eta=args.eta,
        )
    except KeyboardInterrupt:
        print("what was captioned is kept: the same command goes on from here", file=sys.stderr)
        raise
    if args.json:
        told = {"out": str(done.out), **done.record, "captions": [r.describe() for r in done.rows]}
        print(json.dumps(told, indent=2))
        return 0
    for why in () if args.quiet else done.broken.values():
        print(f"passed over: {why}", file=sys.stderr)
    counts = f"{len(done.rows)} captioned ({done.new} of them now), {len(done.broken)} broken"
    kept = f", {len(done.kept)} left with the captions they have" if done.kept else ""
    print(f"{shown(done.out)}  {counts}{kept}")
    return 0
