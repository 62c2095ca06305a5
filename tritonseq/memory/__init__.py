"""Buffers with one entry per sample: KV caches, huge pages, trees of tensors."""
