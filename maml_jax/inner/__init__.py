"""One task: the inner loop, and how gradients flow through it."""
