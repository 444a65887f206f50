"""Who may talk to the service, how often, and over what; what its answers and logs must not give away."""
