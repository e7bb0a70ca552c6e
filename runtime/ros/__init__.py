"""ROS messages as arrays and back; nothing here needs ROS itself."""
