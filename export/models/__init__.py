"""Two-stream fusion networks: encoders, fusion blocks, hosts and their registry."""
