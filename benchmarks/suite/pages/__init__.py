"""What a run has found, as figures, tables and a chart."""
