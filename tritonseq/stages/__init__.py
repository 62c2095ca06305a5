"""The stages of a pipeline: read, tokenize, generate, detokenize, write, all at once."""
