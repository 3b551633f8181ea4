"""A campaign against the whole: thousands of bad inputs, and kills at any moment.

    python -m tests.campaign --minutes 5 --seed 1

`kinds` and `sets` say what is tried in the process itself, with hypothesis's strategies
(`strategies`); `kills` and `places` need processes and disks of their own. `worker` runs a chunk of
inputs in a forked process and judges each, `table` counts.
"""
