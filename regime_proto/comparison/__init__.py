"""Compares several runs with each other and with the published ones."""
