"""Executors of the work: threads of this process, other local processes, or workers of a Dask cluster."""
