"""Executes a plan: constants sliced, biases and carriers filled, shape operands following; and writes the map."""
