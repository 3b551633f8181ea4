"""Arrays that are kept: as numpy writes them, and none that is damaged."""

import errno
import io
import resource
from contextlib import contextmanager

import numpy as np
import pytest

from data.arrays import kept_array, write_array


@contextmanager
def little_room(size: int):
    """No file may be of more bytes: as on a full disk, the system takes a part and then none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float16)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_parts_become_what_numpy_writes_of_the_whole(array, tmp_path, step):
    path, numpys = tmp_path / "x.npy", io.BytesIO()
    write_array(path, 7, (array[k : k + step] for k in range(0, 7, step)))
    np.save(numpys, array)
    assert path.read_bytes() == numpys.getvalue()
    assert np.array_equal(kept_array(path, 7), array)
    write_array(path, 7, [np.asfortranarray(array)])
    assert np.array_equal(kept_array(path, 7), array)


def test_what_is_not_whole_is_not_kept(array, tmp_path):
    path = tmp_path / "x.npy"
    assert kept_array(path, 7) is None
    write_array(path, 7, [array])
    good = path.read_bytes()
    assert kept_array(path, 8) is None
    for damaged in (b"", good[:5], good[:50], good[:-1], b"x" + good[1:], b"[" * 100_000):
        path.write_bytes(damaged)
        assert kept_array(path, 7) is None
    np.save(path, np.float16(3))
    assert kept_array(path, 7) is None
    with path.open("wb") as file:
        np.savez(file, array)
    assert kept_array(path, 7) is None


def test_a_full_disk_is_what_the_system_says(array, tmp_path):
    with little_room(140), pytest.raises(OSError) as error:
        write_array(tmp_path / "x.npy", 7, [array[:2], array[2:]])
    assert error.value.errno == errno.EFBIG
