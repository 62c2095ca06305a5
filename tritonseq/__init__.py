"""Fast exact generation with encoder-decoder and small decoder models."""
