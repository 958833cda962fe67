"""A ROS 2 node that answers questions about a camera; see docs/use/robots.md for its topics and parameters.

python examples/ros2_node.py --ros-args -r image:=/camera/image_raw -p timeout_s:=0.5
"""

from glimpse_runtime.adapters.ros2 import main

if __name__ == "__main__":
    main()
