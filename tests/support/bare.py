"""Processes that lack libraries: forked from one that reads and measures checkpoints, and has imported no framework.

`children` has torch in its hands already; here what has been imported is what regime itself imports.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import children
from folders import SUPPORT

_SERVER = """
import json, os, sys, traceback
import regime_proto.cli.main, regime_proto.conversion.run
import regime_proto.plugins.open_directory, regime_proto.plugins.registry

regime_proto.plugins.registry.adapters()

def work(code, arguments, without, folder):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["-c", *arguments]
    try:
        for name in without:
            assert name not in sys.modules, f"{name} is imported although nobody has asked for it"
            sys.modules[name] = None
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0

print(sum(os.times()[:2]), flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(work(*json.loads(line)))
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
"""


def run(code, *arguments, without=()):
    """Run Python code to its end in a process in which some libraries cannot be imported.

    Parameters
    ----------
    code : str
    *arguments
        Its ``sys.argv[1:]``.
    without : iterable of str
        Names of modules.
    """
    server = _server()
    with tempfile.TemporaryDirectory(prefix="regime-bare-") as folder:
        what = (code, [str(argument) for argument in arguments], list(without), folder)
        server.stdin.write(json.dumps(what) + "\n")
        server.stdin.flush()
        status, seconds = server.stdout.readline().split()
        children.spent.append(float(seconds))
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([], int(status), out, err)


@cache
def _server():
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=SUPPORT, env=dict(os.environ),
    )  # fmt: skip
    children.spent.append(float(server.stdout.readline()))
    atexit.register(server.communicate)
    return server
