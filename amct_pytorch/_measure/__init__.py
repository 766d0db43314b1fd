"""Measuring a decomposed model against its original: pairing of layers, timing, and the reports."""
