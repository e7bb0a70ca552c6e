"""What runs on the device: sessions, sources, streaming, sinks and comparison."""
