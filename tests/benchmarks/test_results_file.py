"""Result files go on where they were, and commands end as they should."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from benchmarks.results_file import ResultsFile, run_command
from grnet_jax.errors import InputError


def test_rows_are_written_as_they_finish_and_found_again(tmp_path):
    first = ResultsFile("measured", "python -m one", ("model", "seed"), tmp_path)
    assert first.find(model="a", seed=0) is None
    first.add({"model": "a", "seed": 0, "value": 1})
    first.add({"model": "a", "seed": 1, "value": 2})
    second = ResultsFile("measured", "python -m two", ("model", "seed"), tmp_path)
    assert second.find(model="a", seed=1)["value"] == 2
    second.add({"model": "a", "seed": 0, "value": 3})
    content = json.loads((tmp_path / "measured.json").read_text())
    assert content["command"] == "python -m two"
    found = {(row["seed"], row["value"], row["command"]) for row in content["rows"]}
    assert found == {(0, 3, "python -m two"), (1, 2, "python -m one")}
    assert content["rows"][0].keys() >= {"commit", "machine"}
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [1]}', '{"rows": [{}]}', '{"rows": 1}'])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "measured.json").write_text(content)
    with pytest.raises(InputError, match=r"measured\.json: not the results of a benchmark"):
        ResultsFile("measured", "python -m one", ("model", "seed"), tmp_path)


def test_a_commands_failure_is_ours(tmp_path):
    run_command("-c", "pass")
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_command("-c", "import sys; sys.exit(3)")
    assert error.value.returncode == 3


def test_a_signal_reaches_the_command_which_may_finish(tmp_path):
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = (
        "import pathlib, signal, time\n"
        f"note = lambda *_: pathlib.Path({str(saved)!r}).touch()\n"
        "signal.signal(signal.SIGTERM, note)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        f"while not pathlib.Path({str(saved)!r}).exists(): time.sleep(0.01)\n"
    )

    def stop():
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    with pytest.raises(SystemExit) as error:
        run_command("-c", code)
    thread.join()
    assert error.value.code == 128 + signal.SIGTERM
    assert saved.exists()
    assert signal.getsignal(signal.SIGTERM) is before
