"""Requests in slots: inputs, lengths, memory, CUDA graphs, and the loop that steps them."""
