"""`python -m training STAGE`: make the weights of a Versatile Diffusion.

    python -m training all                                the embedded toy model, stage by stage
    python -m training all --data emoji --runs runs/emoji --out runs/emoji/model
    python -m training clip --data FOLDER --init vd-emoji  on captioned pictures of your own
    python -m training flows --flows t2i i2i --freeze text_context
    python -m training flows --preset paper-four --init vd-four-flow-v1-0 --dry-run

Stages: classifier (to measure with, no part of the model), autoencoder, clip, optimus, flows.
Ctrl-C at any moment loses at most the steps since the last checkpoint; the same command goes on.
Finished stages are not repeated.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from lib.__main__ import Parser, status_of
from lib.checks import number, whole_number

STAGES = ("classifier", "autoencoder", "clip", "optimus", "flows")
FLOWS = ("t2i", "i2i", "i2t", "t2t")
GROUPS = ("time_embed", "image_data", "text_data", "image_context", "text_context")
PRESETS = ("scenes", "small", "paper-single", "paper-dual", "paper-four")
KINDS = ("scenes", "emoji", "pictures of your own")
OF_STAGES = {
    **dict.fromkeys(("flows", "freeze", "lora", "lora_layers", "min_snr", "shard"), ("flows",)),
    **dict.fromkeys(("out", "max_file", "checkpoint_activations", "scenes"), STAGES[1:]),
    "cached": ("flows",),
    "exchanged": ("optimus", "flows"),
    "anchor": ("optimus",),
    "teacher": ("clip",),
    "judge": ("classifier",),
}
"""Option -> the stages that it acts on, where these are not all."""
OF_DATA = {
    **dict.fromkeys(("scenes", "cached", "exchanged"), KINDS[:1]),
    **dict.fromkeys(("side", "fit", "mirror", "min_side", "max_watermark"), KINDS[2:]),
    **dict.fromkeys(("clean", "outside"), KINDS[2:]),
    "judge": KINDS[:2],
}
"""Option -> the data that it is about, where these are not all."""
ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Train, say what was measured; returns the exit status (`lib.__main__.status_of`)."""
    parser = _parser()
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    if args.out is None:  # what people train takes the place of none of our models
        vd_mini = ROOT / "pretrained" / "vd-mini"
        args.out = vd_mini if args.data == "scenes" else args.runs / "model"
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    again = "stopped; the same command goes on from the last checkpoint"
    return status_of(lambda: _train(args, given), "Try a smaller --batch.", again)


def _train(args: argparse.Namespace, given: set[str]) -> int:
    names = (args.stage,)
    if args.stage == "all":  # what people bring has no attributes that a classifier could read
        names = STAGES if args.data in KINDS else STAGES[1:]
    _check_used(args, given, names)

    from training import stages  # torch and transformers load here: --help stays quick

    for name in names:
        if args.dry_run:
            from training.plan import plan

            print(plan(name, args))
            continue
        measured = stages.run(name, args)
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in measured.items()))
    return 0


