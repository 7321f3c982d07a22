"""One trigger played at many loads, sizes and policies: where a system does not come back by itself."""
