"""The parts of the GPU suite, and what runs them; the command is `gpu_suite.py`."""
