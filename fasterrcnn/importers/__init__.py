"""Other people's checkpoints: read safely, recognised, translated both ways."""
