"""`measured.py CORE COMMAND…`: run a command on one core, then print its time and memory as one line of JSON.

This is a separate small process, because a child's peak memory starts with what its parent held at the fork.
"""

import json
import os
import resource
import subprocess
import sys
import time

if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    started = time.perf_counter()
    code = subprocess.call(sys.argv[2:])  # the command is the point
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    values = {
        "code": code,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }
    sys.stdout.write("\n" + json.dumps(values) + "\n")
