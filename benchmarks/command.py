"""One `inr` command in a process of its own: what it says, how long it takes, and the most memory it holds."""

import json
import os
import subprocess
import sys
import tempfile
import time


def measured(*words) -> tuple[dict, float, float]:
    """Run one command; return its JSON result, its seconds and its peak memory in GiB, or exit with its message."""
    command = [sys.executable, "-W", "ignore", "-m", "inr_scenes", *map(str, words), "--json"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        tick = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode, seconds = os.waitstatus_to_exitcode(status), time.perf_counter() - tick
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            sys.exit(f"inr {' '.join(map(str, words))}\n{err.read().decode().strip()}")
        return json.loads(out.read()), seconds, usage.ru_maxrss / 2**20
