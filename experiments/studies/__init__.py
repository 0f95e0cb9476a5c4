"""The studies: comparisons of many trained runs."""
