"""Tables and figures, made from the kept results."""
