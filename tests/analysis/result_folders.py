"""Folders of results, hostile ones among them, as the page of results finds them."""

import json
from pathlib import Path

from PIL import Image

from analysis.results.outputs import Result, save

HOSTILE = (
    "</script><script>window.struck = 1</script><img src=x onerror='window.struck = 1'> \"'&amp; "
    "{{script}} <!--\nsecond line \u2028 \u2029 日本 🎉 ]]>"
)
ODD = "100% #1? a&b 'c' é.png"
NAMES = [f"{k:04d}_a-red-ring_seed{20 + k - 1}.png" for k in (1, 2)]


def pictures(prompt: str, seeds=(20, 21), side: int = 8, **settings) -> Result:
    record = {"mode": "t2i", "steps": 50, "scale": 3.0, **settings}
    samples = [{"prompt": prompt, "seed": seed} for seed in seeds]
    images = [Image.new("RGB", (side, side), (40 * (k + 1), 90, 160)) for k in range(len(seeds))]
    return Result(record["mode"], {**record, "samples": samples}, images=images)


def words(text: str, seed: int = 1) -> Result:
    record = {"mode": "i2t", "samples": [{"input": {"file": "heart.png"}, "seed": seed}]}
    return Result("i2t", record, texts=[text])


def fill(folder: Path) -> Path:
    """Results of two modes, one of them hostile, a file with an odd name, and a report."""
    save(pictures("a red ring"), folder)
    save(
        pictures("a red ring", (20,), steps=12, model={"name": "x", "weights": {"u": "0a"}}), folder
    )
    save(pictures(HOSTILE, (99,)), folder)
    save(words("a black heart on cream"), folder)
    save(words("a black star on white", 2), folder)
    Image.new("RGB", (600, 300)).save(folder / "t2i" / ODD)
    run = folder / "evaluation" / "run 1"
    run.mkdir(parents=True)
    protocol = {"run": "run <1>", "model": {"name": "vd-mini"}, "settings": {"n": 7, "suite": "s"}}
    (run / "report.json").write_text(json.dumps({"protocol": protocol, "measures": {}}))
    (run / "report.md").touch()
    (run / "picture.png").touch()  # what an evaluation keeps is its own
    return folder
