"""Files on disk: hashes, atomic writes, locks, the cache folder."""
