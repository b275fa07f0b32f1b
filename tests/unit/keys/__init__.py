"""Key custodians and the key ring."""
