"""Networks as flax.linen modules: `init` and `apply` are pure functions of a parameter pytree."""
