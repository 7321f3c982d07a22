"""What can be changed about a system: its configuration, its knobs, and how a user would write the change."""
