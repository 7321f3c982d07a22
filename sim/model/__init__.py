"""The meshed application as a discrete-event model. `system.System` puts the parts together; start reading there."""
