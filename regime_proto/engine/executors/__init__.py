"""Who carries out the work: the threads of this process, or the workers of a Dask cluster."""
