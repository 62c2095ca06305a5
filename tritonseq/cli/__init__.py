"""The command line: `tritonseq generate | demo | bench | env`."""
