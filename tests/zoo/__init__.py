"""Builders of test models: traps, re-randomised light networks and classic architectures with planted zeros."""
