"""Text to ids and back, by the files of a tokenizer. Without torch."""
