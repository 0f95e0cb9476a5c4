"""Long campaigns of random inputs, kills and damages: pytest -m slow tests/campaigns."""
