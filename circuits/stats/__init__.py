"""Statistics on plain tensors, which know nothing of models."""
