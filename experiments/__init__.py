"""Command-line programs: thin binaries over maml_jax."""
