"""Thin bridges to video files, ROS 2 and dora; the core imports none of them, and each has its own extra."""
