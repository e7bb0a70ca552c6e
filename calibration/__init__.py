"""Checked, selected and hashed sets of RGB-D pairs to calibrate on."""
