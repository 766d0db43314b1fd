"""Fitting factors to calibration data."""
