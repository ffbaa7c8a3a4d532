"""Pruning: which channels to give up at a known loss, by weights or by calibration data. It only writes zeros."""
