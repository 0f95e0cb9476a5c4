"""The ledger: published rows, how they are trained here, and what came out."""
