"""One generator per sample: alone, in any batch, the same numbers."""

import pytest
import torch

from lib.noise import OfficialNoise, SampleNoise, draw_seed


def test_a_sample_does_not_depend_on_its_batch():
    together, alone = SampleNoise([1, 2, 3]), SampleNoise([2])
    for _ in range(3):
        assert torch.equal(together.normal((4, 2))[1], alone.normal((4, 2))[0])
        assert torch.equal(together.uniform()[1], alone.uniform()[0])


def test_the_first_draw_is_torch_s_own():
    wanted = torch.randn(5, generator=torch.Generator().manual_seed(11))
    assert torch.equal(SampleNoise([11]).normal((5,))[0], wanted)


def test_official_noise_adds_100_and_goes_on_as_torch_s_own_generator_does():
    noise = OfficialNoise(20, 3)
    torch.manual_seed(120)
    for _ in range(2):
        assert torch.equal(noise.normal((4, 2)), torch.randn(3, 4, 2))
    assert torch.equal(noise.uniform(), torch.rand(3))


def test_rows_of_official_noise_are_those_of_the_whole_batch():
    whole, some = OfficialNoise(20, 4), OfficialNoise(20, 4, rows=[2, 0, 2])
    assert (len(whole), len(some)) == (4, 3)
    for draw in ("normal", "uniform", "normal"):
        assert torch.equal(getattr(some, draw)((5,)), getattr(whole, draw)((5,))[[2, 0, 2]])
    for rows in ([4], [-1]):
        with pytest.raises(ValueError, match=r"choose from 0 \.\.\. 3"):
            OfficialNoise(20, 4, rows)
    for seed in (2**63 - 100, -1):
        with pytest.raises(ValueError, match="give an integer from 0"):
            OfficialNoise(seed, 1)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", True, None])
def test_impossible_seeds(seed):
    with pytest.raises(ValueError, match="give an integer from 0"):
        SampleNoise([seed])


def test_drawn_seeds_are_accepted_and_differ():
    seeds = {draw_seed() for _ in range(20)}
    SampleNoise(sorted(seeds))
    assert len(seeds) == 20
