"""What export needs: configuration, graphs, reference."""
