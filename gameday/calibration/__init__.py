"""`gameday calibrate`: what a window of measurements says of an application, ours or not."""
