"""The quantities that can be measured: one module for each."""
