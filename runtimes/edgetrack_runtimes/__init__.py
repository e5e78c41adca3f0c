"""Sessions over named tensors."""
