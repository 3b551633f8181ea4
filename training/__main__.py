"""`python -m training STAGE`: make the embedded model's weights.

    python -m training all              every stage in order; finished stages are not repeated
    python -m training flows            one stage; goes on from its last checkpoint
    python -m training flows --steps 100 --runs runs/trial --out runs/trial/model

Stages: judge, autoencoder, clip, optimus, flows. Ctrl-C at any moment loses at most the steps since
the last checkpoint; the same command goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

STAGES = ("judge", "autoencoder", "clip", "optimus", "flows")
ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, train, say what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("stage", choices=(*STAGES, "all"), help="what to train")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="checkpoints and logs")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "pretrained" / "vd-mini", help="model folder"
    )
    parser.add_argument(
        "--judge", type=Path, default=ROOT / "pretrained" / "judge", help="judge folder"
    )
    parser.add_argument("--steps", type=_positive, help="optimizer steps instead of the recipe's")
    parser.add_argument("--batch", type=_positive, help="batch size instead of the recipe's")
    parser.add_argument("--lr", type=float, help="peak learning rate instead of the recipe's")
    parser.add_argument("--scenes", type=_positive, default=80_000, help="scenes in the pool")
    parser.add_argument(
        "--cached", type=_positive, default=48_000, help="scenes encoded for the flows"
    )
    parser.add_argument(
        "--warm-start",
        type=Path,
        metavar="FOLDER",
        help="begin from the finished weights of a model folder instead of from nothing",
    )
    parser.add_argument("--threads", type=_positive, help="CPU threads (all cores by default)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from training import stages  # torch and transformers load here: --help stays quick

    names = STAGES if args.stage == "all" else (args.stage,)
    try:
        for name in names:
            measured = stages.run(name, args)
            print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in measured.items()))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: give a positive whole number")
    return value


if __name__ == "__main__":
    sys.exit(main())
