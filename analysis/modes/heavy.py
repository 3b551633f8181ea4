"""What takes seconds to import, for modes: each is imported when something of it is first used.

So a mode declares its options without torch, and `--help` answers at once. Types are named by these
modules, too (`jobs.Job`, `torch.Tensor`): annotations are never evaluated.
"""

from lib.lazy import Lazy

torch = Lazy("torch")
functional = Lazy("torch.nn.functional")
tqdm = Lazy("tqdm")
jobs = Lazy("analysis.modes.build")
sources = Lazy("analysis.modes.source")
sampling = Lazy("analysis.modes.sampling")
color = Lazy("analysis.modes.color")
results = Lazy("analysis.results.result")
pictures = Lazy("data.pictures")
model = Lazy("lib.model")
noises = Lazy("lib.noise")
samplers = Lazy("lib.sampler")
fingerprints = Lazy("lib.fingerprints")
