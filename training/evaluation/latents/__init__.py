"""What the latents of a dictionary stand for, and whether others have them, too."""
