"""Few-shot images: data sets by name, their cache and their class splits."""
