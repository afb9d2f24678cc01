"""Running a part as a user who may do less than the one who runs the tests."""

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory that everybody may enter; tmp_path is for its owner alone."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_nobody(call: Callable[[], Any]) -> Any:
    """Runs `call` in a process of the user nobody."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    reading, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            answer = call()
        except BaseException as error:
            answer = repr(error)
        os.write(writing_end, pickle.dumps(answer))
        os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(data)
