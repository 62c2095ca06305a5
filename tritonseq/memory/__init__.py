"""Buffers with one entry per sample: KV caches, on huge pages of the host."""
