"""From the files of a checkpoint to a network with its weights."""
