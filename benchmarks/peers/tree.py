"""Runs a command and prints the CPU seconds of it and of all its descendants, orphans too (Linux).

python tree.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 20


def main(command: list[str]) -> int:
    """Run, wait for everybody, print a line of JSON."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command, start_new_session=True)
    status = None
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGTERM))
    while True:
        try:
            pid, ended = os.wait()
        except ChildProcessError:
            break
        if pid == process.pid:
            status = os.waitstatus_to_exitcode(ended)
            signal.alarm(GRACE_S)  # daemons that the command left behind
    signal.alarm(0)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "status": status}), flush=True)
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
