"""The machine: devices, free memory, and what is installed."""
