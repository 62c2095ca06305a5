"""The command as a process: `python -m tritonseq`, and what is installed as `tritonseq`."""

import signal
import sys


def run() -> int:
    """The exit code; 130 also for Ctrl-C while everything is still being imported."""
    try:
        from tritonseq.cli.main import main

        return main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 130


if __name__ == "__main__":
    sys.exit(run())
