"""The parts of a run: each measures or checks one thing in a process of its own."""
