"""One part in a process of its own: `python -m suite.child NAME MODULE SETTING RECORD`.

It imports what the part needs, then waits for the number of seconds that it may take on its
standard input, so that imports overlap with the part before it. When that input closes, its
parent is gone, and the process ends with all that it has started.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from .setting import Setting
from .task import Task


def main(name: str, module: str, setting: str, record: str) -> int:
    part = importlib.import_module(module)
    seconds = sys.stdin.readline()
    if not seconds:
        return 1
    threading.Thread(target=end_with_parent, daemon=True).start()
    task = Task(name, Setting.load(Path(setting)), Path(record), float(seconds))
    try:
        part.run(task)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        task.fail(name, f"{type(error).__name__}: {error}")
    return 0 if task.close() else 1


def end_with_parent() -> None:
    # Not through sys.stdin, whose lock would hang the interpreter at its end.
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
