"""Jobs for one accelerator, each a single command; see README.md for their order."""
