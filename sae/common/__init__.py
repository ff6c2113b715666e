"""What every part of sparsteer needs: errors, files, checksums, paths, devices, text."""
