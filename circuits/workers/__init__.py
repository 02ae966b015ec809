"""Who measures: this process, or processes of Ray."""
