"""Where RGB-D pairs come from."""
