"""The HDF5 trajectory file: its layout, its reader and its writer. Knows nothing of what is above it."""
