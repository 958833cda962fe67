"""How far two arrays are apart, how far they may be, and the record of it."""
