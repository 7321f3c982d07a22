"""The components of an install, one file each: functions that return the objects they consist of."""
