"""Where the control plane learns the truth from."""
