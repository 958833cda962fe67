"""The pruning methods that come with the package, one file each."""
