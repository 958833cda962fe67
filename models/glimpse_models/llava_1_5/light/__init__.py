"""What the runtime needs: numpy and Pillow, nothing of export."""
