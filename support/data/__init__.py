"""Where digits come from: IDX files, the cache, a mirror, the bundled digits."""
