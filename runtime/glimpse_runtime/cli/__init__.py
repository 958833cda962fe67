"""The commands glimpse-run and glimpse-inspect: parse, one call of the library, print."""
