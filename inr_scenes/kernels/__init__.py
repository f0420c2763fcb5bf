"""Fused kernels, each beside its reference in plain torch; nothing here imports Triton before it is needed."""
