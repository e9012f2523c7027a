"""What the command `ltaug` does, besides its command line."""
