"""A local Ray of two actors writes the files of one process."""

import pytest

from analysis.modes import text_to_image
from analysis.modes.job import make
from analysis.modes.on_ray import make_on_ray

PROMPTS = ["a red circle", "a blue square", "a green star"]


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a machine that is busy
    ray = pytest.importorskip("ray", reason="Ray is no requirement: pip install 'ray[data]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


# Ray's own
@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")
def test_two_actors_write_what_one_process_writes(cluster, vd, model_folder, tmp_path):
    paths = make_on_ray(
        str(model_folder), "t2i", PROMPTS, tmp_path / "ray", seed=3, n=2, part=1, steps=2
    )
    make(text_to_image.job(vd, PROMPTS, n=2, seed=3, steps=2), tmp_path / "one", progress=False)
    one = sorted(path.name for path in (tmp_path / "one" / "t2i").glob("*.png"))
    assert [path.rpartition("/")[2] for path in paths] == one and len(one) == 6
    again = make_on_ray(
        str(model_folder), "t2i", PROMPTS, tmp_path / "ray", seed=3, n=2, part=2, steps=2
    )
    assert again == paths
    assert not list((tmp_path / "ray" / "t2i").glob(".*"))


@pytest.mark.parametrize(("mode", "inputs"), [("t3i", ["a"]), ("t2i", [])])
def test_another_mode_and_no_inputs_are_refused(mode, inputs, tmp_path):
    with pytest.raises(ValueError, match="give one of t2i"):
        make_on_ray("vd-mini", mode, inputs, tmp_path, seed=1)
