"""What happens inside the model while it runs: recordings, twins of its steps, figures."""
