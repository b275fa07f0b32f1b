"""Key custodians and the ring of wrapped keys."""
