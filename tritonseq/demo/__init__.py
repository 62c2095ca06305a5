"""The embedded checkpoints and their tasks, whose every answer can be checked."""
