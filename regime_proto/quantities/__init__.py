"""What is measured of every state beside the protocol's own changes: one module for each quantity."""