def _check_used(args: argparse.Namespace, given: set[str], stages: tuple[str, ...]) -> None:
    """ValueError if an option was given that nothing would look at."""
    data = args.data if args.data in KINDS else KINDS[2]
    for name in sorted(given):
        flag = f"--{name.replace('_', '-')}"
        acts, about = OF_STAGES.get(name, STAGES), OF_DATA.get(name, KINDS)
        if not {*acts} & {*stages}:
            raise ValueError(
                f"{flag} does nothing in stage {args.stage}: it is for {', '.join(acts)}; leave it "
                "out."
            )
        if data not in about:
            raise ValueError(
                f"{flag} does nothing with --data {args.data}: it is for {' and '.join(about)}; "
                "leave it out."
            )
    if "lora_layers" in given and args.lora is None:
        raise ValueError("--lora-layers says what --lora RANK adapts: give both, or neither.")
    if args.lora is not None and (unused := given & {"freeze", "max_file"}):
        raise ValueError(
            f"--{max(unused).replace('_', '-')} does nothing with --lora, which trains adapters "
            "alone and writes one small file: leave one of them out."
        )
    if args.shard and args.stage == "all":
        raise ValueError("--shard divides the diffuser: give it with stage flows, the last one.")
    if args.shard and args.optimizer == "muon":
        raise ValueError(
            "Muon moves whole matrices, which --shard divides: leave out one of the two, or give "
            "--optimizer adamw."
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("stage", choices=(*STAGES, "all"), help="what to train")
    add("--data", default="scenes", help="scenes, emoji, or captioned pictures of your own")
    add("--init", metavar="MODEL", help="begin from a model's weights, or from a run's .pt file")
    add("--preset", choices=PRESETS, help="recipes (default: those of the data)")
    add("--runs", type=Path, default=ROOT / "runs", help="checkpoints and logs")
    add("--out", type=Path, help="model folder (default: RUNS/model; of scenes, vd-mini's)")
    add("--max-file", type=_megabytes, metavar="MB", help="files of weights of at most so many MB")
    add("--judge", type=Path, help="the classifier's folder (default: that of the data)")
    add("--dry-run", action="store_true", help="say what it would take, load and train nothing")
    add("--steps", type=_positive, help="optimizer steps instead of the recipe's")
    add("--batch", type=partial(_positive, most=10**5), help="batch size instead of the recipe's")
    what = "batches whose gradients make one step"
    add("--accumulate", type=partial(_positive, most=10**4), help=what)
    rate = partial(_real, low=1e-12, high=1)
    add("--lr", type=rate, help="peak learning rate instead of the recipe's")
    add("--optimizer", choices=("adamw", "muon"), help="instead of the recipe's")
    what = "of fresh weights, order and noise (default 0); what is encoded once stays the same"
    add("--seed", type=partial(_positive, least=0), help=what)
    add("--flows", nargs="+", choices=FLOWS, help="train these only")
    add("--freeze", nargs="+", choices=GROUPS, help="parts of the diffuser that stay as they are")
    what, rank = "train adapters of that rank, not weights", partial(_positive, most=4096)
    add("--lora", type=rank, metavar="RANK", help=what)
    add("--lora-layers", choices=("cross", "attention"), default="cross", help="what is adapted")
    what, gamma = "weigh timesteps by min(SNR, GAMMA) / SNR", partial(_real, low=1e-3, high=1e6)
    add("--min-snr", type=gamma, metavar="GAMMA", help=what)
    real = partial(_real, low=0, high=1000)
    add("--anchor", type=real, metavar="WEIGHT", help="the text VAE's latents stay in place")
    share = partial(_real, low=0, high=1)
    add("--exchanged", type=share, metavar="SHARE", help="of scenes' captions: words exchanged")
    add("--teacher", action="store_true", help="CLIP learns from a network's frozen features, too")
    add("--scenes", type=partial(_positive, most=10**7), default=80_000, help="scenes in the pool")
    add("--cached", type=_positive, default=48_000, help="scenes encoded for the flows")
    add("--side", type=_positive, help="pixels a side of pictures of your own")
    add("--outside", action="store_true", help="lists may name pictures outside of their folder")
    add("--fit", default="crop", choices=("squeeze", "crop", "pad"), help="of other shapes")
    add("--mirror", action="store_true", help="captions of your own name no sides")
    add("--min-side", type=_positive, default=1, help="originals at least so large, in pixels")
    what, share = "probability that img2dataset noted", partial(_real, low=0, high=1)
    add("--max-watermark", type=share, default=1.0, help=what)
    add("--clean", action="store_true", help="clean captions: addresses, markup, brackets")
    add("--checkpoint-activations", action="store_true", help="less memory, a third more time")
    add("--shard", action="store_true", help="divide the diffuser over the processes (FSDP)")
    add("--track", nargs="+", metavar=("TRACKER", "DIR"), help="accelerate's, such as tensorboard")
    add("--threads", type=partial(_positive, most=1024), help="CPU threads (default: all cores)")
    add("--device", default="cpu", help="cpu, cuda or mps")
    return parser


def _positive(text: str, most: int = 10**9, least: int = 1) -> int:
    try:
        return whole_number("it", int(text), least, most)
    except ValueError:
        what = f"{text[:40]!r}: give a whole number from {least} to {most}"
        raise argparse.ArgumentTypeError(what) from None


def _megabytes(text: str) -> int:
    return _positive(text, 10**6) * 1_000_000


def _real(text: str, low: float, high: float) -> float:
    try:
        return number("it", float(text), low, high)
    except ValueError:
        what = f"{text[:40]!r}: give a number from {low:g} to {high:g}"
        raise argparse.ArgumentTypeError(what) from None


if __name__ == "__main__":
    sys.exit(main())
