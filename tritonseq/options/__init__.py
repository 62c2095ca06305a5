"""What a caller may pass, checked: options of `generate`, containers, ids."""
