"""Files of weights: layout, journal, precisions, quantisation."""
