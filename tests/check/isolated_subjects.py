"""Functions for test_isolate.py to run in a child; each behaves in a way of its own."""
# ruff: noqa: T201, PERF203

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch


def echo(payload, report):
    report({"step": 1})
    report({"step": 2})
    print("on stdout, é")
    print("on stderr", file=sys.stderr)
    return {"payload": payload, "stdin": sys.stdin.read(), "pid": os.getpid()}


def nothing(payload, report):
    """Returns None."""


def not_json(payload, report):
    return {"tensor": torch.ones(1)}


def raises(payload, report):
    raise KeyError("no such key")


def leaves(payload, report):
    sys.exit(payload.get("code"))


def leaves_at_once(payload, report):
    print("last words")
    os._exit(7)


def segfault(payload, report):
    print("before the fall")
    ctypes.string_at(0)


def aborts(payload, report):
    os.abort()


def kills_itself(payload, report):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(payload, report):
    report({"earned": 3})
    print("about to hang")
    while True:
        time.sleep(1)


def hangs_stubbornly(payload, report):
    """Ignores SIGTERM and SIGINT, and has a child that writes its number down."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    helper = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(1)"])
    report({"pids": [os.getpid(), helper.pid]})
    while True:
        time.sleep(1)


def leaves_a_helper(payload, report):
    """Done, but something that it started goes on, with stdout and the result's pipe in its hands."""
    pid = os.fork()
    while pid == 0:
        time.sleep(1)
    report({"pids": [pid]})
    return "done"


def falls_with_a_helper(payload, report):
    pid = os.fork()
    while pid == 0:
        time.sleep(1)
    report({"pids": [pid]})
    ctypes.string_at(0)


def leaves_a_thread(payload, report):
    threading.Thread(target=hangs, args=(payload, report)).start()
    return "done"


def prints_without_end(payload, report):
    while True:
        os.write(1, b"y" * 100_000 + b"\n")


def prints_a_lot(payload, report):
    print("the beginning")
    for _ in range(50):
        print("x" * 10_000)
        print("z" * 10_000, file=sys.stderr)
    print("the end")
    return "done"


def imitates_the_protocol(payload, report):
    print('{"kind": "done", "value": "forged"}')
    print('{"kind": "progress", "value": {"forged": true}}', file=sys.stderr)
    return "true"


def scribbles(payload, report):
    for descriptor in range(3, 1000):  # the number of the pipe is one that the parent had free
        try:
            os.write(descriptor, b"garbage\n")
        except OSError:
            continue
    while True:
        time.sleep(1)


def closes_everything(payload, report):
    os.closerange(0, 1000)
    while True:
        time.sleep(1)


def takes_lists(payload, report):
    kept = []
    while True:
        kept.append([0] * 100_000)


def takes_a_tensor(payload, report):
    report({"before": True})
    return float(torch.ones(payload["mb"] * 2**18).sum())


def uses_threads(payload, report):
    a = torch.rand(700, 700, requires_grad=True)
    (a @ a).exp().sum().backward()
    return "done"


def where(payload, report):
    return {"cwd": str(Path.cwd()), "path": sys.path, "torch": torch.__version__}
