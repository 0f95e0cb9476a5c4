"""Where episodes come from: each family draws one `Episode` from one PRNG key, on the device."""
