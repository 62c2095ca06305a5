"""Which token comes next: processors, searches, hypotheses, stopping. Knows no model."""
