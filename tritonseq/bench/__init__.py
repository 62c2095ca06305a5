"""Measurements of a machine: what `tritonseq bench` runs."""
