"""The command glimpse-export, and its form for optimum-cli."""
